"""Images of named parts: one that a class has for itself, one that classes share, and clutter."""

import colorsys
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ccnotes.checks import check_choice, real, whole
from ccnotes.planted import SplitName, check_count, smooth

Kind = Literal["own", "shared", "clutter"]
SIZE = 8  # pixels per side of a part
WHITE = (1.0, 1.0, 1.0)
GOLDEN = (math.sqrt(5) - 1) / 2
# Masks, side by side: # dark, o light in the part's colour, . nothing.
SHARED = ("wheels", "wings", "ears")
SHARED_MASKS = """
........ #......# .#....#.
oooooooo ##....## .##..##.
oooooooo o##..##o #o#..#o#
.##..##. oo####oo #oo##oo#
#oo##oo# .oo##oo. #oooooo#
#oo##oo# ..o##o.. #o#oo#o#
.##..##. ...##... .#oooo#.
........ ........ ..####..
"""
OWN = {  # class: the name of its part, and its colour (red, green, blue)
    "car": ("cabin", (-0.5, 0.4, 1.0)),
    "truck": ("crate", (1.0, 0.2, -0.7)),
    "bird": ("beak", (1.0, 0.9, -0.7)),
    "plane": ("propeller", (0.4, -0.2, 1.0)),
    "cat": ("fish", (1.0, -0.2, 0.5)),
    "dog": ("bone", (-0.6, 1.0, 0.1)),
}
OWN_MASKS = """
........ oooooooo oo##.... .ooo.... ..###... ........
..oooo.. oo####oo ooooo##. .ooo#.oo .#ooo#.o oo####oo
.o##o#o. o#o##o#o oo#ooooo ..oo#ooo #oooo#oo oo####oo
o###o##o o##oo##o oooooooo .##oo#oo #o#ooooo .oooooo.
oooooooo o##oo##o ######## oo#oo##. #ooooooo .oooooo.
oooooooo o#o##o#o oooooo#. ooo#oo.. #oooo#oo oo####oo
##o##o## oo####oo oooo##.. oo.#ooo. .#ooo#.o oo####oo
........ oooooooo oo##.... ....ooo. ..###... ........
"""
DRAWN_GROUP = len(OWN) // len(SHARED)  # classes that a shared part is drawn for


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What images of parts are made of.

    Classes ``0, ..., group_size - 1`` form the first group, and so on. Amplitudes and noise are in
    units of the [0, 1] pixel range; a part has root mean square 1 before it is scaled by its
    amplitude. The defaults are a regime in which robust accuracy peaks and falls. Raises ValueError
    for what cannot be drawn.

    >>> parts(9, Parts(num_classes=9, group_size=3)).classes[:4]
    ('car', 'truck', 'class 2', 'bird')
    """

    num_classes: int = 6
    group_size: int = 2  # classes that share a part; 1: none does
    image_size: int = 20  # pixels per side
    own_amplitude: float = 0.22  # of the part that one class has for itself
    shared_amplitude: float = 0.35  # of the part that the classes of a group share
    clutter_amplitude: float = 0.25  # of the part that one image has for itself
    amplitude_spread: float = 0.4  # standard deviation of an amplitude, relative to its mean
    noise: float = 0.05  # standard deviation of the smooth background
    label_noise: float = 0.0  # share of the training labels that are wrong

    def __post_init__(self) -> None:
        for name, low in (("num_classes", 2), ("group_size", 1), ("image_size", SIZE)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low))
        if self.num_classes % self.group_size:
            raise ValueError(
                f"num_classes={self.num_classes} must be a multiple of "
                f"group_size={self.group_size}: every class belongs to one full group."
            )
        amplitudes = (f"{kind}_amplitude" for kind in get_args(Kind))
        for name in (*amplitudes, "amplitude_spread", "noise", "label_noise"):
            value = real(name, getattr(self, name))
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r} must be a finite number >= 0.")
            object.__setattr__(self, name, value)
        if self.label_noise > 1:
            raise ValueError(
                f"label_noise={self.label_noise:g} is a share of the labels, at most 1. "
                f"Did you mean label_noise={self.label_noise:g} / 100?"
            )


DEFAULT = Parts()


@dataclass(frozen=True, kw_only=True)
class PartImages:
    """Images of parts with the whole truth about them.

    >>> drawn = parts(6)
    >>> drawn.classes[0], drawn.own_names[0], drawn.shared_names[drawn.groups[0]]
    ('car', 'cabin', 'wheels')
    """

    images: UInt8[Tensor, "images 3 size size"]
    labels: Int[Tensor, " images"]  # to train on: some of them may be wrong
    true_labels: Int[Tensor, " images"]
    groups: Int[Tensor, " classes"]  # the group of each class
    classes: tuple[str, ...]
    own_names: tuple[str, ...]  # of each class's own part
    shared_names: tuple[str, ...]  # of each group's
    own_parts: Float[Tensor, "classes 3 8 8"]  # root mean square 1; 0 where there is nothing
    shared_parts: Float[Tensor, "groups 3 8 8"]
    clutter_parts: Float[Tensor, "images 3 8 8"]
    own_corners: Int[Tensor, "images 2"]  # row and column of the part's top left pixel
    shared_corners: Int[Tensor, "images 2"]
    clutter_corners: Int[Tensor, "images 2"]
    own_amplitudes: Float[Tensor, " images"]  # 0 where the part is not there
    shared_amplitudes: Float[Tensor, " images"]
    clutter_amplitudes: Float[Tensor, " images"]
    without: Kind | None  # what was left out of every image

    def named(self, image: int) -> str:
        """What is drawn in an image, and which classes have it.

        >>> parts(6).named(0)
        "cabin: car's own; wheels: car and truck; the rest is clutter"
        """
        y = int(self.true_labels[image])
        group = self.groups[y]
        alike = [name for name, g in zip(self.classes, self.groups, strict=True) if g == group]
        told = {
            f"{self.own_names[y]}: {self.classes[y]}'s own": self.own_amplitudes,
            f"{self.shared_names[group]}: {' and '.join(alike)}": self.shared_amplitudes,
            "the rest is clutter": self.clutter_amplitudes,
        }
        return "; ".join(part for part, amplitudes in told.items() if amplitudes[image] > 0)


def parts(
    num_images: int,
    settings: Parts = DEFAULT,
    *,
    seed: int = 0,
    split: SplitName = "train",
    without: Kind | None = None,
) -> PartImages:
    """``num_images`` images, classes in turn, each with its class's part, its group's, and clutter.

    An image is mid-grey plus smooth noise plus three parts at random places, which may overlap;
    each is scaled by its amplitude times ``1 + amplitude_spread * N(0, 1)``, at least 0, and the
    sum is rounded to uint8. The parts of classes and groups are the same for every seed, clutter
    is an image's own. All else depends on ``seed`` and ``split``; each ingredient is drawn for
    itself, so that other amplitudes, or one kind left out by ``without``, leave the rest of every
    image as it is, and fewer images are the first of more.

    In the training split exactly ``round(label_noise * num_images)`` labels are wrong, so that
    every seed has as many; which ones is random, and so is the wrong class, uniform over the
    others. Labels of the other splits are true. Raises ValueError for what cannot be drawn.

    >>> drawn = parts(12, Parts(noise=0.02), seed=3, split="test")
    >>> drawn.images.shape, drawn.labels.tolist()
    (torch.Size([12, 3, 20, 20]), [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
    >>> parts(12, seed=3, split="test", without="shared").shared_amplitudes.unique()
    tensor([0.], dtype=torch.float64)
    """
    s, n = settings, whole("num_images", num_images, 1)
    check_draw(n, s, split, without)
    classes, own_names, own = zip(*(own_part(c, s) for c in range(s.num_classes)), strict=True)
    groups = np.arange(s.num_classes) // s.group_size
    shared_names, shared = zip(*map(shared_part, range(groups[-1] + 1)), strict=True)
    true_labels = np.arange(n) % s.num_classes
    # NumPy's generators keep their streams across versions and platforms; torch's do not.
    rng = np.random.default_rng([whole("seed", seed, 0), 1 + get_args(SplitName).index(split)])
    background, *kinds, masks, hues, wrong = rng.spawn(7)  # so that fewer are the first of more
    colours = np.array([hue(int(k)) for k in hues.integers(1000, size=n)])
    drawn = {
        "own": np.stack(own),
        "shared": np.stack(shared),
        "clutter": in_colour(doodles(masks, n), colours),
    }
    which = {"own": true_labels, "shared": groups[true_labels], "clutter": np.arange(n)}
    images = 0.5 + s.noise * smooth(background, (n, 3, s.image_size, s.image_size))
    truth = {f"{kind}_parts": torch.from_numpy(drawn[kind]) for kind in drawn}
    for kind, stream in zip(get_args(Kind), kinds, strict=True):
        mean = 0 if kind == without else getattr(s, f"{kind}_amplitude")
        corners, amplitudes = placed(n, mean, s, stream)
        add(images, amplitudes[:, None, None, None] * drawn[kind][which[kind]], corners)
        truth[f"{kind}_corners"] = torch.from_numpy(corners)
        truth[f"{kind}_amplitudes"] = torch.from_numpy(amplitudes)
    noise = s.label_noise if split == "train" else 0.0
    return PartImages(
        images=torch.from_numpy((images.clip(0, 1) * 255).round().astype(np.uint8)),
        labels=torch.from_numpy(mislabelled(true_labels, s.num_classes, noise, wrong)),
        true_labels=torch.from_numpy(true_labels),
        groups=torch.from_numpy(groups),
        classes=classes,
        own_names=own_names,
        shared_names=shared_names,
        without=without,
        **truth,
    )


def check_draw(num_images: int, settings: Parts, split: str, without: str | None) -> None:
    """ValueError for images that cannot be drawn."""
    check_choice("split", split, get_args(SplitName))
    if without is not None:
        check_choice("without", without, get_args(Kind))
    check_count(num_images, settings.num_classes, settings.image_size)


def placed(
    count: int, mean: float, settings: Parts, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Corners and amplitudes of a part in each of ``count`` images."""
    places, sizes = rng.spawn(2)
    corners = places.integers(settings.image_size - SIZE + 1, size=(count, 2))
    spread = 1 + settings.amplitude_spread * sizes.standard_normal(count)
    return corners, mean * spread.clip(0)  # no part becomes its negative, which is another one


def mislabelled(
    labels: np.ndarray, num_classes: int, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """The labels, of which exactly ``round(noise * images)`` are of another class.

    >>> int((mislabelled(np.zeros(100, int), 6, 0.1, np.random.default_rng(0)) > 0).sum())
    10
    """
    given, count = labels.copy(), round(noise * len(labels))
    wrong = rng.permutation(len(labels))[:count]
    given[wrong] += rng.integers(1, num_classes, size=count)
    return given % num_classes


def own_part(label: int, settings: Parts) -> tuple[str, str, np.ndarray]:
    """The name of a class, that of its own part, and the part; drawn, or by the rule.

    Two classes a group are drawn, so that a car and a truck share wheels in larger groups, too.
    """
    group, place = divmod(label, settings.group_size)
    if place < DRAWN_GROUP and (number := DRAWN_GROUP * group + place) < len(OWN):
        name, (part, colour) = list(OWN.items())[number]
        return name, part, in_colour(marks(OWN_MASKS)[number], np.array(colour))
    rng = np.random.default_rng([label, 0, 0])
    return f"class {label}", f"own {label}", in_colour(doodles(rng, 1)[0], np.array(hue(label)))


def shared_part(group: int) -> tuple[str, np.ndarray]:
    """The name of a group's part, and the part; drawn, or by the rule; always white."""
    if group < len(SHARED):
        return SHARED[group], in_colour(marks(SHARED_MASKS)[group], np.array(WHITE))
    rng = np.random.default_rng([group, 0, 1])
    return f"shared {group}", in_colour(doodles(rng, 1)[0], np.array(WHITE))


def marks(drawing: str) -> np.ndarray:
    """Masks drawn side by side, as 1 (light), -1 (dark) and 0 (nothing): masks x rows x columns.

    >>> marks("o# ..").tolist()
    [[[1, -1]], [[0, 0]]]
    """
    masks = zip(*(line.split() for line in drawing.strip().splitlines()), strict=True)
    pixels = np.array([[list(row) for row in mask] for mask in masks])
    return np.asarray((pixels == "o").astype(int) - (pixels == "#"))


def doodles(rng: np.random.Generator, count: int) -> np.ndarray:
    """Smooth random masks, the same left and right: 20 pixels light, 20 dark, of 64.

    >>> (doodles(np.random.default_rng(0), 2) == 1).sum((1, 2)).tolist()
    [20, 20]
    """
    heights = smooth(rng, (count, SIZE, SIZE))
    left = (heights + heights[..., ::-1])[..., : SIZE // 2].reshape(count, -1)
    order = left.argsort(1, kind="stable").argsort(1, kind="stable").reshape(count, SIZE, -1)
    half = (order >= 22).astype(int) - (order < 10)
    return np.concatenate([half, half[..., ::-1]], axis=2)


def hue(k: int) -> tuple[float, ...]:
    """The k-th colour: hues by the golden section, so that none comes twice."""
    return tuple(2 * value - 0.7 for value in colorsys.hsv_to_rgb(k * GOLDEN % 1, 0.85, 0.95))


def in_colour(masks: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Masks (... x 8 x 8) in their colours (... x 3): parts of ... x 3 x 8 x 8.

    Dark pixels are grey, as dark as makes the part's mean 0; its root mean square is 1.

    >>> part = in_colour(np.array([[1, -1], [0, 0]]), np.array(WHITE))
    >>> part[0].round(3).tolist()
    [[1.414, -1.414], [0.0, 0.0]]
    """
    light, dark = masks == 1, masks == -1
    ratio = colours.mean(-1) * light.sum((-2, -1)) / dark.sum((-2, -1))
    part = (
        light[..., None, :, :] * colours[..., None, None]
        - (dark * ratio[..., None, None])[..., None, :, :]
    )
    return np.asarray(part / np.sqrt((part**2).mean((-3, -2, -1), keepdims=True)))


def add(images: np.ndarray, scaled: np.ndarray, corners: np.ndarray) -> None:
    """Add a part to each image, in place, its top left pixel at the image's corner."""
    rows, columns = (corner[:, None] + np.arange(SIZE) for corner in corners.T)
    one = np.arange(len(images))[:, None, None]
    pixels = np.moveaxis(images, 1, -1)  # a view: channels last, so that pixels are indexed alone
    pixels[one, rows[:, :, None], columns[:, None, :]] += np.moveaxis(scaled, 1, -1)
