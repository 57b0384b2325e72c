"""Where records lie: found, recalled, published."""

import gc
import lzma
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import platformdirs

from ccnotes.devices import PRECISIONS
from ccnotes.experiments import (
    EXPERIMENTS,
    Experiment,
    changes,
    fingerprint,
    identity_of,
    in_use,
)
from ccnotes.records.locks import publishing, undisturbed
from ccnotes.records.record import (
    ARRAYS,
    BEFORE,
    CAMS,
    PACKED,
    PER_IMAGE,
    SAMPLE_ATTRIBUTION,
    SWAPS,
    TABLE,
    VECTORS,
    WEIGHTS,
    Record,
    content_of,
    read_record,
)

PUBLISHED = Path(__file__).parents[1] / "published"


def runs_dir() -> Path:
    """Where this machine keeps its runs: $CCNOTES_RUNS, else the user's cache folder.

    Raises RuntimeError for a user without a home folder.

    >>> runs_dir().name
    'runs'
    """
    home = os.environ.get("CCNOTES_RUNS")
    try:
        return Path(home).expanduser() if home else platformdirs.user_cache_path("ccnotes") / "runs"
    except RuntimeError as error:
        raise RuntimeError(
            f"this user has no home folder to keep runs in ({error}): set $CCNOTES_RUNS."
        ) from error


def homes() -> list[Path]:
    """The folders in which records lie: those that come with the book, then this machine's.

    >>> homes() == [PUBLISHED, runs_dir()]
    True
    """
    found = [PUBLISHED]
    with suppress(RuntimeError):  # without a home folder there are only the published ones
        found.append(runs_dir())
    return found


def find(
    fingerprints: Iterable[str] = ("",),
    suits: Callable[[Record], bool] = lambda record: True,
    *,
    within: Iterable[Path] | None = None,
) -> list[Record]:
    """All records that can be read, published ones first, unfinished ones included.

    With ``fingerprints`` only those whose folders' names end in one of them, and with ``suits``
    only those of which it says so. What cannot be read, and those for which ``suits`` raises
    ValueError, are passed over with a warning that names them. ``within`` are the folders to look
    in, by default :func:`homes`.

    >>> find()[0].folder.parent == PUBLISHED
    True
    """
    endings, records = list(fingerprints), []
    for home in homes() if within is None else within:
        found, errors = undisturbed(home, partial(read_all, home, endings, suits))
        records += found
        for error in errors:
            warnings.warn(f"passed over: {error}", stacklevel=2)
    return records


def read_all(
    home: Path, endings: list[str], suits: Callable[[Record], bool]
) -> tuple[list[Record], list[ValueError]]:
    """The records in one folder, and what is wrong with others there; see :func:`find`.

    >>> read_all(Path("nothing"), [""], lambda record: True)
    ([], [])
    """
    records, errors, collecting = [], [], gc.isenabled()
    gc.disable()  # it would walk through all of torch, again and again, and find nothing
    try:
        for table in sorted({t for end in endings for t in home.glob(f"*{end}/{TABLE}")}):
            if table.parent.name.startswith("."):
                continue
            try:
                record = read_record(table.parent)
                if suits(record):
                    records.append(record)
            except ValueError as error:
                errors.append(error)
    finally:
        if collecting:
            gc.enable()
    return records, errors


def published(start: str, seed: int = 0) -> dict[str, Record]:
    """The published records of one seed whose names begin so, by what follows in their names.

    Of named experiments as they are today; a record of other settings is passed over.

    >>> list(published("parts-at-head-"))
    ['frozen', 'groups', 'simplex']
    """

    def suits(record: Record) -> bool:
        e = record.configuration
        return e.name.startswith(start) and e.seed == seed and is_of_today(record)

    records = find(suits=suits, within=[PUBLISHED])
    return {record.configuration.name.removeprefix(start): record for record in records}


def every_seed(name: str) -> list[Record]:
    """The published records of a named experiment as it is today, those of the least seeds first.

    >>> [record.experiment["seed"] for record in every_seed("parts-at-l2")]
    [0, 1, 2, 3, 4]
    """
    folders = [folder.name for folder in PUBLISHED.glob(f"{name}-seed*-*")]
    found = find(folders, is_of_today, within=[PUBLISHED]) if folders else []
    by_seed = {r.configuration.seed: r for r in found if r.configuration.name == name}
    return [by_seed[seed] for seed in sorted(by_seed)]


def is_of_today(record: Record) -> bool:
    """Whether a finished record is of a named experiment, with the settings that it has today."""
    e, identity = record.configuration, record.content["dataset"]["identity"]
    if not (e.name in EXPERIMENTS and record.finished):
        return False
    return not in_use(
        changes(record.experiment, replace(EXPERIMENTS[e.name], seed=e.seed)), identity
    )


def recall(
    experiment: Experiment, identity: str | None = None, *, weights: bool = False
) -> Record | None:
    """The finished record of exactly this configuration, published or from the cache, if any.

    ``identity`` is that of the data, where it does not follow from their name. With ``weights``
    only a record that has its networks' weights will do. A damaged one is passed over.

    >>> recall(Experiment(seed=12345)) is None
    True
    """
    identity = identity or identity_of(experiment.data)
    if identity is None:
        return None
    fingerprints = fingerprints_by_precision(experiment, identity).values()
    networks = list(WEIGHTS.values()) if weights else []

    def suits(record: Record) -> bool:
        # The hash knows only what differs from the defaults, so a default that has changed since
        # must not pass for the one that the record was made with.
        same = not in_use(changes(record.experiment, experiment), identity)
        if not (record.finished and same and record.content["fingerprint"] in fingerprints):
            return False
        if not all((record.folder / name).exists() for name in networks):
            return False
        record.check([ARRAYS, *networks])
        return True

    matching = find(fingerprints, suits)
    # Made under the same setting rather than under one that came to the same precision.
    matching.sort(key=lambda record: record.configuration.precision != experiment.precision)
    return matching[0] if matching else None


def fingerprints_by_precision(experiment: Experiment, identity: str) -> dict[str, str]:
    """The fingerprints that the experiment may have, by precision.

    >>> list(fingerprints_by_precision(Experiment(), "planted-1"))
    ['float32', 'bfloat16']
    """
    wanted = experiment.precision
    precisions = PRECISIONS if wanted == "auto" else (wanted,)
    return {name: fingerprint(experiment, name, identity) for name in precisions}


keys_of = fingerprints_by_precision  # its former name


def publish(
    record: Record,
    home: Path,
    *,
    weights: bool = False,
    sample_attribution: bool = False,
    vectors: bool = False,
    per_image: bool = False,
) -> Path:
    """Copy a finished record to ``home``: its table, its arrays (packed), and what else is wanted.

    That is the networks' weights, ``Record.sample_attribution``, ``Record.vectors`` and
    ``Record.per_image``; what was published of them before comes along anew, and so do
    ``Record.cams`` and ``Record.swaps`` where they were made. The copy before stands until the new
    one is whole. Returns the copy's folder. Raises ValueError for a record that is not finished, or
    lacks what is wanted.

    >>> import ccnotes
    >>> copy = publish(ccnotes.runs("planted-at", seeds=[1])[0], Path("published"))
    >>> sorted(file.name for file in copy.iterdir())
    ['arrays.safetensors.xz', 'cams.safetensors', 'record.json']
    """
    destination = home / record.folder.name
    if not record.finished:
        raise ValueError(f"{record.folder} is not finished: the same run goes on from there.")
    wanted = dict.fromkeys(WEIGHTS.values(), weights)
    wanted[BEFORE] = weights and (record.folder / BEFORE).exists()
    wanted |= {SAMPLE_ATTRIBUTION: sample_attribution, VECTORS: vectors, PER_IMAGE: per_image}
    wanted |= {name: (record.folder / name).exists() for name in (CAMS, SWAPS)} | {ARRAYS: True}
    try:
        home.mkdir(parents=True, exist_ok=True)
        with publishing(home):
            replace_record(record, destination, wanted)
    except OSError as error:
        raise OSError(
            f"cannot publish to {home}: {error}. Free some space there or choose another folder."
        ) from error
    return destination


def replace_record(record: Record, destination: Path, wanted: Mapping[str, bool]) -> None:
    """Put a copy of a record's wanted files, and of what was there of others, in a folder's place.

    To be called by one process at a time. What stood there comes back where the copy fails, or
    the process that made it was killed.
    """
    scratch = destination.with_name(f".publishing-{destination.name}")
    fresh, before = scratch / "fresh", scratch / "before"

    def tidy_up() -> None:
        if before.exists() and not destination.exists():
            os.replace(before, destination)
        shutil.rmtree(scratch, ignore_errors=True)

    tidy_up()  # after a process that was killed
    there = replace(record, folder=destination)
    names = [name for name, asked in wanted.items() if asked or there.path(name).exists()]
    record.check(names)
    if destination.resolve() == record.folder.resolve():
        return
    known = {*wanted, TABLE, there.path(ARRAYS).name}
    if strange := {path.name for path in destination.glob("*")} - known:
        raise ValueError(
            f"{destination} has {', '.join(sorted(strange))}, which is no part of a record and "
            f"would be lost: move it away."
        )
    try:
        fresh.mkdir(parents=True)
        for name in {*names, TABLE} - {ARRAYS}:
            shutil.copyfile(record.folder / name, fresh / name)
        packed = lzma.compress(content_of(record.path(ARRAYS)), preset=9)
        (fresh / f"{ARRAYS}{PACKED}").write_bytes(packed)
        with suppress(FileNotFoundError):
            os.replace(destination, before)
        os.replace(fresh, destination)
    finally:  # Ctrl-C between the two loses nothing, either
        tidy_up()
