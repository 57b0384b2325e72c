"""Datasets as uint8 tensors: fetched, checked, decoded once, split; and batch augmentation."""

from ccnotes.data.archives import ARCHIVES, Photos
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
from ccnotes.data.downloads import (
    SLOW_RATE,
    SLOW_WINDOW,
    TIMEOUT,
    Download,
    data_folder,
    download,
)
from ccnotes.data.folders import EXTENSIONS
from ccnotes.data.photos import KNOWN, TITLES, load_photos
from ccnotes.files import sha256_of

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
