"""Where records lie: found, recalled, written, published."""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError
from torch import Tensor, stack

from ccnotes.checkpoints import State
from ccnotes.data import Dataset
from ccnotes.experiments import (
    EXPERIMENTS,
    Experiment,
    changes,
    fingerprint,
    identity_of,
    in_use,
)
from ccnotes.files import replace_file, save_tensors, sha256_of
from ccnotes.records.record import (
    ARRAYS,
    CAMS,
    FORMAT,
    PER_IMAGE,
    SAMPLE_ATTRIBUTION,
    TABLE,
    Record,
    load,
)

PUBLISHED = Path(__file__).parents[1] / "published"
NETWORKS = ("best.safetensors", "last.safetensors")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say of whatever goes wrong what to do about it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write to {folder}: {error}. Free some space or choose another folder by "
            f"$CCNOTES_RUNS; what was trained is kept, and the same call goes on from there."
        ) from error


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


def find(ends: tuple[str, ...] = ("",)) -> list[Record]:
    """All records that can be read, published ones first, unfinished ones included.

    With ``ends`` only those whose folders' names end so, as they do in fingerprints. What cannot
    be read is passed over, with a warning that names it.

    >>> find()[0].folder.parent == PUBLISHED
    True
    """
    homes, records = [PUBLISHED], []
    with suppress(RuntimeError):  # without a home folder there are only the published ones
        homes.append(runs_dir())
    for home in homes:
        for table in sorted(home.glob(f"[!.]*/{TABLE}")):
            if not table.parent.name.endswith(ends):
                continue
            try:
                records.append(load(table.parent))
            except ValueError as error:
                warnings.warn(f"passed over: {error}", stacklevel=2)
    return records


def published(start: str, seed: int = 0) -> dict[str, Record]:
    """The published records of one seed whose names begin so, by what follows in their names.

    Of named experiments as they are today; a record of other settings is passed over.

    >>> list(published("planted-at-eps"))
    ['12', '16', '2', '4', '6']
    """
    found = {}
    for record in find():
        name, identity = record.experiment["name"], record.content["dataset"]["identity"]
        own = record.folder.parent == PUBLISHED and record.experiment["seed"] == seed
        if own and name.startswith(start) and name in EXPERIMENTS:
            differing = in_use(changes(record.experiment, EXPERIMENTS[name]), identity)
            if record.finished and set(differing) <= {"seed"}:
                found[name.removeprefix(start)] = record
    return found


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
    keys = keys_of(experiment, identity)
    files = (ARRAYS, *NETWORKS) if weights else (ARRAYS,)
    matching = []
    for record in find(tuple(keys.values())):
        # The hash knows only what differs from the defaults, so a default that has changed since
        # must not pass for the one that the record was made with.
        same = not in_use(changes(record.experiment, experiment), identity)
        if not (record.finished and same and record.content["fingerprint"] in keys.values()):
            continue
        if weights and not all((record.folder / name).exists() for name in NETWORKS):
            continue
        try:
            record.check(files)
            matching.append(record)
        except ValueError as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
    # Made under the same setting rather than under one that came to the same precision.
    matching.sort(key=lambda record: record.experiment["precision"] != experiment.precision)
    return matching[0] if matching else None


def keys_of(experiment: Experiment, identity: str) -> dict[str, str]:
    """The fingerprints that the experiment may have, by precision.

    >>> list(keys_of(Experiment(), "planted-1"))
    ['float32', 'bfloat16']
    """
    wanted = experiment.precision
    precisions = ("float32", "bfloat16") if wanted == "auto" else (wanted,)
    return {name: fingerprint(experiment, name, identity) for name in precisions}


def write(folder: Path, experiment: Experiment, data: Dataset, state: State) -> None:
    """Write a record: arrays and weights first, the table last, so that it vouches for all.

    Rounded are scalars of evaluations, to six digits, and all large arrays, to half precision.
    """
    (folder / TABLE).unlink(missing_ok=True)  # an older table must not vouch for new arrays
    (folder / CAMS).unlink(missing_ok=True)  # nor older maps pass for those of new networks
    rows = state.evaluations
    names = list(rows[0]) if rows else []
    arrays = {
        name: stack([row[name] for row in rows]).half()
        for name in names
        if isinstance(rows[0][name], Tensor)
    }
    scalars = {name: [digits(row[name]) for row in rows] for name in names if name not in arrays}
    first, *later = state.sessions
    content: dict[str, Any] = {
        "schema": FORMAT,
        "fingerprint": state.fingerprint,
        "finished": state.finished,
        "experiment": asdict(experiment),
        "dataset": {
            k: getattr(data, k) for k in ("name", "title", "identity", "classes", "groups")
        },
        "provenance": first | {"seconds": round(state.seconds, 1)},
        "later_sessions": later,
        "evaluations": scalars,
    }
    files: dict[str, dict[str, Tensor]] = {}
    for which in ("best", "last") if state.finished else ():
        chosen = getattr(state, which)
        content[which] = {"epoch": chosen["epoch"]}
        for name, value in chosen["test"].items():
            if value.ndim:
                large = name.endswith(("class_means", "draws"))
                arrays[f"{which}_{name}"] = value.half() if large else value
            else:
                content[which][name] = value.item()
        files[f"{which}.safetensors"] = {k: v.contiguous() for k, v in chosen["weights"].items()}
        head = {k: v.half() for k, v in chosen["weights"].items() if k.startswith("head.")}
        arrays |= {f"{which}_{k}": v for k, v in head.items()}
    for name, ends in (
        (SAMPLE_ATTRIBUTION, ("sample_attribution",)),
        (PER_IMAGE, ("correct", "draws")),
    ):
        files[name] = {key: arrays.pop(key) for key in list(arrays) if key.endswith(ends)}
    files[ARRAYS] = arrays
    shape = {"model": experiment.model, "width": str(experiment.width)}
    for name, tensors in files.items():
        about = shape | {"fingerprint": state.fingerprint} if name in NETWORKS else None
        save_tensors(tensors, folder / name, about)
    content["sha256"] = {name: sha256_of(folder / name) for name in files}
    replace_file(folder / TABLE, f"{json.dumps(content)}\n".encode())


def digits(value: float) -> float:
    """``value`` to six digits; a whole number stays one.

    >>> digits(1 / 3), digits(12)
    (0.333333, 12)
    """
    return value if isinstance(value, int) else float(f"{value:.6g}")


def publish(
    record: Record,
    home: Path,
    *,
    weights: bool = False,
    sample_attribution: bool = False,
    per_image: bool = False,
) -> Path:
    """Copy a finished record to ``home``: its table and arrays, and what else is wanted.

    That is the networks' weights, ``Record.sample_attribution`` and ``Record.per_image``; what was
    published of them before comes along anew, and so does ``Record.cams`` where it was made. The
    copy before stands until the new one is whole. Returns the copy's folder. Raises ValueError
    for a record that is not finished, or lacks what is wanted.

    >>> import ccnotes
    >>> copy = publish(ccnotes.runs("planted-at", seeds=[1])[0], Path("published"))
    >>> sorted(file.name for file in copy.iterdir())
    ['arrays.safetensors', 'cams.safetensors', 'record.json']
    """
    destination = home / record.folder.name
    if not record.finished:
        raise ValueError(f"{record.folder} is not finished: the same run goes on from there.")
    wanted = dict.fromkeys(NETWORKS, weights)
    wanted |= {SAMPLE_ATTRIBUTION: sample_attribution, PER_IMAGE: per_image}
    wanted |= {CAMS: (record.folder / CAMS).exists(), ARRAYS: True}
    names = [name for name, asked in wanted.items() if asked or (destination / name).exists()]
    record.check(names)
    if destination.resolve() == record.folder.resolve():
        return destination
    strange = {p.name for p in destination.glob("*")} - {*wanted, TABLE}
    if strange:
        raise ValueError(
            f"{destination} has {', '.join(sorted(strange))}, which is no part of a record and "
            f"would be lost: move it away."
        )
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=home) as scratch:
        fresh, before = Path(scratch, "fresh"), Path(scratch, "before")
        fresh.mkdir()
        for name in (*names, TABLE):
            shutil.copyfile(record.folder / name, fresh / name)
        try:
            with suppress(FileNotFoundError):
                os.replace(destination, before)
            os.replace(fresh, destination)
        except OSError as error:
            raise OSError(
                f"cannot publish to {destination}: {error}. If another process is at it, try again."
            ) from error
        finally:  # Ctrl-C between the two loses nothing, either
            if before.exists() and not destination.exists():
                os.replace(before, destination)
    return destination
