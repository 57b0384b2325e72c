"""Recall a finished run, or run it; several at once where that is asked for."""

import os
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ccnotes.checkpoints import read_state
from ccnotes.data import Dataset
from ccnotes.devices import PRECISIONS, pick_device, pick_precision
from ccnotes.experiments import (
    Experiment,
    changes,
    dataset,
    fingerprint,
    identity_of,
    named,
    teacher_experiment,
)
from ccnotes.files import locked, writing
from ccnotes.models import Network
from ccnotes.objectives import OWN_AVERAGE, OWN_BEST
from ccnotes.ranks import agreed, ranks
from ccnotes.records.layout import MAKE_ROOM, write
from ccnotes.records.origin import provenance
from ccnotes.records.record import Record, load, load_model
from ccnotes.records.store import (
    PUBLISHED,
    find,
    fingerprints_by_precision,
    recall,
    runs_dir,
)
from ccnotes.setup import bfloat16_is_sound, compiling_pays
from ccnotes.sweeps import Cores, Workers, sweep, title
from ccnotes.training import OutOfTime, fit

CHECKPOINT = "checkpoint.pt"


def runs(
    experiments: str | Experiment | Iterable[str | Experiment],
    seeds: Iterable[int] = (0,),
    *,
    data: str | None = None,
    data_dir: Path | str | None = None,
    device: str | None = None,
    fresh: bool = False,
    compile: bool | None = None,
    jobs: int = 1,
) -> list[Record]:
    """The records of an experiment, or of several in turn, one a seed.

    A record published with the book for exactly this configuration is returned, else one that
    this machine has made before; else the experiment is run and kept: a line says how long such
    runs took, a bar how far it is. ``fresh=True`` always runs it. ``data`` replaces the
    experiment's data; for ``compile`` see :func:`run`. With ``jobs`` above 1 so many are trained
    at once, as :func:`at_once` says. Where $CCNOTES_ONLY_RECALL is 1, RuntimeError in the place of
    a run that was not asked for by ``fresh=True``.

    >>> [record.title for record in runs("planted-at", seeds=[0, 1])]
    ['planted images, planted-at, seed 0', 'planted images, planted-at, seed 1']
    """
    several = [experiments] if isinstance(experiments, str | Experiment) else experiments
    seeds = list(seeds)
    named_ones = [named(e) if isinstance(e, str) else e for e in several]
    wanted = [replace(e, data=data or e.data, seed=seed) for e in named_ones for seed in seeds]
    if jobs != 1:
        return at_once(
            wanted, Cores(jobs), data_dir=data_dir, device=device, fresh=fresh, compile=compile
        )
    return [run(e, data_dir=data_dir, device=device, fresh=fresh, compile=compile) for e in wanted]


def at_once(
    wanted: Iterable[Experiment],
    workers: Workers,
    *,
    data_dir: Path | str | None = None,
    device: str | None = None,
    fresh: bool = False,
    compile: bool | None = None,
) -> list[Record]:
    """The records of the experiments, those that there are not made by several workers at once.

    Each run has one thread of the processor, whose bits differ from those of several. A run whose
    teachers are experiments waits for these, and each is trained once. A run that fails does not
    stop the others: RuntimeError at the end, with each one's error; what was made is kept.

    >>> at_once([named("planted-at")], Cores(2))[0].title
    'planted images, planted-at, seed 0'
    """
    wanted = list(wanted)
    recalled = {e: None if fresh else recall(e) for e in wanted}
    found = {e: record for e, record in recalled.items() if record}
    todo: dict[Experiment, list[Experiment]] = {}

    def add(e: Experiment) -> None:
        teachers = [teacher_experiment(e, name) for name in teacher_names(e)]
        for teacher in teachers:
            if teacher not in todo and not recall(teacher, weights=True):
                add(teacher)
        todo[e] = [teacher for teacher in teachers if teacher in todo]

    for e in wanted:
        if e not in found and e not in todo:
            add(e)
    took: dict[str, list[float]] = {}
    for e, record in found.items():
        if record.folder.parent != PUBLISHED:  # which other machines made
            took.setdefault(e.name, []).append(record.provenance["seconds"])
    how = partial(run, data_dir=data_dir, device=device, fresh=fresh, compile=compile)
    call = partial(how, weights=True)  # which a run made now has
    made, errors = sweep(todo, call, workers, runs_dir() / "sweeps", took)
    if errors:
        failed = "\n".join(f"{title(e)}: {error}" for e, error in errors.items())
        raise RuntimeError(f"{len(errors)} of {len(todo)} runs failed:\n{failed}")
    return [found.get(e) or load(made[e].folder) for e in wanted]


def run(
    experiment: Experiment,
    *,
    data_dir: Path | str | None = None,
    device: str | None = None,
    fresh: bool = False,
    minutes: float | None = None,
    weights: bool = False,
    go_on: bool = False,
    compile: bool | None = None,
) -> Record:
    """Recall or run one experiment; see :func:`runs`.

    ``go_on=True`` first finishes a run that was stopped, even where there is a record.
    ``weights=True`` recalls only a record that has its networks' weights. Teachers that are
    experiments are recalled with theirs, or trained first. Raises
    :class:`ccnotes.training.OutOfTime`, with all that was done kept, rather than go on beyond
    ``minutes``. ``compile`` says whether passes are compiled; by default they are where that pays
    (see :func:`ccnotes.setup.compiling_pays`). A run that was stopped goes on as it was begun.

    >>> e = Experiment(train_size=6, validation_size=6, test_size=6, width=4, epochs=1)
    >>> made = run(e)
    >>> run(e).folder == made.folder, made.experiment["train_size"]  # recalled the second time
    (True, 6)
    """
    deadline = None if minutes is None else time.perf_counter() + 60 * minutes
    identity, data = identity_of(experiment.data), None
    if identity is None:  # of a folder's images only they themselves tell
        data = dataset(experiment, data_dir)
        identity = data.identity
    if not fresh:
        found = recall(experiment, identity, weights=weights)
        if found and not (go_on and precisions_begun(experiment, identity)):
            return found
        if os.environ.get("CCNOTES_ONLY_RECALL", "0") not in ("", "0"):
            raise RuntimeError(
                f"no record of {experiment.name!r}, seed {experiment.seed}, on "
                f"{experiment.data!r}{', with its weights,' if weights else ''} is published or "
                f"in {runs_dir()}, and CCNOTES_ONLY_RECALL forbids to train it: publish it, or "
                f"ask for fresh=True where training is meant."
            )
    data = data or dataset(experiment, data_dir)
    teachers = teacher_networks(experiment, data_dir, device, deadline)
    experiment = replace(experiment, data=data.name)  # the record names the data, not a path
    where = pick_device(device)
    precision = pick_precision(experiment.precision, where)
    precision = PRECISIONS[agreed(PRECISIONS.index(precision))]  # as "auto" measures it
    if not fresh:  # go on as begun, whatever "auto" would choose today
        precision = next(iter(precisions_begun(experiment, identity)), precision)
    if precision == "bfloat16" and not bfloat16_is_sound(experiment, data, where):
        if experiment.precision != "auto":
            raise ValueError(
                f"precision='bfloat16' gives wrong gradients here: {experiment.model} has a "
                f"convolution with a stride that is given a single pixel. Use precision='float32', "
                f"or larger images."
            )
        precision = "float32"
    key = fingerprint(experiment, precision, identity)
    folder = folder_of(experiment, key)
    first = ranks().rank == 0  # the one that writes
    with locked(folder / "lock", MAKE_ROOM, wait=False) if first else nullcontext():
        if fresh and first:  # what was finished stands until this run is
            (folder / CHECKPOINT).unlink(missing_ok=True)
        made = None
        if not (fresh or (folder / CHECKPOINT).exists()):
            made = recall(experiment, identity, weights=weights)
        if agreed(made is not None):
            return made or load(folder)  # by the process that had the lock before
        if first:
            print(how_long(experiment), file=sys.stderr)
        train(experiment, data, folder, key, where, precision, teachers, deadline, compile)
    return load(folder)


def train(
    experiment: Experiment,
    data: Dataset,
    folder: Path,
    key: str,
    device: torch.device,
    precision: str,
    teachers: dict[str, Network],
    deadline: float | None,
    compile: bool | None,
) -> None:
    """Train, or go on from the folder's checkpoint, and write the record.

    ``key`` is the run's fingerprint. Where it is stopped, a record of what was evaluated so far
    is written, unless a finished one is there.
    """
    checkpoint = folder / CHECKPOINT
    if compile is None and not checkpoint.exists():
        compile = bool(agreed(compiling_pays(experiment, data, device)))
    try:
        state = fit(
            experiment,
            data,
            checkpoint,
            fingerprint=key,
            device=device,
            precision=precision,
            teachers=teachers,
            facts=provenance(device, precision),
            minutes=minutes_until(deadline),
            compile=bool(compile),
        )
    except (KeyboardInterrupt, OutOfTime, FloatingPointError):
        if checkpoint.exists() and not has_finished_record(folder):
            state = read_state(checkpoint, key, epochs=experiment.epochs)
            if state.evaluations and ranks().rank == 0:
                with writing(folder, MAKE_ROOM):
                    write(folder, experiment, data, state)
        raise
    if ranks().rank == 0:
        with writing(folder, MAKE_ROOM):
            write(folder, experiment, data, state)
        checkpoint.unlink()
    agreed(True)  # that it is written


def teacher_networks(
    experiment: Experiment,
    data_dir: Path | str | None,
    device: str | None,
    deadline: float | None,
) -> dict[str, Network]:
    """The networks of the objective's teachers but the run's own, trained where they must be."""
    teachers = {}
    for name in experiment.objective.teachers:
        if name.endswith(".safetensors"):
            teachers[name] = load_model(Path(name))
        elif name in teacher_names(experiment):
            record = run(
                teacher_experiment(experiment, name),
                data_dir=data_dir,
                device=device,
                minutes=minutes_until(deadline),
                weights=True,
            )
            teachers[name] = record.model(experiment.objective.teacher_epoch)
    return teachers


def teacher_names(experiment: Experiment) -> list[str]:
    """Those of the objective's teachers that are experiments.

    >>> teacher_names(named("parts-at-two-teachers"))
    ['parts-at', 'parts-standard']
    """
    own = (OWN_BEST, OWN_AVERAGE)
    names = experiment.objective.teachers
    return [name for name in names if name not in own and not name.endswith(".safetensors")]


def folder_of(experiment: Experiment, key: str) -> Path:
    """Where this machine keeps the run of that fingerprint, there or not."""
    return runs_dir() / f"{experiment.name}-seed{experiment.seed}-{key}"


def has_finished_record(folder: Path) -> bool:
    """Whether the folder holds the record of a finished run."""
    try:
        return load(folder).finished
    except ValueError:
        return False


def precisions_begun(experiment: Experiment, identity: str) -> list[str]:
    """The precisions in which this machine has begun the run and not ended it."""
    return [
        precision
        for precision, key in fingerprints_by_precision(experiment, identity).items()
        if (folder_of(experiment, key) / CHECKPOINT).exists()
    ]


def minutes_until(deadline: float | None) -> float | None:
    """What is left until that second of :func:`time.perf_counter`; None where there is none."""
    return None if deadline is None else (deadline - time.perf_counter()) / 60


def how_long(experiment: Experiment) -> str:
    """What finished runs of the same took, whatever their seed, precision and data, and on what.

    >>> how_long(named("planted-at")).split(" took ")[0]
    'planted-at'
    """
    took: dict[str, list[float]] = {}
    devices = set()
    with warnings.catch_warnings(action="ignore"):  # of records that cannot be read, others warn
        records = find()
    for record in records:
        differing = set(changes(record.experiment, experiment))
        if record.finished and differing <= {"seed", "precision", "data"}:
            p = record.provenance
            took.setdefault(p["hardware"], []).append(p["seconds"])
            devices.add(p["device"])
    on = [f"{np.mean(seconds):.0f} s on {hardware}" for hardware, seconds in took.items()]
    if not on:
        return f"{experiment.name}: no finished run with these settings is on record"
    gpu = "; on a GPU: none on record" if devices == {"cpu"} else ""
    return f"{experiment.name} took {', '.join(on)}{gpu}"
