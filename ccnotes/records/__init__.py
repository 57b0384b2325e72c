"""Recall a finished run or run it; what a record holds and where it came from."""

from ccnotes.records.afterwards import write_cams, write_compressed, write_swaps
from ccnotes.records.compare import (
    at_equal_loss,
    at_loss,
    best_and_last,
    best_minus_last,
    differences,
)
from ccnotes.records.layout import write
from ccnotes.records.origin import about, commit, provenance
from ccnotes.records.record import ARRAYS, CAMS, TABLE, Record, load, load_model
from ccnotes.records.runner import CHECKPOINT, at_once, how_long, run, runs
from ccnotes.records.store import (
    PUBLISHED,
    every_seed,
    find,
    publish,
    published,
    recall,
    runs_dir,
)

__all__ = [
    "ARRAYS",
    "CAMS",
    "CHECKPOINT",
    "PUBLISHED",
    "TABLE",
    "Record",
    "about",
    "at_equal_loss",
    "at_loss",
    "at_once",
    "best_and_last",
    "best_minus_last",
    "commit",
    "differences",
    "every_seed",
    "find",
    "how_long",
    "load",
    "load_model",
    "provenance",
    "publish",
    "published",
    "recall",
    "run",
    "runs",
    "runs_dir",
    "write",
    "write_cams",
    "write_compressed",
    "write_swaps",
]
