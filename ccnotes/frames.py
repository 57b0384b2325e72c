"""Photographs attacked beforehand, on networks too large for a page, which then leafs through."""

import base64
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ccnotes.attacks import PGD, pgd
from ccnotes.foreign import network_named, shipped
from ccnotes.modes import evaluating
from ccnotes.photographs import PICTURES, SIZE, credits, labels, picture, rounded
from ccnotes.records import PUBLISHED
from ccnotes.records.origin import provenance
from ccnotes.weights import load_weights

PUBLISHED_FRAMES = PUBLISHED / "frames.json"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
FILES = ("bird-1.jpg", "automobile-2.jpg", "truck-2.jpg", "cat-2.jpg")
MOST = 16  # 255ths; one frame for each up to it
BLOCK = 5  # pixels of a photograph, each way, for one that the networks see: their mean
BARS = 6  # classes that are shown of each photograph
STEPS = 10  # of PGD, each a quarter of the radius


class Frames(NamedTuple):
    """A photograph, and at each radius from 0 on how it is changed and what a network says."""

    file: str
    label: int  # a place in ``classes``
    classes: list[str]  # the likeliest, over all radii and networks
    signs: list[list[str]]  # networks, radii from 1 on: a bit per channel of a block, in base64
    p: list[list[list[float]]]  # networks, radii, classes

    def x(self) -> Float[Tensor, "1 3 size size"]:
        """The photograph in [0, 1]."""
        return torch.from_numpy(picture(self.file).copy()).permute(2, 0, 1)[None] / 255

    def attacked(self, network: int, eps: int) -> Float[Tensor, "1 3 size size"]:
        """The photograph as changed by ``eps``, in 255ths."""
        if not eps:
            return self.x()
        bits = np.unpackbits(np.frombuffer(base64.b64decode(self.signs[network][eps - 1]), "u1"))
        signs = torch.from_numpy(2.0 * bits.reshape(SIZE, SIZE, 3) - 1).float()
        return moved(self.x(), signs.permute(2, 0, 1)[None], eps)


def attack_of(eps: float) -> PGD:
    """The attack of pages, at a radius in 255ths.

    >>> attack_of(4).step_size == 1 / 255
    True
    """
    radius = eps / 255
    return PGD(eps=radius, step_size=radius / 4, steps=STEPS, random_start=False)


def moved(
    x: Float[Tensor, "images 3 size size"], signs: Float[Tensor, "images 3 small small"], eps: float
) -> Float[Tensor, "images 3 size size"]:
    """Each block of photographs changed by ``eps`` 255ths, up or down, and clipped to [0, 1].

    >>> moved(torch.zeros(1, 3, 5, 5), torch.ones(1, 3, 1, 1), 51)[0, 0, 4, 4].item()
    0.20000000298023224
    """
    return (x + F.interpolate(signs, scale_factor=BLOCK) * eps / 255).clamp(0, 1)


def framed(networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """What networks say of photographs at each radius: for ``published``, in a minute or two.

    PGD from the photograph as the networks see it; then each block is changed by the whole radius,
    towards where PGD went. So a sign says it all. The probabilities are those of the photograph
    that is shown. In float32, on the CPU.
    """
    them = [c for c in credits() if c.file in FILES]
    x = torch.cat([Frames(c.file, 0, [], [], []).x() for c in them])
    y = labels(CLASSES)[[credits().index(c) for c in them]]
    small, found = F.avg_pool2d(x, BLOCK), dict[str, Any]()
    for name, network in networks.items():
        tables, signs = list[Tensor](), list[list[str]]()
        for eps in range(MOST + 1):
            up = pgd(network, small, y, attack_of(eps)) > small
            with evaluating(network), torch.no_grad():
                shown = moved(x, 2.0 * up - 1, eps)
                tables.append(network(F.avg_pool2d(shown, BLOCK)).softmax(1))
            signs.append([packed(image) for image in up])
        by_photograph = [*zip(*signs[1:], strict=True)]
        found[name] = {"p": rounded(torch.stack(tables, 1)), "signs": by_photograph}
    made = provenance(torch.device("cpu"), "float32")
    kept = ("commit", "date", "hardware", "precision", "threads", "torch")
    return {
        "photographs": [c.file for c in them],
        "networks": found,
        "made": {key: made[key] for key in kept},
    }


def packed(up: Tensor) -> str:
    """Which channels go up, row by row, channels last, a bit each."""
    bits = np.packbits(up.permute(1, 2, 0).numpy().ravel())
    return base64.b64encode(bits.tobytes()).decode()


def standard() -> nn.Module:
    """A ResNet-18 without adversarial training, on CIFAR-10, from the wheel of pyautoattack.

    Raises ModuleNotFoundError where this is not installed.
    """
    if (found := shipped()) is None:
        raise ModuleNotFoundError(
            "The standard network comes with pyautoattack, which is not installed: pip install "
            "'ccnotes[autoattack]', or pip install pyautoattack."
        )
    name, weights = found
    return load_weights(network_named(name, len(CLASSES)), weights).eval()


@cache
def published_frames() -> list[Frames]:
    """What is published of :func:`framed`, a photograph each, in the order of ``FILES``.

    >>> published_frames()[0].classes[published_frames()[0].label]
    'bird'
    """
    told = json.loads(PUBLISHED_FRAMES.read_text())
    label = {c.file: CLASSES.index(c.label) for c in credits()}
    made = []
    for file in FILES:
        at = told["photographs"].index(file)
        p = np.array([found["p"][at] for found in told["networks"].values()])
        shown = sorted(np.argsort(-p.max((0, 1)), kind="stable")[:BARS].tolist())
        signs = [found["signs"][at] for found in told["networks"].values()]
        names, place = [CLASSES[y] for y in shown], shown.index(label[file])
        made.append(Frames(file, place, names, signs, p[..., shown].tolist()))
    return made


def jpeg(file: str) -> str:
    """A photograph of the book as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode((PICTURES / file).read_bytes()).decode()}"
