"""Datasets as uint8 tensors, and how they are split."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from ccnotes.types import Images, Pixels

VALIDATION_SEED = 0  # fixed, so that no run of any seed trains on another's validation images


class DataError(RuntimeError):
    """Data that cannot be fetched or read; the message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a dataset: raw pixels, and labels that index its classes."""

    images: Pixels
    labels: Int[Tensor, " samples"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        return Split(images=self.images.to(device), labels=self.labels.to(device))

    def take(self, index: Int[Tensor, " chosen"]) -> "Split":
        return Split(images=self.images[index], labels=self.labels[index])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images to train on, to choose a checkpoint with, and to test on."""

    name: str  # for programs: "planted", "parts", "cifar10", "cifar100", "svhn", ...
    title: str  # for people
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    identity: str  # of photographs a SHA-256, wherever they lie; of drawn images their recipe
    groups: tuple[int, ...] | None = None  # the true group of each class, where it is known
    unlabelled: Split | None = None  # apart from all others; training does not see its labels
    lacking: Split | None = None  # training images without a kind of part; labels: their groups
    # The test images without a kind of part, "own" or "shared", where it is known: of parts.
    without: Mapping[str, Split] = field(default_factory=dict)


def to_float(images: Pixels) -> Images:
    """Pixels in [0, 1], float32.

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3))
    tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    return images.to(torch.float32) / 255


def split(
    photos: Split, train_size: int | None, validation_size: int, seed: int
) -> tuple[Split, Split]:
    """Training and validation images, both balanced and in the order of ``photos``.

    The validation images are the same for every ``seed``, which draws the ``train_size`` training
    images (``None``: all) from the rest. ValueError where there are not enough.

    >>> images, labels = torch.zeros(6, 3, 8, 8).byte(), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> photos = Split(images=images, labels=labels)
    >>> train, validation = split(photos, None, 2, seed=0)
    >>> train.labels, validation.labels
    (tensor([0, 0, 1, 1]), tensor([0, 1]))
    """
    counts = torch.bincount(photos.labels)
    if not len(counts) or not counts.all():
        raise ValueError(
            f"there are {counts.tolist()} images to train on of the classes 0, 1, ...: each class "
            f"needs one at least."
        )
    classes, smallest = len(counts), int(counts.min())
    most = classes * (smallest - 1)  # drawn evenly, that many leave each class an image
    if not 0 <= validation_size <= most:
        raise ValueError(
            f"validation_size={validation_size} must lie in 0..{most}, so that each of the "
            f"{classes} classes keeps a training image (the smallest has {smallest}). "
            f"Try {min(most, len(photos) // 10)}."
        )
    rest = len(photos) - validation_size
    if train_size is not None and not classes <= train_size <= rest:
        raise ValueError(
            f"train_size={train_size} must lie in {classes}..{rest}: at least one image of each "
            f"class, at most what validation_size={validation_size} leaves of {len(photos)}. "
            f"Set it to {rest} or None to train on all of these."
        )
    chosen = balanced(photos.labels, validation_size, VALIDATION_SEED)
    train = photos.take(others(photos, chosen))
    if train_size is not None:
        train = train.take(balanced(train.labels, train_size, seed))
    return train, photos.take(chosen)


def unlabelled_part(
    photos: Split, train_size: int | None, validation_size: int, seed: int, count: int
) -> Split:
    """``count`` more images, apart from those that :func:`split` takes with the same settings.

    As many of each class as of any other; more of them begin with fewer. ValueError where there
    are not enough.

    >>> images, labels = torch.arange(8).byte().view(8, 1, 1, 1), torch.tensor([0, 1] * 4)
    >>> photos = Split(images=images, labels=labels)
    >>> found = unlabelled_part(photos, 2, 2, 0, count=4)
    >>> train, validation = split(photos, 2, 2, 0)
    >>> sorted(torch.cat([p.images for p in (found, train, validation)]).flatten().tolist())
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    rest = len(photos) - validation_size - (train_size or 0)
    if train_size is None or count > rest:
        raise ValueError(
            f"unlabelled_size={count} images must be apart from train_size={train_size} and "
            f"validation_size={validation_size} of {len(photos)}: give a train_size, and at most "
            f"what it leaves."
        )
    pool = photos.take(others(photos, balanced(photos.labels, validation_size, VALIDATION_SEED)))
    both = balanced(pool.labels, train_size + count, seed)
    train = balanced(pool.labels, train_size, seed)
    return pool.take(both[~torch.isin(both, train)])


def others(split: Split, chosen: Int[Tensor, " chosen"]) -> Int[Tensor, " others"]:
    """The indices of all images but those chosen."""
    left = torch.ones(len(split), dtype=torch.bool)
    left[chosen] = False
    return torch.where(left)[0]


def balanced(labels: Int[Tensor, " samples"], count: int, seed: int) -> Int[Tensor, " chosen"]:
    """Indices of ``count`` samples drawn as evenly over the classes as they allow, ascending.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    >>> labels[balanced(labels, 5, seed=0)]
    tensor([0, 0, 1, 2, 2])
    """
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(order)  # how many of its own class were drawn before
    for label in torch.unique(labels):
        mine = labels[order] == label
        rank[mine] = torch.arange(int(mine.sum()))
    return order[rank.argsort(stable=True)[:count]].sort().values
