"""Images whose class-specific and cross-class features are known because we put them there."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ccnotes.checks import check_choice, real, whole

SplitName = Literal["train", "validation", "test", "unlabelled"]
MOST_GIGABYTES = 8  # of float64, before they are rounded to bytes


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What is planted. Classes ``0, ..., group_size - 1`` form the first group, and so on.

    Amplitudes and noise are in units of the [0, 1] pixel range; a pattern has root mean
    square 1 before it is scaled by its amplitude.

    >>> planted(9, Planted(num_classes=9, group_size=3)).groups.tolist()
    [0, 0, 0, 1, 1, 1, 2, 2, 2]
    """

    num_classes: int = 6
    group_size: int = 2  # classes that share one pattern
    image_size: int = 16  # pixels per side
    pattern_size: int = 8  # pixels per side
    class_amplitude: float = 0.3  # of the pattern that one class has for itself
    group_amplitude: float = 0.4  # of the pattern that a group of classes shares
    amplitude_spread: float = 0.3  # standard deviation of an amplitude, relative to its mean
    noise: float = 0.1  # standard deviation of the smooth background

    def __post_init__(self) -> None:
        for name in ("num_classes", "group_size", "image_size", "pattern_size"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0))
        for name in ("class_amplitude", "group_amplitude", "amplitude_spread", "noise"):
            object.__setattr__(self, name, real(name, getattr(self, name)))
        if self.group_size < 1 or self.num_classes < 2 or self.num_classes % self.group_size:
            raise ValueError(
                f"num_classes={self.num_classes} must be at least 2 and a multiple of "
                f"group_size={self.group_size}: every class belongs to one full group."
            )
        if not 4 <= self.pattern_size <= self.image_size:
            raise ValueError(
                f"pattern_size={self.pattern_size} must lie between 4 and "
                f"image_size={self.image_size}: it has to fit into the image, and noise that is "
                f"smooth over 3 pixels has no pattern on fewer than 4."
            )
        for name in ("class_amplitude", "group_amplitude", "amplitude_spread", "noise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r} must be a finite number >= 0.")


DEFAULT = Planted()


@dataclass(frozen=True, kw_only=True)
class PlantedImages:
    """Planted images with the whole truth about them.

    >>> drawn = planted(6)
    >>> drawn.group_patterns.shape, round(drawn.group_patterns.square().mean().item(), 6)
    (torch.Size([3, 3, 8, 8]), 1.0)
    """

    images: UInt8[Tensor, "images 3 size size"]
    labels: Int[Tensor, " images"]
    groups: Int[Tensor, " classes"]  # the group of each class
    class_patterns: Float[Tensor, "classes 3 pattern pattern"]  # root mean square 1
    group_patterns: Float[Tensor, "groups 3 pattern pattern"]
    class_corners: Int[Tensor, "images 2"]  # row and column of the pattern's top left pixel
    group_corners: Int[Tensor, "images 2"]
    class_amplitudes: Float[Tensor, " images"]
    group_amplitudes: Float[Tensor, " images"]


def planted(
    num_images: int,
    settings: Planted = DEFAULT,
    *,
    seed: int = 0,
    split: SplitName = "train",
) -> PlantedImages:
    """``num_images`` images, classes in turn, each with its class's and its group's pattern.

    An image is mid-grey plus smooth noise plus two patterns at random places, each scaled by
    its amplitude times ``1 + amplitude_spread * N(0, 1)``, rounded to uint8. The patterns
    depend on ``seed`` alone; the images on ``seed`` and ``split``, so that the splits are
    independent draws from one world. Raises ValueError for what cannot be drawn.

    >>> drawn = planted(12, Planted(noise=0.05), seed=3, split="test")
    >>> drawn.images.shape, drawn.labels.tolist()
    (torch.Size([12, 3, 16, 16]), [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
    """
    check_choice("split", split, get_args(SplitName))
    check_count(num_images, settings.num_classes, settings.image_size)
    s = settings
    # NumPy's generators keep their streams across versions and platforms; torch's do not.
    world = np.random.default_rng([seed, 0])
    groups = np.arange(s.num_classes) // s.group_size
    class_patterns = patterns(world, s.num_classes, s.pattern_size)
    group_patterns = patterns(world, s.num_classes // s.group_size, s.pattern_size)

    rng = np.random.default_rng([seed, 1 + get_args(SplitName).index(split)])
    labels = np.arange(num_images) % s.num_classes
    images = 0.5 + s.noise * smooth(rng, (num_images, 3, s.image_size, s.image_size))
    truth = {}
    for kind, pattern, amplitude in (
        ("class", class_patterns[labels], s.class_amplitude),
        ("group", group_patterns[groups[labels]], s.group_amplitude),
    ):
        corners = rng.integers(s.image_size - s.pattern_size + 1, size=(num_images, 2))
        amplitudes = amplitude * (1 + s.amplitude_spread * rng.standard_normal(num_images))
        for image, p, a, (top, left) in zip(images, pattern, amplitudes, corners, strict=True):
            image[:, top : top + s.pattern_size, left : left + s.pattern_size] += a * p
        truth[f"{kind}_corners"] = torch.from_numpy(corners)
        truth[f"{kind}_amplitudes"] = torch.from_numpy(amplitudes)
    return PlantedImages(
        images=torch.from_numpy((images.clip(0, 1) * 255).round().astype(np.uint8)),
        labels=torch.from_numpy(labels),
        groups=torch.from_numpy(groups),
        class_patterns=torch.from_numpy(class_patterns),
        group_patterns=torch.from_numpy(group_patterns),
        **truth,
    )


def check_count(num_images: int, num_classes: int, image_size: int) -> None:
    """ValueError for fewer images than classes, and for more than fit into memory."""
    if num_images < num_classes:
        raise ValueError(
            f"num_images={num_images} leaves a class without an image: "
            f"ask for at least num_classes={num_classes}."
        )
    if (gigabytes := num_images * 3 * image_size**2 * 8 / 1e9) > MOST_GIGABYTES:
        raise ValueError(
            f"num_images={num_images} of image_size={image_size} take {gigabytes:,.0f} GB "
            f"to draw, over {MOST_GIGABYTES}: ask for fewer or for smaller ones."
        )


def footprint(
    corners: Int[Tensor, "images 2"], settings: Planted
) -> Bool[Tensor, "images size size"]:
    """The pixels that the patterns with these top left corners cover, for example the groups'.

    >>> without_noise = Planted(noise=0, class_amplitude=0)
    >>> drawn = planted(6, without_noise)
    >>> covered = footprint(drawn.group_corners, without_noise)
    >>> covered.sum((1, 2)).tolist(), drawn.images[0][:, ~covered[0]].unique().tolist()
    ([64, 64, 64, 64, 64, 64], [128])
    """
    pixels = torch.arange(settings.image_size)
    rows, columns = (
        (pixels >= corner[:, None]) & (pixels < corner[:, None] + settings.pattern_size)
        for corner in corners.T
    )
    covered: Tensor = rows[:, :, None] & columns[:, None, :]
    return covered


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal noise, averaged over 3 x 3 pixels (wrapping around), with variance 1.

    >>> round(float(smooth(np.random.default_rng(0), (1000, 9, 9)).var()), 1)
    1.0
    """
    noise = rng.standard_normal(shape)
    for axis in (-2, -1):
        neighbours = [np.roll(noise, shift, axis) for shift in (-1, 0, 1)]
        noise = np.asarray(np.sum(neighbours, axis=0) / math.sqrt(3))
    return noise


def patterns(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Smooth patterns of zero mean and root mean square 1 in each channel.

    >>> drawn = patterns(np.random.default_rng(0), count=2, size=8)
    >>> drawn.shape, bool(np.allclose(drawn.mean((2, 3)), 0))
    ((2, 3, 8, 8), True)
    """
    pattern = smooth(rng, (count, 3, size, size))
    pattern -= pattern.mean((-2, -1), keepdims=True)
    return np.asarray(pattern / np.sqrt((pattern**2).mean((-2, -1), keepdims=True)).clip(1e-12))
