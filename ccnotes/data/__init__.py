"""Datasets as uint8 tensors: fetched, checked, decoded once, split; and batch augmentation."""

from ccnotes.data.augmentation import augment, cutout, reflect
from ccnotes.data.dataset import (
    VALIDATION_SEED,
    DataError,
    Dataset,
    Split,
    balanced,
    split,
    to_float,
)
from ccnotes.data.download import (
    SLOW_RATE,
    SLOW_WINDOW,
    TIMEOUT,
    Download,
    data_folder,
    download,
    sha256_of,
)
from ccnotes.data.folders import EXTENSIONS
from ccnotes.data.photos import ARCHIVES, KNOWN, TITLES, Photos, load_photos

__all__ = [
    "ARCHIVES",
    "EXTENSIONS",
    "KNOWN",
    "SLOW_RATE",
    "SLOW_WINDOW",
    "TIMEOUT",
    "TITLES",
    "VALIDATION_SEED",
    "DataError",
    "Dataset",
    "Download",
    "Photos",
    "Split",
    "augment",
    "balanced",
    "cutout",
    "data_folder",
    "download",
    "load_photos",
    "reflect",
    "sha256_of",
    "split",
    "to_float",
]
