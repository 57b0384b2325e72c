"""Whether a run has collapsed, looked at after each epoch: catastrophic overfitting."""

from dataclasses import replace

from ccnotes.checkpoints import State
from ccnotes.data import Split
from ccnotes.experiments import Experiment
from ccnotes.models import Network
from ccnotes.monitor import accuracy

STEPS = 5  # of the attack on the batch that is watched, and
FALL = 0.2  # of the accuracy on it that is a collapse: both as in Wong et al. (2020)


def look(
    state: State, model: Network, batch: Split, e: Experiment, precision: str, epoch: int
) -> bool:
    """Whether the run is seen to have collapsed now, as far as it is watched.

    That is where its accuracy on attacked training images, always the same ``batch``, is more than
    :data:`FALL` below the best so far (Wong, Rice and Kolter, 2020; arXiv:2001.03994). ``state``
    gets the accuracy, in [0, 1], and, until the first collapse, the network.

    >>> from ccnotes.experiments import dataset
    >>> from ccnotes.models import ConvNet
    >>> from ccnotes.onestep import fgsm
    >>> e, state = Experiment(train_size=12, attack=fgsm(0.05)), State(fingerprint="", device="")
    >>> look(state, ConvNet(6, 4), dataset(e).train, e, "float32", epoch=1)
    False
    >>> [row["epoch"] for row in state.watched], state.before["epoch"]
    ([1], 1)
    """
    seen = state.watched
    if not e.watched or (seen and seen[-1]["epoch"] == epoch):  # which a checkpoint had
        return False
    found = accuracy(model, batch, replace(e.eval_attack, steps=STEPS), e, precision)
    best = max((row["accuracy"] for row in seen), default=0.0)
    seen.append({"epoch": epoch, "accuracy": found})
    if state.collapsed:
        return False
    if found < best - FALL:
        state.collapsed = epoch
        return True
    weights = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    state.before = {"epoch": epoch, "weights": weights}
    return False


def collapse_seen(state: State, e: Experiment) -> str:
    """What to say of a collapse."""
    best = max(row["accuracy"] for row in state.watched)
    now = "it stops here" if e.on_collapse == "stop" else "it goes on; on_collapse='stop' stops"
    return (
        f"{e.name} seed {e.seed} has collapsed in epoch {state.collapsed}: PGD accuracy on a "
        f"training batch fell from {best:.0%} to {state.watched[-1]['accuracy']:.0%} "
        f"(catastrophic overfitting). The network of epoch {state.before['epoch']} is kept; {now}."
    )


def stopping(state: State, e: Experiment) -> bool:
    """Whether the epoch of the collapse is the last.

    >>> stopping(State(fingerprint="", device="", collapsed=3), Experiment(on_collapse="stop"))
    True
    """
    return bool(state.collapsed) and e.on_collapse == "stop"
