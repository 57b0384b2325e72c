"""What a run is called by: its configuration, as a hash; what differs; and back from a record."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ccnotes.attacks import PGD
from ccnotes.data import KNOWN, sha256_of
from ccnotes.experiments.catalogue import EXPERIMENTS
from ccnotes.experiments.experiment import PARTS, PLANTED, Experiment
from ccnotes.objectives import OWN_AVERAGE, OWN_BEST, Objective
from ccnotes.parts import Parts
from ccnotes.planted import Planted
from ccnotes.virtual import Virtual

SCHEMA = 1  # raise it when the same configuration starts to mean something else
# Names of the first edition. Its records bear them, and all fingerprints hash them still.
FIRST_NAMES = {
    "objective.teacher_weights": "objective.weights",
    "objective.push_cas": "objective.cas",
    "objective.push_placebo": "objective.placebo",
    "objective.push_contrast": "objective.contrast",
}
FIRST_SIGNS = ("objective.cas", "objective.placebo", "objective.contrast")  # below 0 pushed up
FIRST_MODES = {"train": "paper"}  # of BatchNorm
NESTED = {
    "planted": Planted,
    "parts": Parts,
    "attack": PGD,
    "objective": Objective,
    "virtual": Virtual,
}


def fingerprint(experiment: Experiment, precision: str, identity: str) -> str:
    """A name for the run's results: 16 hexadecimal digits.

    It depends on the fields in use that differ from their defaults, on the numbers' precision
    and on the data themselves, not on where they lie; so a new field orphans no record. Of a
    teacher, its run's configuration or its file's content counts, not its name.

    >>> fingerprint(Experiment(), "float32", PLANTED) == fingerprint(
    ...     Experiment(name="other"), "float32", PLANTED
    ... )
    True
    """
    changed = in_use(changes(as_tree(experiment), Experiment()), identity)
    hashed: list[Any] = [SCHEMA, precision, identity, with_first_names(changed)]
    for name in experiment.objective.teachers:
        if name.endswith(".safetensors"):
            hashed.append(sha256_of(Path(name)))
        elif name in (OWN_BEST, OWN_AVERAGE):
            hashed.append(name)
        else:
            run = teacher_experiment(experiment, name)
            hashed.append(fingerprint(run, run.precision, identity))
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(data: str) -> str | None:
    """The identity of data by their name; None for images whose name says nothing about them.

    >>> identity_of("planted")
    'planted-1'
    """
    return {"planted": PLANTED, "parts": PARTS, **KNOWN}.get(data)


def teacher_experiment(student: Experiment, name: str) -> Experiment:
    """The run called ``name``, on the student's data, at its seed. Raises ValueError for none.

    >>> teacher_experiment(Experiment(seed=3), "planted-at").seed
    3
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"teacher {name!r} is no experiment, no .safetensors file, and neither {OWN_BEST!r} "
            f"nor {OWN_AVERAGE!r}. Experiments: {', '.join(EXPERIMENTS)}."
        )
    same: dict[str, Any] = {
        field: getattr(student, field)
        for field in ("data", "image_size", "planted", "parts", "seed")
    }
    return replace(EXPERIMENTS[name], **same)


teacher = teacher_experiment  # its former name


def as_tree(experiment: Experiment) -> dict[str, Any]:
    """Its fields by name, those of the attack and so on as dictionaries.

    As :func:`dataclasses.asdict`, but without its deep copies: lists of records need many.

    >>> as_tree(Experiment())["attack"]["steps"]
    10
    """
    return vars(experiment) | {name: dict(vars(getattr(experiment, name))) for name in NESTED}


def rebuilt(content: Mapping[str, Any]) -> Experiment:
    """The experiment whose fields a record holds; fields that it lacks have their defaults.

    Raises ValueError for what is no experiment of this version, such as a field of a newer one.

    >>> rebuilt({"epochs": 3}) == Experiment(epochs=3)
    True
    """
    try:
        tree = with_todays_names(content)
        tree["lr_drops"] = tuple(tree.get("lr_drops", Experiment.lr_drops))
        objective = tree.get("objective", {})
        for name in ("teachers", "teacher_weights"):
            objective[name] = tuple(objective.get(name, ()))
        for name, kind in NESTED.items():
            tree[name] = kind(**tree.get(name, {}))
        return Experiment(**tree)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"its experiment is none that this version of ccnotes can have ({error}). "
            f"Where a newer version wrote it, read it with that one."
        ) from error


def changes(content: Mapping[str, Any], base: Experiment) -> dict[str, Any]:
    """The fields of an experiment, such as ``attack.eps``, that differ from those of ``base``.

    >>> changes({"epochs": 3}, Experiment())
    {'epochs': 3}
    """
    plain = flattened(as_tree(base))
    return {k: v for k, v in flattened(content).items() if v != plain.get(k)}


def in_use(changed: dict[str, Any], identity: str) -> dict[str, Any]:
    """Without fields that cannot change a run on such data, or that a fingerprint has elsewhere.

    >>> in_use({"name": "mine", "lr": 0.2, "test_size": 60}, PLANTED)
    {'lr': 0.2, 'test_size': 60}
    """
    unused = {"name", "data", "precision", "objective.teachers"}
    drawn = {PLANTED: "planted", PARTS: "parts"}
    unused |= {"planted", "parts"} - {drawn.get(identity)}
    unused |= {"image_size"} if identity in drawn else {"test_size"}
    return {k: v for k, v in changed.items() if not {k, k.split(".")[0]} & unused}


def with_first_names(changed: dict[str, Any]) -> dict[str, Any]:
    """Flat fields under the names, with the signs and words, that the first edition gave them.

    Whole numbers are written alike, 1 and 1.0.

    >>> with_first_names({"objective.push_cas": 0.5, "batchnorm": "train", "lr": 1.0})
    {'objective.cas': -0.5, 'batchnorm': 'paper', 'lr': 1}
    """
    found = {}
    for name, value in changed.items():
        name = FIRST_NAMES.get(name, name)
        if name in FIRST_SIGNS:
            value = 0 - value
        if name == "batchnorm":
            value = FIRST_MODES.get(value, value)
        found[name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return found


def with_todays_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record's fields, as a tree, under today's names; see :func:`with_first_names`.

    >>> with_todays_names({"batchnorm": "paper", "objective": {"cas": -0.5}})
    {'batchnorm': 'train', 'objective': {'push_cas': 0.5}}
    """
    tree: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in content.items()}
    objective = tree.get("objective", {})
    for name, first in FIRST_NAMES.items():
        _, old = first.split(".")
        if old in objective:
            value = objective.pop(old)
            objective[name.split(".")[1]] = 0 - value if first in FIRST_SIGNS else value
    modes = {first: mode for mode, first in FIRST_MODES.items()}
    if "batchnorm" in tree:
        tree["batchnorm"] = modes.get(tree["batchnorm"], tree["batchnorm"])
    return tree


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; tuples as lists, as in JSON.

    >>> flattened({"attack": {"eps": 0.1, "steps": 7}, "lr_drops": (0.5,)})
    {'attack.eps': 0.1, 'attack.steps': 7, 'lr_drops': [0.5]}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
