"""How well a model does, clean and attacked, and which features it leans on."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor, nn

from ccnotes.attacks import PGD, evaluating, pgd
from ccnotes.attribution import cas, class_means, class_similarity, instance_similarity
from ccnotes.data import to_float
from ccnotes.devices import autocast
from ccnotes.models import Network


def features_of(
    model: Network,
    images: UInt8[Tensor, "samples channels height width"],
    labels: Int[Tensor, " samples"],
    attack: PGD | None = None,
    *,
    seed: int = 0,
    precision: str = "float32",
    batch_size: int = 500,
) -> Float[Tensor, "samples features"]:
    """The model's features of ``images``, or of what ``attack`` makes of them, in eval mode.

    ``seed`` fixes the attack's random starts: one model gets the same attack every time.
    ``precision`` is that of the model's products.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    found = []
    with evaluating(model), torch.no_grad(), autocast(images.device, precision):
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            x = to_float(x).contiguous(memory_format=torch.channels_last)
            if attack:
                x = pgd(model, x, y, attack, generator)
            found.append(model.features(x).float())
    return torch.cat(found)


def measure(
    features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"], head: nn.Linear
) -> dict[str, Tensor]:
    """What the head makes of the features.

    ``accuracy`` in [0, 1], ``loss`` (cross-entropy in nats) and ``cas`` are scalars,
    ``class_accuracy`` has one entry a class, ``class_means`` is classes x features, and
    ``similarity`` and ``instance_similarity`` are classes x classes (see
    :mod:`ccnotes.attribution`).
    """
    weight = head.weight.detach()
    logits = F.linear(features, weight, head.bias)
    correct = (logits.argmax(1) == labels).float()
    counts = torch.bincount(labels, minlength=len(weight))
    means = class_means(features, labels, len(weight))
    similarity = class_similarity(means * weight)
    return {
        "accuracy": correct.mean(),
        "loss": F.cross_entropy(logits, labels).detach(),
        "cas": cas(similarity),
        "class_accuracy": torch.bincount(labels, correct, minlength=len(weight)) / counts,
        "class_means": means,
        "similarity": similarity,
        "instance_similarity": instance_similarity(features, labels, weight),
    }


def evaluate(
    model: Network,
    images: UInt8[Tensor, "samples channels height width"],
    labels: Int[Tensor, " samples"],
    attack: PGD,
    *,
    seed: int = 0,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """:func:`measure` of the images as they are (``clean_*``) and attacked (``robust_*``)."""
    results = {}
    for kind, used in (("clean", None), ("robust", attack)):
        features = features_of(model, images, labels, used, seed=seed, precision=precision)
        for name, value in measure(features, labels, model.head).items():
            results[f"{kind}_{name}"] = value.cpu()
    return results


def interval(values: ArrayLike) -> tuple[float, float]:
    """Student's 95 % confidence interval for the mean of independent runs, such as seeds.

    Raises ValueError for fewer than two values, which have no interval.
    """
    runs = np.asarray(values, dtype=float)
    if len(runs) < 2:
        raise ValueError(f"an interval needs two values or more, got {len(runs)}: add seeds.")
    half = stats.t.ppf(0.975, len(runs) - 1) * stats.sem(runs)
    return float(runs.mean() - half), float(runs.mean() + half)


def described(values: ArrayLike, form: str = ".3f") -> str:
    """Mean, interval and number of runs, in words: "0.41 (0.38 to 0.44, n = 5)"."""
    (low, high), runs = interval(values), np.asarray(values, dtype=float)
    return f"{runs.mean():{form}} ({low:{form}} to {high:{form}}, n = {len(runs)})"
