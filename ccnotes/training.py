"""The one loop: fit an experiment, write checkpoints as it goes, go on from the last."""

import math
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from ccnotes.alarm import collapse_seen, look, stopping
from ccnotes.checkpoints import State, read_state, write_state
from ccnotes.checks import NotFinite
from ccnotes.data import Dataset, Split
from ccnotes.devices import check_compiler, compile_network
from ccnotes.experiments import Experiment
from ccnotes.models import Network
from ccnotes.monitor import Examined, evaluate_splits, examine, examined, part, validated
from ccnotes.objectives import OWN_AVERAGE, OWN_BEST
from ccnotes.ranks import agreed, ranks
from ccnotes.setup import (
    averaged,
    build,
    check_last_batch,
    check_ranks,
    check_teacher,
    sgd,
    stream,
)
from ccnotes.steps import Learner, train_step, with_statistics

SAVE_EVERY = 120.0  # seconds between checkpoints, where an epoch takes longer
CHEAP = 0.2  # seconds that a checkpoint may take whatever an epoch takes


class OutOfTime(Exception):
    """The time allowed is over; the checkpoint has everything."""


@dataclass(kw_only=True)
class Run:
    """What a run works with: set up once by :func:`set_up`, changed by every batch."""

    learner: Learner
    device: torch.device
    average: AveragedModel | None
    teachers: dict[str, Network]  # by name, the run's own among them
    train: Split  # all images to train on
    splits: Examined  # those to evaluate on: its ``train`` is a part of them
    watched: Split  # a batch of training images that is attacked after each epoch

    @property
    def experiment(self) -> Experiment:
        return self.learner.experiment

    @property
    def model(self) -> Network:
        return cast(Network, self.learner.model)

    def network_to_evaluate(self) -> Network:
        """The network to evaluate: the average of the weights, where that is what is kept."""
        if self.experiment.average and self.average is not None and self.average.n_averaged:
            weights, precision = cast(Network, self.average.module), self.learner.precision
            return with_statistics(weights, self.splits.train, self.experiment, precision)
        return self.model


@dataclass
class Keeper:
    """When a call of :func:`fit` saves, and when it stops."""

    run: Run
    state: State
    checkpoint: Path
    begun: float
    minutes: float | None
    progressed: bool = False

    def __post_init__(self) -> None:
        self.saved, self.took = self.begun, 0.0
        self.started = self.begun - self.state.seconds  # as if all sessions had been one

    @property
    def seconds(self) -> float:
        """What the run has taken so far, all its sessions together."""
        return time.perf_counter() - self.started

    def check_finite(self) -> None:
        """FloatingPointError for a run whose loss or weights are numbers no more."""
        run, state = self.run, self.state
        mean_loss = state.total.item() / len(run.train)
        if not all(bool(value.isfinite().all()) for value in run.model.state_dict().values()):
            raise self.diverged("weights of the network became infinite or NaN")
        if not math.isfinite(mean_loss):
            raise self.diverged(f"the training loss became {mean_loss}")

    def diverged(self, what: str) -> FloatingPointError:
        """The error for a run that cannot go on, and what to do about it."""
        kept = f" What came before is kept in {self.checkpoint.parent}."
        return FloatingPointError(
            f"{what} in epoch {self.state.epoch + 1}. Try a learning rate below "
            f"lr={self.run.experiment.lr:g}.{kept if self.checkpoint.exists() else ''}"
        )

    def save(self) -> None:
        """Write the checkpoint, of several ranks the first; all hold the same.

        Raises FloatingPointError for a run that is beyond saving.
        """
        self.check_finite()
        run, state = self.run, self.state
        self.saved = time.perf_counter()
        state.seconds = self.saved - self.started
        state.model = run.model.state_dict()
        state.optimiser = run.learner.optimiser.state_dict()
        state.delta = run.learner.delta
        state.generators = {name: g.get_state() for name, g in run.learner.generators.items()}
        if run.average is not None:
            state.average = run.average.state_dict()
        if ranks().rank == 0:
            write_state(state, self.checkpoint)
        self.took = time.perf_counter() - self.saved

    def save_where_cheap(self) -> None:
        """Write the checkpoint, unless that would take a twentieth of the time.

        On a fast card an epoch takes hardly longer than writing a large network and its momentum.
        """
        since = time.perf_counter() - self.saved
        if self.took < max(CHEAP, since / 20):
            self.save()

    def save_now_and_then(self) -> None:
        """Write the checkpoint where the last one is :data:`SAVE_EVERY` old."""
        if time.perf_counter() > self.saved + SAVE_EVERY:
            self.save()

    def stop_in_time(self, needed: float = 0.0) -> None:
        """Raise OutOfTime, all kept, where ``needed`` seconds from now the time would be over.

        Something is done each time, however little time there is, so that the run ends.
        """
        if self.minutes is None or not self.progressed:
            return
        if agreed(time.perf_counter() + needed > self.begun + 60 * self.minutes):
            self.save()
            raise OutOfTime(
                f"stopped after epoch {self.state.epoch} of {self.run.experiment.epochs}"
            )


def fit(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Path,
    *,
    fingerprint: str,
    device: torch.device,
    precision: str,
    facts: dict[str, Any],
    teachers: dict[str, Network] | None = None,
    minutes: float | None = None,
    compile: bool = False,
) -> State:
    """Train, evaluate as it goes, and return the final state.

    Its ``evaluations`` has one dictionary an evaluation (see
    :func:`ccnotes.monitor.evaluate_splits`); ``best`` and ``last`` hold epoch, weights and the
    evaluation on the experiment's ``final_size`` test images; ``watched``, ``before`` and
    ``collapsed`` what :func:`ccnotes.alarm.look` saw; ``sessions`` the different ``facts``
    (provenance) that it was called with. The state is written to ``checkpoint`` after every epoch,
    unless that would take long beside it, and every two minutes, and read from there where it
    exists. ``teachers`` has the networks of the objective's teachers but the run's own. With
    ``compile`` passes are compiled; see :func:`ccnotes.devices.compile_network`. A run goes on as
    it was begun. Raises RuntimeError where torch cannot compile, OutOfTime,
    with everything kept, rather than go on beyond ``minutes``, FloatingPointError when the loss
    stops being finite, and ValueError for an unfit teacher. Where several processes share the run
    (see :mod:`ccnotes.ranks`), all call this at once and return the same; the first writes.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=6, validation_size=6, test_size=6, width=4, epochs=1)
    >>> data, file, device = dataset(e), Path("checkpoint.pt"), torch.device("cpu")
    >>> how = {"device": device, "precision": "float32", "facts": {"date": "today"}}
    >>> state = fit(e, data, file, fingerprint="mine", **how)
    >>> state.finished, state.best["epoch"], len(state.evaluations)
    (True, 1, 1)
    """
    begun = time.perf_counter()
    e = experiment
    run = set_up(e, dataset, teachers or {}, device, precision)
    state = State(fingerprint=fingerprint, device=device.type)
    if checkpoint.exists():
        state = resume(run, checkpoint, fingerprint)
        compile = state.sessions[0].get("compiled", False)  # as it was begun, to the bit
    if compile:
        check_compiler(device)
        compile_network(run.model, e.batch_size // ranks().count)
    facts = facts | {"compiled": compile}
    state.total = state.total.to(device)
    if not any(facts | {"date": s["date"]} == s for s in state.sessions):
        state.sessions.append(facts)
    keeper = Keeper(run, state, checkpoint, begun, minutes)
    bar = tqdm(
        total=e.epochs,
        initial=state.epoch,
        desc=f"{e.name} seed {e.seed}",
        unit="epoch",
        disable=ranks().rank > 0,
    )
    with bar:
        for epoch in range(state.epoch + 1, e.epochs + 1):
            if stopping(state, e) and state.epoch >= state.collapsed:
                break
            learn(keeper, epoch)
            keeper.check_finite()
            if seen_to_collapse(keeper, epoch):
                bar.write(collapse_seen(state, e), file=sys.stderr)
            full = epoch % e.eval_every == 0 or epoch == e.epochs or stopping(state, e)
            if full:
                keeper.stop_in_time(state.pause)
                keeper.save_where_cheap()
            if full or epoch % (e.validate_every or e.eval_every) == 0:
                try:
                    accuracy = judge(keeper, epoch, full=full)
                except NotFinite as error:
                    raise keeper.diverged("features became infinite or NaN") from error
                bar.set_postfix_str(f"validation robust {accuracy:.1%}")
            state.epoch, state.batch = epoch, 0
            keeper.save_where_cheap()
            bar.update()
        bar.set_description_str("best and last epoch on the test images")
        conclude(keeper)
    return state


def set_up(
    e: Experiment,
    dataset: Dataset,
    teachers: dict[str, Network],
    device: torch.device,
    precision: str,
) -> Run:
    """The run before its first batch. Raises ValueError for what could not be trained.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=12, width=4)
    >>> run = set_up(e, dataset(e), {}, torch.device("cpu"), "float32")
    >>> run.model.training, len(run.train), run.learner.groups.tolist()
    (True, 12, [0, 0, 1, 1, 2, 2])
    """
    groups = set(dataset.groups or ())
    if e.objective.push_contrast and len(groups) in (0, 1, len(dataset.classes)):
        raise ValueError(
            f"push_contrast={e.objective.push_contrast} needs classes that share a true group and "
            f"others that don't; {dataset.title} have the groups {dataset.groups}: leave it at 0."
        )
    if e.cutout >= (side := min(dataset.train.images.shape[2:])):
        raise ValueError(
            f"cutout={e.cutout} would hide all of images with a side of {side} pixels: it must be "
            f"less."
        )
    check_ranks(e)
    splits = examined(dataset, e, device)
    train = dataset.train.to(device)
    model = build(e, dataset).to(device).to(memory_format=torch.channels_last)
    check_last_batch(model, train, e)
    average = averaged(model, e, len(train))
    teachers = dict(teachers)
    if OWN_BEST in e.objective.teachers:
        teachers[OWN_BEST] = deepcopy(model)
    if average is not None:
        teachers[OWN_AVERAGE] = cast(Network, average.module)
    for name, teacher in teachers.items():
        check_teacher(name, teacher, model)
        teacher.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    learner = Learner(
        experiment=e,
        model=model,
        optimiser=sgd(model, e),
        generators={
            use: torch.Generator("cpu" if use == "order" else device).manual_seed(
                stream(e.seed, use)
            )
            for use in ("order", "augmentation", "attack")
        },
        precision=precision,
        groups=torch.tensor(dataset.groups, device=device) if dataset.groups else None,
        unlabelled=dataset.unlabelled.images.to(device) if dataset.unlabelled else None,
        lacking=dataset.lacking.to(device) if dataset.lacking else None,
    )
    return Run(
        learner=learner,
        device=device,
        average=average,
        teachers=teachers,
        train=train,
        splits=splits,
        watched=part(splits.train, e.batch_size),
    )


def learn(keeper: Keeper, epoch: int) -> None:
    """The epoch's batches, from the first that is not finished on."""
    run, state = keeper.run, keeper.state
    e, learner, train = run.experiment, run.learner, run.train
    learner.optimiser.param_groups[0]["lr"] = rate(e, epoch)
    if not state.batch:
        state.order = torch.randperm(len(train), generator=learner.generators["order"])
        # Summed on the device: to read it would make every batch wait.
        state.total = torch.zeros((), device=run.device)
    batches = state.order.to(run.device).split(e.batch_size)
    if OWN_BEST in run.teachers and state.best:
        run.teachers[OWN_BEST].load_state_dict(state.best["weights"])
    learner.teachers = [
        (run.teachers[name], weight)
        for name, weight in zip(e.objective.teachers, e.objective.teacher_weights, strict=True)
        if name != OWN_BEST or state.best
    ]
    run.model.head.requires_grad_(e.head_moves(epoch))
    run.model.train()
    for batch in batches[state.batch :]:
        loss = train_step(learner, train.images[batch], train.labels[batch])
        state.total += loss * len(batch)
        state.batch += 1
        last = state.batch == len(batches)
        if run.average is not None and (
            e.average != "swa" or (last and epoch > e.swa_start * e.epochs)
        ):
            run.average.update_parameters(run.model)
        keeper.progressed = True
        keeper.save_now_and_then()
        keeper.stop_in_time()


def seen_to_collapse(keeper: Keeper, epoch: int) -> bool:
    """:func:`ccnotes.alarm.look`, for a run that may have diverged, too."""
    run = keeper.run
    e, precision = run.experiment, run.learner.precision
    try:
        return look(keeper.state, run.model, run.watched, e, precision, epoch)
    except NotFinite as error:
        raise keeper.diverged("features became infinite or NaN") from error


def rate(e: Experiment, epoch: int) -> float:
    """The learning rate of an epoch, the first being 1.

    >>> e = Experiment(epochs=4, lr=0.1, lr_drops=(0.5, 0.75))
    >>> [round(rate(e, epoch), 6) for epoch in (1, 2, 3, 4)]
    [0.1, 0.1, 0.01, 0.001]
    """
    return e.lr * e.lr_factor ** sum(epoch > drop for drop in e.drop_epochs)


def judge(keeper: Keeper, epoch: int, *, full: bool) -> float:
    """Evaluate, keep the network if it is the best so far; its validation robust accuracy."""
    begun = time.perf_counter()
    run, state = keeper.run, keeper.state
    e, precision, network = run.experiment, run.learner.precision, run.network_to_evaluate()
    if full:
        found = evaluate_splits(network, run.splits, e, precision)
        keeper.progressed = True
        state.pause = time.perf_counter() - begun
        row = {"epoch": epoch, "lr": rate(e, epoch), "seconds": keeper.seconds}
        row["running_loss"] = state.total.item() / len(run.train)
        state.evaluations.append(row | found)
        accuracy: float = found["validation_robust_accuracy"]
        loss = found["validation_robust_loss"]
    else:
        accuracy, loss = validated(network, run.splits.validation, e, precision)
    # Of equal ones the earlier epoch is the best, of equal losses first the higher accuracy.
    score = [accuracy] if e.best_by == "accuracy" else [-loss, accuracy]
    # Before SWA's first average there is nothing of its own to choose.
    candidate = e.average != "swa" or (run.average is not None and run.average.n_averaged > 0)
    if candidate and (not state.best or score > state.best["score"]):
        state.best = {"epoch": epoch, "weights": copied(network), "score": score}
    return accuracy


def conclude(keeper: Keeper) -> None:
    """The best and the last network on the final test images."""
    run, state = keeper.run, keeper.state
    e, splits = run.experiment, run.splits
    if not state.last:
        state.last = {"epoch": state.epoch, "weights": copied(run.network_to_evaluate())}
    # In units of an evaluation between epochs, which attacks three splits: the final images' share
    # of those, and less than three for six radii and the stages, each on one split.
    share = len(splits.final) / sum(len(split) for split in splits.between_epochs().values())
    for chosen in (state.best, state.last):
        if "test" not in chosen:
            keeper.stop_in_time((share + 3) * state.pause)
            run.model.load_state_dict(chosen["weights"])  # for whose passes all is prepared
            chosen["test"] = examine(run.model, splits, e, run.learner.precision)
            run.model.load_state_dict(state.last["weights"])
            keeper.progressed = True
            keeper.save()


def resume(run: Run, checkpoint: Path, fingerprint: str) -> State:
    """The checkpoint's state, the run made to go on from it. Raises ValueError where it can't."""
    state = read_state(checkpoint, fingerprint, epochs=run.experiment.epochs)
    if state.device != run.device.type:
        raise ValueError(
            f"{checkpoint} was written on {state.device}, so this run cannot go on bit for "
            f"bit on {run.device.type}: give --device {state.device}, or start --fresh."
        )
    try:
        run.model.load_state_dict(state.model)
        run.learner.optimiser.load_state_dict(state.optimiser)
        for parameter, kept in run.learner.optimiser.state.items():
            if kept["momentum_buffer"].shape != parameter.shape:
                raise ValueError("the optimiser's momentum is of other weights")
        if state.batch and len(state.order) != len(run.train):
            raise ValueError(f"an order of {len(state.order)} images, not of {len(run.train)}")
        run.learner.delta = state.delta.to(run.device)
        for name, generator in run.learner.generators.items():
            generator.set_state(state.generators[name])
        if run.average is not None:
            run.average.load_state_dict(state.average)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{checkpoint} does not fit the run that it belongs to ({error}). "
            f"Delete it to start this run from its first epoch."
        ) from error
    return state


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, on the CPU, that no later step changes."""
    return {name: value.cpu().clone() for name, value in model.state_dict().items()}
