"""Runs on attacks of one step, and with few labels: what came of each, and losses around images."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ccnotes.attacks import input_gradient
from ccnotes.checkpoints import State
from ccnotes.checks import check_bytes
from ccnotes.claims import group_accuracy
from ccnotes.data import Split, to_float
from ccnotes.experiments import dataset
from ccnotes.modes import evaluating, recording
from ccnotes.monitor import accuracy, final_part, part
from ccnotes.records import PUBLISHED, Record
from ccnotes.records.afterwards import dataset_of
from ccnotes.records.layout import digits
from ccnotes.training import Keeper, learn, set_up
from ccnotes.types import Labels, Pixels

RUNS, SURFACES = PUBLISHED / "one-step.json", PUBLISHED / "surfaces.json"
STEPS = 50  # of the attack on what the run's own left
SIGNS = (  # of test and of training images
    *("clean_accuracy", "robust_accuracy", "fgsm_accuracy", "gradient_alignment"),
    *("robust_cas", "clean_cas", "robust_nc2", "robust_nc3"),
)
ENDS = ("epoch", "clean_accuracy", "robust_accuracy", "robust_loss", "clean_cas", "robust_cas")
ALONG = tuple(i / 8 for i in range(13))  # of a perturbation: from the image to one and a half
ACROSS = tuple(i / 4 for i in range(-4, 5))


def outcome_of(record: Record, data_dir: Path | str | None = None) -> dict[str, Any]:
    """What a finished run has to say of one step, small: curves over epochs, best and last network.

    Of each also ``longer_accuracy``, in [0, 1]: on the final test images that the run's own attack
    left, PGD of :data:`STEPS` steps, in float32; where the run is not on attacks, nothing of the
    kind. Of images with true groups also ``inside``, ``across`` and ``group_accuracy``, attacked,
    over epochs, too, and ``clean_group_accuracy``. Needs the networks' weights and the run's data.

    >>> from ccnotes.experiments import Experiment
    >>> from ccnotes.records import run
    >>> e = Experiment(train_size=6, validation_size=6, test_size=6, width=4, epochs=1)
    >>> found = outcome_of(run(e))
    >>> found["last"]["longer_accuracy"] <= found["last"]["robust_accuracy"]
    True
    """
    e, table, groups = record.configuration, record.table, record.groups.tolist()
    if groups:
        confusion = record.arrays["test_robust_confusion"]
        table = table.assign(group_accuracy=group_accuracy(confusion, groups).tolist())
    columns = [f"{split}_{sign}" for split in ("test", "train") for sign in SIGNS]
    columns += ["inside", "across", "group_accuracy"]
    columns = ["epoch", *(name for name in columns if name in table)]
    final = final_part(dataset_of(record, None, data_dir).test, e) if e.attack.eps else None
    facts = record.provenance
    return {
        "experiment": e.name,
        "seed": e.seed,
        "data": record.content["dataset"]["title"],
        "collapsed": record.collapsed,
        "curves": {name: [*map(short, table[name].tolist())] for name in columns},
        "best": ending(record, "best", final),
        "last": ending(record, "last", final),
        "made": {name: facts[name] for name in ("commit", "hardware", "precision", "seconds")},
    }


def ending(record: Record, which: Any, final: Split | None) -> dict[str, float]:
    """The part of :func:`outcome_of` for the best or the last network."""
    e, scalars, groups = record.configuration, getattr(record, which), record.groups.tolist()
    found = {name: scalars[name] for name in ENDS}
    if final is not None:
        left = record.per_image[f"{which}_robust_correct"].nonzero()[:, 0]
        found["longer_accuracy"] = 0.0
        if len(left):
            attack = replace(e.eval_attack, steps=STEPS)
            still = accuracy(record.model(which), final.take(left), attack, e, "float32")
            found["longer_accuracy"] = still * len(left) / len(final)
    if groups:
        found |= {k: v.item() for k, v in record.by_group(which).items() if "clean" not in k}
        for kind, name in (("robust", "group_accuracy"), ("clean", "clean_group_accuracy")):
            confusion = record.arrays[f"{which}_{kind}_confusion"]
            found[name] = group_accuracy(confusion, groups).item()
    return {name: short(value) for name, value in found.items()}


def short(value: float) -> float:
    return value if isinstance(value, int) else digits(round(value, 4))


@cache
def outcomes() -> list[dict[str, Any]]:
    """Those that are published, of :func:`outcome_of`."""
    found: list[dict[str, Any]] = json.loads(RUNS.read_text())
    return found


def curves(experiments: Sequence[str]) -> pd.DataFrame:
    """A row for each published run of these experiments and epoch: its signs; see :data:`SIGNS`.

    >>> set(curves(["fast-fgsm-eps12"]).seed) >= {0, 1, 2}
    True
    """
    chosen = [run for run in outcomes() if run["experiment"] in experiments]
    return pd.concat(
        [
            pd.DataFrame(run["curves"]).assign(experiment=run["experiment"], seed=run["seed"])
            for run in chosen
        ],
        ignore_index=True,
    )


def ends(experiments: Sequence[str]) -> pd.DataFrame:
    """A row for each published run of these experiments: what is known of its last network.

    With ``fooled``: how much more accurate, on test images, it is under FGSM than under PGD. Where
    nothing of them is published, no row.

    >>> (ends(["fast-fgsm-eps12"]).fooled > 0.1).all()
    np.True_
    """
    rows = []
    for run in outcomes():
        if run["experiment"] in experiments:
            one, many = (run["curves"][f"test_{k}_accuracy"][-1] for k in ("fgsm", "robust"))
            named = {"experiment": run["experiment"], "seed": run["seed"], "fooled": one - many}
            rows.append(named | run["last"])
    return pd.DataFrame(rows)


def fell(run: dict[str, Any]) -> int | None:
    """The epoch of a run's collapse, as far as it was evaluated; None for none.

    That is the first from which on, to the end, test accuracy under FGSM is more than twice that
    under PGD.

    >>> curves = {"epoch": [1, 2, 3], "test_fgsm_accuracy": [0.2, 0.3, 0.3]}
    >>> fell({"curves": curves | {"test_robust_accuracy": [0.2, 0.1, 0.1]}})
    2
    """
    c, found = run["curves"], None
    both = zip(c["epoch"], c["test_fgsm_accuracy"], c["test_robust_accuracy"], strict=True)
    for epoch, one, many in both:
        found = (found or epoch) if one > 2 * many else None
    return found


def loss_surface(
    model: nn.Module,
    images: Pixels,
    labels: Labels,
    eps: float,
    *,
    along: Sequence[float] = ALONG,
    across: Sequence[float] = ACROSS,
    seed: int = 0,
) -> Float[Tensor, "across along"]:
    """Mean loss, in nats, of images moved along their own perturbation and across it.

    That is, at ``x + eps * (a * g + b * r)``, clipped to [0, 1], with ``g`` the sign of the
    gradient at ``x`` (so that ``a = 1`` is FGSM) and ``r`` random signs, other ones for each image.
    The model is in eval mode and in float32. Raises ValueError for other images and labels.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images, labels = torch.randint(256, (6, 1, 2, 2)).byte(), torch.arange(6) % 3
    >>> surface = loss_surface(model, images, labels, eps=0.01)
    >>> surface.shape, bool(surface[4, 8] > surface[4, 0])  # FGSM raises the loss
    (torch.Size([9, 13]), True)
    """
    check_bytes(images, labels)
    x, y = to_float(images).contiguous(memory_format=torch.channels_last), labels.long()
    generator = torch.Generator(x.device).manual_seed(seed)
    r = torch.randint(2, x.shape, generator=generator, device=x.device) * 2.0 - 1
    with evaluating(model), recording():
        g = input_gradient(model, x, y, [int(y.min()), int(y.max())]).sign()
        with torch.no_grad():
            losses = [
                F.cross_entropy(model((x + eps * (a * g + b * r)).clamp(0, 1)), y)
                for b in across
                for a in along
            ]
    return torch.stack(losses).view(len(across), len(along))


def surfaces(record: Record, data_dir: Path | str | None = None, *, images: int = 50) -> Any:
    """:func:`loss_surface` after each epoch of a run, which is trained once more for it.

    On so many test images, as many of each class as of any other, at the run's own radius, and
    once before the first epoch. Bit for bit the same networks, on the machine of the run.
    """
    e, device = record.configuration, torch.device("cpu")
    data = dataset(e, data_dir)
    run = set_up(e, data, {}, device, record.provenance["precision"])
    test, eps, found = part(data.test, images), e.attack.eps, list[list[list[float]]]()
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(
            run,
            State(fingerprint=record.content["fingerprint"], device="cpu"),
            Path(folder) / "checkpoint.pt",
            time.perf_counter(),
            None,
        )
        for epoch in range(e.epochs + 1):
            if epoch:
                learn(keeper, epoch)
                keeper.state.batch = 0  # of the next epoch
            surface = loss_surface(run.model, test.images, test.labels, eps, seed=e.seed)
            found.append([[short(v) for v in row] for row in surface.tolist()])
    return {
        "experiment": e.name,
        "seed": e.seed,
        "eps": eps,
        "images": len(test),
        "along": ALONG,
        "across": ACROSS,
        "loss": found,
    }
