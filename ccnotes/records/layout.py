"""What goes into which file of a record, and writing it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, stack

from ccnotes.checkpoints import State
from ccnotes.data import Dataset
from ccnotes.experiments import Experiment, as_tree
from ccnotes.files import replace_file, save_tensors, sha256_of
from ccnotes.networks import NETWORKS
from ccnotes.records.record import (
    ARRAYS,
    BEFORE,
    CAMS,
    FORMAT,
    PACKED,
    PER_IMAGE,
    SAMPLE_ATTRIBUTION,
    SWAPS,
    TABLE,
    VECTORS,
    WEIGHTS,
)

MAKE_ROOM = (
    "Free some space or choose another folder by $CCNOTES_RUNS; what was trained is kept, and the "
    "same call goes on from there."
)


class Place(NamedTuple):
    """The file that arrays go into, and the numbers that they are there."""

    file: str
    dtype: torch.dtype


# Every array of a record, by its name without "test_clean_" and the like. A new one is a line
# here; a new file also an option of publish(). To half precision is to three digits.
EVALUATION_ARRAYS = {  # of each evaluation between epochs
    "class_accuracy": Place(ARRAYS, torch.half),
    "similarity": Place(ARRAYS, torch.half),
    "instance_similarity": Place(ARRAYS, torch.half),
    "centred_similarity": Place(ARRAYS, torch.half),
    "blind_similarity": Place(ARRAYS, torch.half),
    "head_similarity": Place(ARRAYS, torch.half),
    "confusion": Place(ARRAYS, torch.int32),
    "sample_attribution": Place(SAMPLE_ATTRIBUTION, torch.half),
    "class_means": Place(VECTORS, torch.half),
    "head_weight": Place(VECTORS, torch.half),
    "head_bias": Place(VECTORS, torch.half),
}
NETWORK_ARRAYS = {  # of the best and of the last network
    "class_accuracy": Place(ARRAYS, torch.float32),
    "class_means": Place(ARRAYS, torch.half),
    "similarity": Place(ARRAYS, torch.float32),
    "instance_similarity": Place(ARRAYS, torch.float32),
    "centred_similarity": Place(ARRAYS, torch.float32),
    "blind_similarity": Place(ARRAYS, torch.float32),
    "head_similarity": Place(ARRAYS, torch.float32),
    "confusion": Place(ARRAYS, torch.int32),
    "stage_similarity": Place(ARRAYS, torch.float32),
    "radius": Place(ARRAYS, torch.float32),
    "radius_accuracy": Place(ARRAYS, torch.float32),
    "radius_cas": Place(ARRAYS, torch.float32),
    "head.weight": Place(ARRAYS, torch.half),
    "head.bias": Place(ARRAYS, torch.half),
    "correct": Place(PER_IMAGE, torch.uint8),
    "cas_draws": Place(PER_IMAGE, torch.half),
}
# Of names: the images or the network, and whether images were attacked.
PREFIX = re.compile("^(train_|validation_|test_|without_[a-z]+_|best_|last_)?(clean_|robust_)?")


def write(folder: Path, experiment: Experiment, data: Dataset, state: State) -> None:
    """Write a record: arrays and weights first, the table last, so that it vouches for all.

    Scalars of evaluations are rounded to six digits. Arrays go where ``EVALUATION_ARRAYS``
    and ``NETWORK_ARRAYS`` say, as the numbers that they name. Raises ValueError for one that
    they do not name, before anything is written.
    """
    rows = state.evaluations
    # A run that an earlier version began may have rows of other names.
    names = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
    columns = {name: [row[name] for row in rows] for name in names}
    stacked = {k: stack(column) for k, column in columns.items() if isinstance(column[0], Tensor)}
    first, *later = state.sessions
    content: dict[str, Any] = {
        "schema": FORMAT,
        "fingerprint": state.fingerprint,
        "finished": state.finished,
        "experiment": as_tree(experiment),
        "dataset": {
            k: getattr(data, k) for k in ("name", "title", "identity", "classes", "groups")
        },
        "provenance": first | {"seconds": round(state.seconds, 1)},
        "later_sessions": later,
        "evaluations": {k: [*map(digits, c)] for k, c in columns.items() if k not in stacked},
    }
    if state.watched:
        content["watched"] = {k: [row[k] for row in state.watched] for k in state.watched[0]}
        content["watched"]["accuracy"] = [*map(digits, content["watched"]["accuracy"])]
        content["collapsed"] = state.collapsed or None
    networks = list(WEIGHTS) if state.finished else []
    files = {WEIGHTS[which]: getattr(state, which)["weights"] for which in networks}
    if state.collapsed:
        files[BEFORE] = state.before["weights"]
    files |= {SAMPLE_ATTRIBUTION: {}, VECTORS: {}, PER_IMAGE: {}, ARRAYS: {}}
    place(stacked, EVALUATION_ARRAYS, files)
    for which in networks:
        chosen = getattr(state, which)
        found = {f"{which}_{name}": value for name, value in chosen["test"].items()}
        found |= {f"{which}_{k}": v for k, v in chosen["weights"].items() if k.startswith("head.")}
        place({name: v for name, v in found.items() if v.ndim}, NETWORK_ARRAYS, files)
        scalars = {name: v.item() for name, v in chosen["test"].items() if not v.ndim}
        content[which] = {"epoch": chosen["epoch"]} | scalars
    (folder / TABLE).unlink(missing_ok=True)  # an older table must not vouch for new arrays
    # nor what was made of older networks, or packed of older arrays, pass for that of new ones
    for made in (CAMS, SWAPS, BEFORE, f"{ARRAYS}{PACKED}"):
        (folder / made).unlink(missing_ok=True)
    shape = {"model": experiment.model, "width": str(experiment.width)}
    networks_files = {*WEIGHTS.values(), BEFORE}
    if experiment.model not in NETWORKS:  # of timm's networks some are made for one size
        shape["image_size"] = str(data.test.images.shape[-1])
    for file, tensors in files.items():
        about = shape | {"fingerprint": state.fingerprint} if file in networks_files else None
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_tensors(whole, folder / file, about)
    content["sha256"] = {file: sha256_of(folder / file) for file in files}
    compact = json.dumps(content, separators=(",", ":"))
    replace_file(folder / TABLE, f"{compact}\n".encode())


def place(
    arrays: Mapping[str, Tensor],
    places: Mapping[str, tuple[str, torch.dtype]],
    files: dict[str, dict[str, Tensor]],
) -> None:
    """Add arrays to the files that they go into. Raises ValueError for one that has no place.

    >>> files = {}
    >>> place({"test_clean_similarity": torch.eye(2)}, EVALUATION_ARRAYS, files)
    >>> files["arrays.safetensors"]["test_clean_similarity"].dtype
    torch.float16
    """
    for name, value in arrays.items():
        kind = PREFIX.sub("", name)
        if kind not in places:
            raise ValueError(
                f"the array {name} has no place in a record: give {kind!r} one in "
                f"EVALUATION_ARRAYS or NETWORK_ARRAYS of {__name__}."
            )
        file, dtype = places[kind]
        files.setdefault(file, {})[name] = value.to(dtype)


def digits(value: float) -> float:
    """``value`` to six digits; a whole number stays one.

    >>> digits(1 / 3), digits(12)
    (0.333333, 12)
    """
    return value if isinstance(value, int) else float(f"{value:.6g}")
