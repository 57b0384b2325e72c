"""Every run of the book, as a named frozen configuration."""

from ccnotes.experiments.catalogue import CIFAR10_FULL, EXPERIMENTS, named
from ccnotes.experiments.experiment import PARTS, PLANTED, Experiment, dataset
from ccnotes.experiments.fingerprints import (
    SCHEMA,
    changes,
    fingerprint,
    identity_of,
    in_use,
    rebuilt,
    teacher,
)

__all__ = [
    "CIFAR10_FULL",
    "EXPERIMENTS",
    "PARTS",
    "PLANTED",
    "SCHEMA",
    "Experiment",
    "changes",
    "dataset",
    "fingerprint",
    "identity_of",
    "in_use",
    "named",
    "rebuilt",
    "teacher",
]
