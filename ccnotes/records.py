"""Recall a finished run or run it; what a record holds and where it came from."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import platformdirs
import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import ccnotes
from ccnotes.attribution import grad_cam, group_similarity
from ccnotes.data import KNOWN, Dataset, to_float
from ccnotes.devices import hardware, pick_device, pick_precision
from ccnotes.evaluation import BATCH
from ccnotes.experiments import (
    EXPERIMENTS,
    PLANTED,
    SCHEMA,
    Experiment,
    changes,
    dataset,
    fingerprint,
    in_use,
    rebuilt,
    teacher,
)
from ccnotes.models import Network
from ccnotes.objectives import OWN_AVERAGE, OWN_BEST
from ccnotes.training import NETWORKS, OutOfTime, fit, part, read_state

PUBLISHED = Path(__file__).parent / "published"
CHECKPOINT, TABLE, ARRAYS = "checkpoint.pt", "record.json", "arrays.safetensors"
# The largest parts of a record, published for some only.
SAMPLES, IMAGES, CAMS = "samples.safetensors", "images.safetensors", "cams.safetensors"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run's results, read from its folder."""

    folder: Path
    content: dict[str, Any]  # record.json: configuration, scalars, provenance

    @property
    def experiment(self) -> dict[str, Any]:
        """The configuration, every field of :class:`ccnotes.experiments.Experiment`."""
        return self.content["experiment"]

    @property
    def provenance(self) -> dict[str, Any]:
        """Version, commit, date, hardware, torch, precision, threads, seconds."""
        return self.content["provenance"]

    @property
    def title(self) -> str:
        e = self.experiment
        return f"{self.content['dataset']['title']}, {e['name']}, seed {e['seed']}"

    @property
    def best(self) -> dict[str, float]:
        """Scalars on the final test images at the epoch of best validation robust accuracy."""
        return self.content["best"]

    @property
    def last(self) -> dict[str, float]:
        """Scalars on the final test images after the last epoch."""
        return self.content["last"]

    @property
    def table(self) -> pd.DataFrame:
        """One row an evaluation; columns such as ``epoch``, ``lr``, ``test_robust_accuracy``.

        For planted images also ``inside`` and ``across``, the mean similarity, on attacked test
        images, of two classes of one true group and of different groups, and, on the images as
        they are, ``clean_inside`` and ``clean_across``.
        """
        table = pd.DataFrame(self.content["evaluations"]).astype({"epoch": int})
        return table.assign(**self.by_group("test"))

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """Everything that is no scalar.

        ``test_robust_similarity`` and the like have one entry an evaluation in their first
        dimension; ``best_*`` and ``last_*`` are of the final test images (those of radii and
        stages of the ``eval_size`` test images), and ``best_head.weight``
        and ``best_head.bias`` are the head's. Stored to three digits, but for the matrices of
        ``best_*`` and ``last_*``.
        """
        return self.stored(ARRAYS)

    @cached_property
    def images(self) -> dict[str, Tensor]:
        """What judges the choice of final test images, of the best and of the last epoch.

        ``best_robust_correct`` and the like say of each whether it is recognised (0 or 1),
        ``best_robust_cas_draws`` are those of :func:`ccnotes.attribution.cas_draws`. Published
        for some records only; raises ValueError where they were not.
        """
        return self.stored(IMAGES)

    @cached_property
    def samples(self) -> Tensor:
        """Attribution vectors of the first test image of each class, attacked, in logits.

        Evaluations x classes x features. Published for some records only; raises ValueError
        where it was not.
        """
        return self.stored(SAMPLES)["test_sample_attribution"]

    @cached_property
    def cams(self) -> dict[str, Tensor]:
        """By epoch, best and last, Grad-CAM of each final test image, clean, for its own class.

        Images x rows x columns, in [0, 1] (see :func:`ccnotes.attribution.grad_cam`, divided by
        each map's maximum). Made afterwards, by ``python -m ccnotes cams``; raises ValueError
        where they were not.
        """
        return {which: maps.float() / 255 for which, maps in self.stored(CAMS).items()}

    def stored(self, name: str) -> dict[str, Tensor]:
        if not (self.folder / name).exists():
            how = "`python -m ccnotes cams`" if name == CAMS else "run it again with fresh=True"
            raise ValueError(f"{self.folder} has no {name}. To make it: {how}.")
        arrays = load_file(self.folder / name)
        return {k: v.float() if v.dtype == torch.half else v for k, v in arrays.items()}

    @property
    def groups(self) -> Tensor:
        """The true group of each class, of planted images; of photographs nothing."""
        return torch.tensor(self.content["dataset"]["groups"] or [])

    def by_group(self, prefix: str) -> dict[str, Any]:
        """``inside``, ``across`` and so on of the matrices whose names begin with ``prefix``."""
        means: dict[str, Any] = {}
        for kind, start in (("robust", ""), ("clean", "clean_")) if len(self.groups) else ():
            similarity = self.arrays[f"{prefix}_{kind}_similarity"]
            found = group_similarity(similarity, self.groups)
            means |= {
                f"{start}{n}": v.numpy() for n, v in zip(("inside", "across"), found, strict=True)
            }
        return means

    def model(self, which: Literal["best", "last"] = "best") -> Network:
        """The network of that epoch, in eval mode."""
        return load_model(self.folder / f"{which}.safetensors")


def runs(
    experiment: str | Experiment,
    seeds: Iterable[int] = (0,),
    *,
    data: str | None = None,
    data_dir: Path | str | None = None,
    device: str | None = None,
    fresh: bool = False,
) -> list[Record]:
    """The records of an experiment, one a seed.

    A record published with the book for exactly this configuration is returned, else one that
    this machine has made before; else the experiment is run and kept: a line says how long such
    runs took, a bar how far it is.
    ``fresh=True`` always runs it. ``data`` replaces the experiment's data.
    """
    e = named(experiment) if isinstance(experiment, str) else experiment
    e = replace(e, data=data or e.data)
    return [
        run(replace(e, seed=seed), data_dir=data_dir, device=device, fresh=fresh) for seed in seeds
    ]


def named(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment is called {name!r}. There are: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


def run(
    experiment: Experiment,
    *,
    data_dir: Path | str | None = None,
    device: str | None = None,
    fresh: bool = False,
    minutes: float | None = None,
    weights: bool = False,
    go_on: bool = False,
) -> Record:
    """Recall or run one experiment; see :func:`runs`.

    ``go_on=True`` first finishes a run that was stopped, even where there is a record.
    ``weights=True`` recalls only a record that has its models' weights. Teachers that are
    experiments are recalled with theirs, or trained first. Raises
    :class:`ccnotes.training.OutOfTime`, with all that was done kept, rather than go on beyond
    ``minutes``.
    """
    begun = time.perf_counter()
    found = None if fresh else recall(experiment, weights=weights)
    if found and not (go_on and stopped(found)):
        return found
    data, source = dataset(experiment, data_dir), experiment
    experiment = replace(experiment, data=data.name)  # the record names the data, not a path
    found = None if fresh else recall(experiment, data.identity, weights=weights)
    if found and not (go_on and stopped(found)):
        return found
    teachers = {}
    for name in experiment.objective.teachers:
        if name.endswith(".safetensors"):
            teachers[name] = load_model(Path(name))
        elif name not in (OWN_BEST, OWN_AVERAGE):
            e, left = teacher(source, name), remaining(minutes, begun)
            taught = run(e, data_dir=data_dir, device=device, minutes=left, weights=True)
            teachers[name] = taught.model("best")
    minutes = remaining(minutes, begun)
    where = pick_device(device)
    precision = pick_precision(experiment.precision, where)
    key = fingerprint(experiment, precision, data.identity)
    folder = runs_dir() / f"{experiment.name}-seed{experiment.seed}-{key}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    try:
        with FileLock(folder / "lock", timeout=0):
            if fresh:  # what was finished stands until this run is
                (folder / CHECKPOINT).unlink(missing_ok=True)
            checkpoint = folder / CHECKPOINT
            print(how_long(experiment), file=sys.stderr)
            try:
                state = fit(
                    experiment,
                    data,
                    checkpoint,
                    fingerprint=key,
                    device=where,
                    precision=precision,
                    teachers=teachers,
                    facts=provenance(where, precision),
                    minutes=minutes,
                )
            except (KeyboardInterrupt, OutOfTime, FloatingPointError):
                known = (folder / TABLE).exists() and load(folder).content["finished"]
                if checkpoint.exists() and not known:
                    state = read_state(checkpoint, key)
                    if state["evaluations"]:
                        with writing(folder):
                            write(folder, experiment, data, key, state)
                raise
            with writing(folder):
                write(folder, experiment, data, key, state)
            checkpoint.unlink()
    except Timeout:
        raise RuntimeError(
            f"another process is at work on this run, in {folder}. Wait for it or stop it."
        ) from None
    return load(folder)


def how_long(experiment: Experiment) -> str:
    """What finished runs of the same took, whatever their seed, precision and data, and on what."""
    took: dict[str, list[float]] = {}
    devices = set()
    with warnings.catch_warnings(action="ignore"):  # of records that cannot be read, others warn
        records = find()
    for record in records:
        differing = set(changes(record.experiment, experiment))
        if record.content["finished"] and differing <= {"seed", "precision", "data"}:
            p = record.provenance
            took.setdefault(p["hardware"], []).append(p["seconds"])
            devices.add(p["device"])
    on = [f"{np.mean(seconds):.0f} s on {hardware}" for hardware, seconds in took.items()]
    if not on:
        return f"{experiment.name}: no finished run with these settings is on record"
    gpu = "; on a GPU: none on record" * (devices == {"cpu"})
    return f"{experiment.name} took {', '.join(on)}{gpu}"


def stopped(record: Record) -> bool:
    """Whether this machine has a fresh run of the same that was stopped."""
    return (runs_dir() / record.folder.name / CHECKPOINT).exists()


def remaining(minutes: float | None, begun: float) -> float | None:
    return None if minutes is None else minutes - (time.perf_counter() - begun) / 60


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


def recall(
    experiment: Experiment, identity: str | None = None, *, weights: bool = False
) -> Record | None:
    """The finished record of exactly this configuration, published or from the cache, if any.

    ``identity`` is that of the data, where it does not follow from their name. With ``weights``
    only a record that has its models' weights will do.
    """
    identity = identity or {"planted": PLANTED, **KNOWN}.get(experiment.data)
    if identity is None:
        return None
    wanted = experiment.precision
    precisions = ("float32", "bfloat16") if wanted == "auto" else (wanted,)
    keys = tuple(fingerprint(experiment, precision, identity) for precision in precisions)
    matching = []
    for record in find(keys):
        # The hash knows only what differs from the defaults, so a default that has changed since
        # must not pass for the one that the record was made with.
        same = not in_use(changes(record.experiment, experiment), identity)
        found = record.content["fingerprint"] in keys and record.content["finished"] and same
        if found and (not weights or (record.folder / "best.safetensors").exists()):
            matching.append(record)
    # Made under the same setting rather than under one that came to the same precision.
    matching.sort(key=lambda record: record.experiment["precision"] != wanted)
    return matching[0] if matching else None


def find(ends: tuple[str, ...] = ("",)) -> list[Record]:
    """All records that can be read, published ones first, unfinished ones included.

    With ``ends`` only those whose folders' names end so, as they do in fingerprints.
    """
    records = []
    for home in (PUBLISHED, runs_dir()):
        for table in sorted(home.glob(f"*/{TABLE}")):
            if not table.parent.name.endswith(ends):
                continue
            try:
                records.append(load(table.parent))
            except ValueError as error:
                warnings.warn(f"passed over: {error}", stacklevel=2)
    return records


def runs_dir() -> Path:
    """Where this machine keeps its runs: $CCNOTES_RUNS, else the user's cache folder."""
    home = os.environ.get("CCNOTES_RUNS")
    return Path(home).expanduser() if home else platformdirs.user_cache_path("ccnotes") / "runs"


def write(
    folder: Path,
    experiment: Experiment,
    data: Dataset,
    key: str,
    state: dict[str, Any],
) -> None:
    """Write a record: arrays and weights first, the table last, so that it vouches for all.

    Rounded are scalars of evaluations, to six digits, and all large arrays, to half precision.
    """
    (folder / TABLE).unlink(missing_ok=True)  # an older table must not vouch for new arrays
    (folder / CAMS).unlink(missing_ok=True)  # nor older maps pass for those of new networks
    rows = state["evaluations"]
    names = list(rows[0]) if rows else []
    arrays = {
        name: torch.stack([row[name] for row in rows]).half()
        for name in names
        if isinstance(rows[0][name], Tensor)
    }
    scalars = {name: [digits(row[name]) for row in rows] for name in names if name not in arrays}
    first, *later = state["sessions"]
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "fingerprint": key,
        "finished": "last" in state and "test" in state["last"],
        "experiment": asdict(experiment),
        "dataset": {
            k: getattr(data, k) for k in ("name", "title", "identity", "classes", "groups")
        },
        "provenance": first | {"seconds": round(state["seconds"], 1)},
        "later_sessions": later,
        "evaluations": scalars,
    }
    for which in ("best", "last") if content["finished"] else ():
        chosen = state[which]
        scalars = {"epoch": chosen["epoch"]}
        for name, value in chosen["test"].items():
            if value.ndim:
                large = name.endswith(("class_means", "draws"))
                arrays[f"{which}_{name}"] = value.half() if large else value
            else:
                scalars[name] = value.item()
        content[which] = scalars
        weights = {k: v.contiguous() for k, v in chosen["weights"].items()}
        arrays |= {f"{which}_{k}": v.half() for k, v in weights.items() if k.startswith("head.")}
        shape = {"model": experiment.model, "width": str(experiment.width), "fingerprint": key}
        save_file(weights, folder / f"{which}.safetensors", metadata=shape)
    for name, ends in ((SAMPLES, ("sample_attribution",)), (IMAGES, ("correct", "draws"))):
        chosen = {key: arrays.pop(key) for key in list(arrays) if key.endswith(ends)}
        save_file(chosen, folder / name)
    save_file(arrays, folder / ARRAYS)
    text = folder / f"{TABLE}.new"
    text.write_text(json.dumps(content) + "\n")
    os.replace(text, folder / TABLE)


def digits(value: float) -> float:
    """``value`` to six digits; a whole number stays one."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def load(folder: Path) -> Record:
    """The record in ``folder``. Raises ValueError where there is none."""
    try:
        content = json.loads((folder / TABLE).read_text())
        schema = content["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / TABLE} cannot be read as a record ({type(error).__name__}). "
            f"Delete the folder, or move it away."
        ) from error
    if schema != SCHEMA:
        raise ValueError(f"{folder / TABLE} has schema {schema}; this version reads {SCHEMA}.")
    return Record(folder=folder, content=content)


def load_model(path: Path) -> Network:
    """The network saved in a record's ``best.safetensors`` or ``last.safetensors``.

    In eval mode, on the CPU. Raises ValueError for a file that no run of ccnotes wrote.
    """
    try:
        with safe_open(path, "pt") as file:
            shape = file.metadata() or {}
        weights = load_file(path)
        network = NETWORKS[shape["model"]]
        model = network(*weights["head.bias"].shape, int(shape["width"]))
        model.load_state_dict(weights)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a model that ccnotes saved ({error}). "
            f"Such files are called best.safetensors and last.safetensors, in a run's folder."
        ) from error
    return model.eval()


def write_cams(
    record: Record, data_dir: Path | str | None = None, *, data: str | None = None
) -> Path:
    """Make ``Record.cams`` from the networks that the record's folder has, and the run's data.

    ``data`` says where these are if they came from a folder of images, whose path no record
    keeps. Returns the file. Raises ValueError where the folder has no networks, and for data that
    are not the run's.
    """
    e = rebuilt(record.experiment)
    source = dataset(replace(e, data=data or e.data), data_dir)
    if source.identity != record.content["dataset"]["identity"]:
        raise ValueError(
            f"{source.title} are not the data of {record.title}: give the run's own by --data."
        )
    test = part(source.test, e.final_size or len(source.test))
    found = {}
    for which in ("best", "last"):
        model = load_model(record.folder / f"{which}.safetensors")
        maps = torch.cat(
            [
                grad_cam(model, model.stages[-1], to_float(images), labels)
                for images, labels in zip(
                    test.images.split(BATCH), test.labels.split(BATCH), strict=True
                )
            ]
        )
        top = maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        found[which] = (255 * maps / top).round().byte()
    with writing(record.folder):
        save_file(found, record.folder / CAMS)
    return record.folder / CAMS


def publish(
    record: Record,
    home: Path,
    *,
    weights: bool = False,
    samples: bool = False,
    images: bool = False,
) -> Path:
    """Copy a finished record to ``home``: its table and arrays, and what else is wanted.

    That is the networks' weights, ``Record.samples`` and ``Record.images``. ``Record.cams`` come
    along where they were made.
    """
    names = ["best.safetensors", "last.safetensors"] * weights
    names += [SAMPLES] * samples + [IMAGES] * images + [ARRAYS, TABLE]
    names += [CAMS] * (record.folder / CAMS).exists()
    destination = home / record.folder.name
    if missing := [name for name in names if not (record.folder / name).exists()]:
        raise ValueError(
            f"{record.folder} has no {', '.join(missing)} to publish: run it again with --fresh."
        )
    if destination.resolve() == record.folder.resolve():
        return destination
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    for name in names:
        shutil.copy(record.folder / name, destination / name)
    return destination


def best_and_last(records: Iterable[Record]) -> pd.DataFrame:
    """A row for each record and checkpoint (best, last): its scalars on the final test images.

    Before them its ``experiment``, ``eps`` of training and ``seed``. For planted images also
    ``inside``, ``across`` and so on; see :attr:`Record.table`.
    """
    rows = []
    for record in records:
        for which, scalars in (("best", record.best), ("last", record.last)):
            e = record.experiment
            row = {"experiment": e["name"], "eps": e["attack"]["eps"], "seed": e["seed"]}
            row |= {"checkpoint": which, **scalars}
            rows.append(row | {name: v.item() for name, v in record.by_group(which).items()})
    return pd.DataFrame(rows)


def best_minus_last(records: Iterable[Record]) -> pd.DataFrame:
    """A row for each record: ``experiment``, ``eps``, ``seed``, and what each scalar loses.

    That is :func:`best_and_last` at the best epoch less that at the last one.
    """
    run = ["experiment", "eps", "seed"]
    ends = best_and_last(records).pivot(index=run, columns="checkpoint")
    return (ends.xs("best", axis=1, level=1) - ends.xs("last", axis=1, level=1)).reset_index()


def differences(ends: pd.DataFrame, base: str) -> pd.DataFrame:
    """Each row of :func:`best_and_last` less that of ``base``, seed and checkpoint being the same.

    Raises ValueError where ``base`` lacks one of the seeds.
    """
    if missing := sorted(set(ends.seed) - set(ends.seed[ends.experiment == base])):
        raise ValueError(f"{base!r} has no record of seeds {missing} to compare with: add them.")
    values = ends.drop(columns="eps", errors="ignore").set_index(
        ["experiment", "seed", "checkpoint"]
    )
    pairs = list(zip(ends.seed, ends.checkpoint, strict=True))
    return (values - values.loc[base].loc[pairs].to_numpy()).reset_index()


def at_equal_loss(
    groups: dict[str, list[Record]], columns: list[str], *, levels: int = 20, log: bool = False
) -> pd.DataFrame:
    """Columns of the records' tables at equal loss: a row for each group and seed.

    The loss is that on attacked training images, the cross-entropy in nats whatever was
    minimised. Of each seed ``levels`` of them are spread evenly over the range that the runs of
    all groups pass through after their first evaluation. Where a run's loss first falls to a
    level its columns are read, between evaluations on straight lines; their means over levels are
    returned. Even levels weigh the early epochs, in which the loss falls fast; ``log=True``
    spreads them evenly in its logarithm. For :func:`differences`, ``experiment`` is the group's
    name. Raises ValueError where the groups have not the same seeds, or a seed's runs no range in
    common.
    """
    tables = {
        name: {record.experiment["seed"]: record.table for record in records}
        for name, records in groups.items()
    }
    seeds = {
        name: sorted(r.experiment["seed"] for r in records) for name, records in groups.items()
    }
    first = sorted(next(iter(tables.values())))  # each seed once
    if any(own != first for own in seeds.values()):
        said = "; ".join(f"{name} {own}" for name, own in seeds.items())
        raise ValueError(f"the groups must have the same seeds, each once, but have: {said}.")
    rows = []
    for seed in first:
        losses = [found[seed].train_robust_loss for found in tables.values()]
        low, high = max(loss.min() for loss in losses), min(loss.iloc[0] for loss in losses)
        if not low < high:
            raise ValueError(f"the runs of seed {seed} have no training loss in common.")
        goals = (np.geomspace if log else np.linspace)(high, low, levels + 1)[1:]
        for name, found in tables.items():
            means = {column: at_loss(found[seed], column, goals).mean() for column in columns}
            row = {"experiment": name, "seed": seed, "checkpoint": "equal loss"}
            rows.append(row | means)
    return pd.DataFrame(rows)


def at_loss(
    table: pd.DataFrame, column: str, levels: Float[np.ndarray, " levels"]
) -> Float[np.ndarray, " levels"]:
    """A column of a record's table where ``train_robust_loss`` first falls to each level.

    NaN for a level that is not reached, or was before the first evaluation.
    """
    loss, values = table.train_robust_loss.to_numpy(), table[column].to_numpy()
    after = np.argmax(loss <= levels[:, None], axis=1)  # 0 where there is none, too
    before = np.maximum(after - 1, 0)
    fall = np.where(after > 0, loss[before] - loss[after], np.nan)
    return values[before] + (loss[before] - levels) / fall * (values[after] - values[before])


def published(start: str, seed: int = 0) -> dict[str, Record]:
    """The published records of one seed whose names begin so, by what follows in their names."""
    found = (r for r in find() if r.folder.parent == PUBLISHED and r.experiment["seed"] == seed)
    names = {record.experiment["name"]: record for record in found}
    return {name.removeprefix(start): r for name, r in names.items() if name.startswith(start)}


def provenance(device: torch.device, precision: str) -> dict[str, Any]:
    """What a result needs to be judged and made again, apart from its configuration."""
    return {
        "ccnotes": ccnotes.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device.type,
        "hardware": hardware(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),  # a plain string, for the checkpoint
        "python": platform.python_version(),
        "system": platform.system(),
    }


def commit() -> str:
    """The checkout's commit, with "+" where files differ from it; the version if installed."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():  # another project's repository may lie further up
        return f"v{ccnotes.__version__}"
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=12"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}
    try:
        found = subprocess.run([*command, "--dirty=+", "--exclude=*"], **options)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def about() -> str:
    """One line on version and device, for the head of a notebook."""
    device = pick_device()
    precision = pick_precision("auto", device)
    return (
        f"ccnotes {ccnotes.__version__}, {hardware(device)}, {precision}, torch {torch.__version__}"
    )
