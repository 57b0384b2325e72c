"""Every run of the book, as a named frozen configuration."""

from ccnotes.experiments.catalogue import CIFAR10_FULL, EXPERIMENTS, named
from ccnotes.experiments.experiment import PARTS, PLANTED, Experiment, dataset
from ccnotes.experiments.fingerprints import (
    SCHEMA,
    as_tree,
    changes,
    fingerprint,
    identity_of,
    in_use,
    rebuilt,
    teacher,
    teacher_experiment,
)

__all__ = [
    "CIFAR10_FULL",
    "EXPERIMENTS",
    "PARTS",
    "PLANTED",
    "SCHEMA",
    "Experiment",
    "as_tree",
    "changes",
    "dataset",
    "fingerprint",
    "identity_of",
    "in_use",
    "named",
    "rebuilt",
    "teacher",
    "teacher_experiment",
]
