"""How well a model does, clean and attacked, and which features it leans on."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
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
from ccnotes.verdicts import (  # where they were before they had a room of their own
    bootstrapped as bootstrapped,
    described as described,
    interval as interval,
    judged as judged,
    mcnemar as mcnemar,
    verdict as verdict,
)

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
