"""What images, labels and logits must be: errors that name the value, the rule and the remedy."""

import operator
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ccnotes.types import Features, Logits

OURS = ("ccnotes", "contextlib", "torch", "jaxtyping", "beartype")  # with what wraps functions


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """ValueError unless ``value`` is one of those known.

    >>> check_choice("norm", "l1", ("linf", "l2"))
    Traceback (most recent call last):
    ValueError: norm='l1' is not one of 'linf', 'l2'.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, known))}.")


def whole(name: str, value: Any, low: int) -> int:
    """``value`` as a Python int, NumPy's whole numbers, too. Raises ValueError for any other.

    >>> whole("epochs", 2.5, low=1)
    Traceback (most recent call last):
    ValueError: epochs=2.5 must be a whole number.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number.") from None
    if not low <= number < 2**63:
        raise ValueError(f"{name}={number} must be at least {low} and below 2**63.")
    return number


def real(name: str, value: Any) -> float:
    """``value`` as a Python float, NumPy's numbers, too. Raises ValueError for what is none.

    >>> real("lr", 1)
    1.0
    """
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} must be a number.") from None


def truth(name: str, value: Any) -> bool:
    """``value`` as a Python bool, 0, 1 and NumPy's, too. Raises ValueError for others."""
    if isinstance(value, str) or value not in (False, True):
        raise ValueError(f"{name}={value!r} must be True or False.")
    return bool(value)


def check_bytes(images: Tensor, labels: Tensor) -> None:
    """ValueError unless ``images`` are uint8, more than 0 and 1, and as many as ``labels``."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images of {images.dtype} and shape {tuple(images.shape)}, where uint8 (0 to 255), "
            f"images x channels x rows x columns, is wanted: give (255 * images).round().byte(), "
            f"if they lie in [0, 1]."
        )
    if images.numel() and images.max() == 1:
        raise ValueError(
            "the images' largest byte is 1 of 255, so they are all but black: give "
            "(255 * images).round().byte() of images in [0, 1]."
        )
    check_one_each(images, labels)
    if not len(images):
        raise ValueError("0 images: give one label per image, and at least one image.")


def check_one_each(images: Tensor, labels: Tensor) -> None:
    """ValueError unless there is one label per image.

    >>> check_one_each(torch.rand(2, 3, 8, 8), torch.tensor([1]))
    Traceback (most recent call last):
    ValueError: 2 images and labels of shape (1,): give one label per image.
    """
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{len(images)} images and labels of shape {tuple(labels.shape)}: give one label per "
            f"image."
        )


def check_floats(x: Tensor) -> None:
    """ValueError unless ``x`` are floating-point numbers."""
    if not x.is_floating_point():
        raise ValueError(
            f"images of {x.dtype} are not pixels in [0, 1]: give images / 255, if they run from "
            f"0 to 255."
        )


def check_pixels(x: Tensor) -> None:
    """ValueError unless ``x`` are floating-point pixels in [0, 1].

    >>> check_pixels(torch.tensor([0.0, 255.0]))
    Traceback (most recent call last):
    ValueError: images with values from 0 to 255 are not pixels in [0, 1]: give images / 255.
    """
    check_floats(x)
    low, high = extremes(x) or (0.0, 1.0)
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # resizing may round a little beyond the ends
        raise ValueError(
            f"images with values from {low:.3g} to {high:.3g} are not pixels in [0, 1]: "
            + (
                "give images / 255."
                if low >= 0 and high > 2
                else "give raw pixels and let the model normalise them, as Headed(network, "
                "mean=..., std=...) does."
            )
        )


def checked_labels(labels: Tensor, num_classes: int) -> Tensor:
    """The labels as int64; ValueError unless they are integers, 0 to ``num_classes - 1``.

    >>> checked_labels(torch.tensor([0, 2], dtype=torch.uint8), num_classes=3)
    tensor([0, 2])
    """
    check_labels(extremes(labels), num_classes)
    return labels.long()


def check_labels(labels: Iterable[float], num_classes: int) -> None:
    for label in labels:
        if not (isinstance(label, int) and 0 <= label < num_classes):
            raise ValueError(
                f"label {label} is not one of the {num_classes} classes of the head, which are "
                f"the integers 0 to {num_classes - 1}: choose the data that the model was trained "
                f"on."
            )


def extremes(values: Tensor) -> list[float]:
    """The least and the greatest value, as numbers of Python; of no values none.

    >>> extremes(torch.tensor([3, 1, 2])), extremes(torch.empty(0))
    ([1, 3], [])
    """
    return [values.min().item(), values.max().item()] if values.numel() else []


def logits_of(output: Any) -> Logits:
    """The logits in what a network returns: the tensor itself, or what is called ``logits`` in it.

    Raises ValueError where there is neither.

    >>> logits_of({"loss": None, "logits": torch.ones(1, 2)})
    tensor([[1., 1.]])
    """
    found = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", output)
    if not (isinstance(found, Tensor) and found.ndim == 2):
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else "none"
        raise ValueError(
            f"the network returns {type(output).__name__}, in which logits (images x classes) are "
            f"sought and {what} is found: wrap it in a module whose forward returns the logits."
        )
    return found


def channels_of(found: Tensor, images: Tensor, channels: int | None) -> int:
    """The dimension of a layer's output that counts its channels, as given or of maps.

    >>> channels_of(torch.zeros(1, 64, 4, 4), torch.zeros(1, 3, 32, 32), None)
    1
    """
    if channels is not None:
        if -found.ndim < channels < 0:
            channels += found.ndim
        if not 0 < channels < found.ndim:
            raise ValueError(
                f"channels={channels} is no dimension of the layer's output beside the images': it "
                f"has the shape {tuple(found.shape)}, so 1 to {found.ndim - 1} are."
            )
        return channels
    check_maps(found, images, "say by channels which dimension counts them")
    if is_maps(found.movedim(3, 1), images) and found.shape[2:] != (1, 1):
        raise ValueError(
            f"the layer's output has the shape {tuple(found.shape)}, so that its channels may be "
            f"the second dimension or the last: say by channels=1 or channels=3 which it is."
        )
    chances = found.shape[3] > 1 and bool((found >= 0).all())
    if chances and (found.sum(3) - 1).abs().max() < 1e-2:  # half precision rounds so
        raise ValueError(
            f"the layer's output of shape {tuple(found.shape)} is attention (its rows are "
            f"probabilities), no maps: choose the layer that gives the tokens, with channels=2."
        )
    return 1


def is_maps(found: Tensor, images: Tensor) -> bool:
    """Whether ``found`` are as high and wide in proportion as the images are.

    >>> is_maps(torch.empty(1, 64, 4, 4), torch.empty(1, 3, 32, 32))
    True
    """
    rows, columns = images.shape[2:]
    if found.ndim != 4:
        return False
    off = abs(found.shape[2] * columns - found.shape[3] * rows)
    return off <= (0 if rows == columns else max(rows, columns))


def check_maps(found: Tensor, images: Tensor, remedy: str) -> None:
    """ValueError unless ``found`` are maps, as high and wide in proportion as the images are.

    >>> check_maps(torch.empty(1, 64, 4, 4), torch.empty(1, 3, 32, 32), "")
    """
    rows, columns = images.shape[2:]
    if not is_maps(found, images):
        raise ValueError(
            f"the layer's output has the shape {tuple(found.shape)} for images of {rows} x "
            f"{columns} pixels, which are no maps (images x channels x rows x columns): {remedy}."
        )


def check_trackable(model: nn.Module) -> None:
    """ValueError for a model through which autograd cannot go back to the images."""
    if any(weight.is_inference() for weight in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} was made under torch.inference_mode(), so it has no "
            f"gradients: make it, or load it, outside."
        )


class NotFinite(ValueError):
    """Features or logits that are numbers no more."""


def check_finite(values: Features, model: nn.Module) -> None:
    """NotFinite if the features or logits that ``model`` gives are NaN or infinite anywhere."""
    wrong = int((~values.isfinite()).any(1).sum())
    if wrong:
        broken = [name for name, v in model.state_dict().items() if not v.isfinite().all()]
        raise NotFinite(
            f"{type(model).__name__} gives NaN or infinity for {wrong} of {len(values)} images. "
            + (
                f"NaN or infinity stands in {few(broken)}: take an earlier checkpoint."
                if broken
                else "Its weights are finite: look for a division by zero, or for numbers too "
                "large for their type."
            )
        )


def few(names: Sequence[str]) -> str:
    """At most three of the names, and how many more there are.

    >>> few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def warn(message: str) -> None:
    """A warning that shows the line from which this package was called, not one inside it."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
