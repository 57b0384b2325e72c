"""How well a model does, clean and attacked, and which features it leans on."""

import math
import re
from collections.abc import Collection, Iterator, Sized
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from scipy import stats
from torch import Tensor, nn

from ccnotes.attacks import PGD, evaluating, pgd
from ccnotes.attribution import (
    cas,
    cas_draws,
    class_means,
    class_similarity,
    instance_similarity,
    layer_attribution,
)
from ccnotes.data import Split, to_float
from ccnotes.devices import autocast
from ccnotes.models import Headed, Network

BATCH = 500  # images that are evaluated together


def features_of(
    model: Network | Headed,
    images: UInt8[Tensor, "samples channels height width"],
    labels: Int[Tensor, " samples"],
    attack: PGD | None = None,
    *,
    seed: int = 0,
    precision: str = "float32",
) -> Float[Tensor, "samples features"]:
    """The model's features of ``images``, or of what ``attack`` makes of them, in eval mode.

    ``seed`` fixes the attack's random starts: one model gets the same attack every time.
    ``precision`` is that of the model's products.
    """
    with evaluating(model), torch.no_grad(), autocast(images.device, precision):
        batches = attacked(model, images, labels, attack, seed)
        return torch.cat([model.features(x).float() for x, _ in batches])


def attacked(
    model: nn.Module,
    images: UInt8[Tensor, "samples channels height width"],
    labels: Int[Tensor, " samples"],
    attack: PGD | None,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of float images, attacked where there is an attack, and their labels."""
    generator = torch.Generator(images.device).manual_seed(seed)
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        x = to_float(x).contiguous(memory_format=torch.channels_last)
        yield (pgd(model, x, y, attack, generator) if attack else x), y


def measure(
    features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"], head: nn.Linear
) -> dict[str, Tensor]:
    """What the head makes of the features.

    ``accuracy`` in [0, 1], ``loss`` (cross-entropy in nats), ``cas``, ``instance_cas`` (the same
    sum over ``instance_similarity``), ``nc1`` and ``nc2`` (see :func:`neural_collapse`) are
    scalars; ``class_accuracy`` has one entry a class, ``class_means`` is classes x features,
    and ``similarity`` and ``instance_similarity`` are classes x classes (see
    :mod:`ccnotes.attribution`).
    """
    weight = head.weight.detach()
    logits = F.linear(features, weight, head.bias)
    correct = (logits.argmax(1) == labels).float()
    counts = torch.bincount(labels, minlength=len(weight))
    means = class_means(features, labels, len(weight))
    similarity = class_similarity(means * weight)
    instances = instance_similarity(features, labels, weight)
    nc1, nc2 = neural_collapse(features, labels, len(weight))
    return {
        "accuracy": correct.mean(),
        "loss": F.cross_entropy(logits, labels).detach(),
        "cas": cas(similarity),
        "instance_cas": cas(instances),
        "nc1": nc1,
        "nc2": nc2,
        "class_accuracy": torch.bincount(labels, correct, minlength=len(weight)) / counts,
        "class_means": means,
        "similarity": similarity,
        "instance_similarity": instances,
    }


def neural_collapse(
    features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"], num_classes: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""How far the features are from neural collapse: NC1 and NC2, both 0 where it is complete.

    .. math:: \mathrm{NC1} = \mathrm{tr}(\Sigma_W \Sigma_B^{+}) / K, \qquad
              \mathrm{NC2} = \frac{1}{K (K - 1)} \sum_{i \ne j}
              \left| \cos(\mu_i - \mu, \mu_j - \mu) + \frac{1}{K - 1} \right|

    with the class means :math:`\mu_i`, their mean :math:`\mu`, and the covariances within
    (:math:`\Sigma_W`) and between classes (:math:`\Sigma_B`); the first is the spread within
    classes beside that between them, the second how unequal the angles are. Papyan, Han and
    Donoho (2020), arXiv:2008.08186. Raises ValueError if a class has no sample.
    """
    # In double precision, as the centred means lack one rank, to rounding; Apple GPUs have none.
    wide, labels = features.cpu().double(), labels.cpu()
    means = class_means(wide, labels, num_classes)
    centred = means - means.mean(0)
    # As Sigma_B is centred.T @ centred / K, the trace needs no matrix of features x features.
    spread = (wide - means[labels]) @ torch.linalg.pinv(centred, rtol=1e-6)
    cosines = class_similarity(centred)
    others = ~torch.eye(num_classes, dtype=torch.bool)
    unequal = (cosines + 1 / (num_classes - 1)).abs()[others].mean()
    return spread.square().sum(1).mean().float(), unequal.float()


def evaluate(
    model: Network | Headed,
    images: UInt8[Tensor, "samples channels height width"],
    labels: Int[Tensor, " samples"],
    attack: PGD,
    *,
    seed: int = 0,
    precision: str = "float32",
    draws: int = 0,
) -> dict[str, Tensor]:
    """:func:`measure` of the images as they are (``clean_*``) and attacked (``robust_*``).

    With ``draws`` also ``correct``, whether each image is recognised (0 or 1), and
    ``cas_draws``, as many of :func:`ccnotes.attribution.cas_draws`.
    """
    results: dict[str, Tensor] = {}
    for kind, used in (("clean", None), ("robust", attack)):
        features = features_of(model, images, labels, used, seed=seed, precision=precision)
        found = measure(features, labels, model.head)
        if draws:
            found["correct"] = (model.head(features).argmax(1) == labels).byte()
            head = model.head.weight.detach()
            found["cas_draws"] = cas_draws(features, labels, head, draws=draws)
        results |= {f"{kind}_{name}": value.cpu() for name, value in found.items()}
    return results


def radii(
    model: Network | Headed, split: Split, attack: PGD, *, seed: int = 0, precision: str = "float32"
) -> dict[str, Tensor]:
    """How accuracy and CAS move with the strength of the attack that evaluates.

    ``radius`` (pixel fractions; 0 to twice the attack's, the step in proportion),
    ``radius_accuracy`` and ``radius_cas``, with one entry each.
    """
    rows = []
    for factor in (0, 0.25, 0.5, 1, 1.5, 2):
        most = 1.0 if attack.norm == "linf" else math.inf  # the pixel range
        eps, step_size = (min(most, factor * value) for value in (attack.eps, attack.step_size))
        scaled = replace(attack, eps=eps, step_size=step_size)
        features = features_of(
            model, split.images, split.labels, scaled, seed=seed, precision=precision
        )
        found = measure(features, split.labels, model.head)
        rows.append([scaled.eps, found["accuracy"].item(), found["cas"].item()])
    names = ("radius", "radius_accuracy", "radius_cas")
    columns = zip(*rows, strict=True)
    return {name: torch.tensor(column) for name, column in zip(names, columns, strict=True)}


def stage_similarity(
    model: Network, split: Split, attack: PGD, *, seed: int = 0, precision: str = "float32"
) -> Float[Tensor, "stages classes classes"]:
    """The similarity matrix of attacked images after each stage of the network.

    From :func:`ccnotes.attribution.layer_attribution`; at the last stage it is the usual one.
    """
    found: list[list[Tensor]] = [[] for _ in model.stages]
    with evaluating(model), autocast(split.images.device, precision):
        for x, y in attacked(model, split.images, split.labels, attack, seed):
            for stage, layer in zip(found, model.stages, strict=True):
                stage.append(layer_attribution(model, layer, x, y))
    classes = model.head.out_features
    means = [class_means(torch.cat(stage), split.labels, classes) for stage in found]
    return torch.stack([class_similarity(mean) for mean in means]).cpu()


def interval(values: Collection[float]) -> tuple[float, float]:
    """Student's 95 % confidence interval for the mean of independent runs, such as seeds.

    Raises ValueError for fewer than two values, which have no interval.
    """
    runs = np.asarray(values, dtype=float)
    if len(runs) < 2:
        raise ValueError(f"an interval needs two values or more, got {len(runs)}: add seeds.")
    half = stats.t.ppf(0.975, len(runs) - 1) * stats.sem(runs)
    return float(runs.mean() - half), float(runs.mean() + half)


def verdict(differences: Collection[float]) -> str:
    """Whether runs bear out a claim that says their ``differences`` are positive.

    "agree" where their 95 % interval lies above zero, "disagree" where it lies below,
    else "cannot tell"; of a single run its sign, marked as such.
    """
    runs = np.asarray(differences, dtype=float)
    low, high = interval(runs) if len(runs) > 1 else (runs[0], runs[0])
    word = "agree" if low > 0 else "disagree" if high < 0 else "cannot tell"
    return f"{word} ({n_of(runs)})"


def judged(differences: Collection[float], form: str = "+.3f") -> str:
    """The differences and the verdict on them: "+0.16 (+0.05 to +0.27, n = 5): **agree**".

    Up to three more digits than in ``form`` show on which side of zero the interval ends.
    """
    word = verdict(differences).partition(" (")[0]
    ends = interval(differences) if len(differences) > 1 else ()
    for _ in range(3):
        if any(end and not re.search("[1-9]", format(end, form)) for end in ends):
            form = re.sub(r"\d+", lambda digits: str(int(digits[0]) + 1), form)
    return f"{described(differences, form)}: **{word}**"


def mcnemar(
    first: Int[Tensor, " samples"] | UInt8[Tensor, " samples"],
    second: Int[Tensor, " samples"] | UInt8[Tensor, " samples"],
) -> float:
    """Exact p-value for equal accuracy of two models, from who is right (1) on the same images.

    Of the images on which one of the two is right, each is as likely as the other to be it
    (McNemar, 1947).
    """
    gained, lost = int((second > first).sum()), int((second < first).sum())
    return float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def described(values: Collection[float], form: str = ".3f") -> str:
    """Mean, interval and number of runs, in words: "0.41 (0.38 to 0.44, n = 5)".

    Of a single run, which has no interval: "0.41 (n = 1)". The forms "" and "+" give two digits
    of the interval's half width or, where there is none, three of the value.
    """
    runs = np.asarray(values, dtype=float)
    low, high = interval(runs) if len(runs) > 1 else (runs[0], runs[0])
    if form in ("", "+"):
        half, size = (high - low) / 2, np.abs(runs).max()
        scale, digits = (half, 2) if half > 1e-9 * size else (size, 3)
        first = math.floor(math.log10(scale)) if 0 < scale < math.inf else 0
        form += f".{max(0, digits - 1 - first)}f"
    mean = figure(runs.mean(), form)
    if len(runs) == 1:
        return f"{mean} ({n_of(runs)})"
    return f"{mean} ({figure(low, form)} to {figure(high, form)}, {n_of(runs)})"


def figure(value: float, form: str) -> str:
    """``value`` in that form; what rounds to zero has no sign."""
    text = format(value, form)
    return text if re.search("[1-9]", text) else text.lstrip("+-")


def n_of(runs: Sized) -> str:
    """The number of runs, in one piece: "n = 5" with spaces at which no line breaks."""
    return f"n\u00a0=\u00a0{len(runs)}"


def bootstrapped(value: float, draws: Float[Tensor, " draws"], form: str = ".1f") -> str:
    """A figure and the 95 % of its bootstrap draws, in words: "3.7 (1.0 to 6.5)"."""
    low, high = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{figure(value, form)} ({figure(low, form)} to {figure(high, form)})"
