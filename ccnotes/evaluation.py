"""How well a model does, clean and attacked, and which features it leans on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ccnotes.attacks import LONGEST, PGD, pgd, random_start
from ccnotes.attribution import (
    blocks,
    cas,
    cas_draws,
    class_means,
    class_similarity,
    head_or_features,
    instance_similarity,
    layer_attribution,
    wide,
)
from ccnotes.checks import check_bytes, check_finite, checked_labels, warn
from ccnotes.data import Split, to_float
from ccnotes.devices import autocast
from ccnotes.models import Headed, Network, check_split
from ccnotes.modes import evaluating
from ccnotes.ranks import part, whole
from ccnotes.types import Features, Images, Labels, Pixels, Similarity
from ccnotes.verdicts import (  # where they were before they had a room of their own
    bootstrapped as bootstrapped,
    described as described,
    interval as interval,
    mcnemar as mcnemar,
)

BATCH = 500  # images that are evaluated together,
BATCH_PIXELS = 2**20  # unless they have more pixels than this: 20 images of 224 x 224,
BATCH_NUMBERS = 2**30  # or their layers give more numbers than this, 4 GiB of float32
FEW = 0.01  # share of images without a gradient that an attack may have


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What the head of a network makes of images' features; the fields are tensors."""

    accuracy: Float[Tensor, ""]  # in [0, 1]
    loss: Float[Tensor, ""]  # cross-entropy, in nats
    cas: Float[Tensor, ""]  # see ccnotes.attribution.cas
    instance_cas: Float[Tensor, ""]  # the same sum over instance_similarity
    nc1: Float[Tensor, ""]  # see neural_collapse
    nc2: Float[Tensor, ""]
    nc3: Float[Tensor, ""]  # see ccnotes.attribution.head_or_features, for three matrices, too
    class_accuracy: Float[Tensor, " classes"]  # in [0, 1]
    class_means: Float[Tensor, "classes features"]  # of the features
    confusion: Int[Tensor, "classes classes"]  # images of the row's class taken for the column's
    similarity: Similarity
    instance_similarity: Similarity
    head_similarity: Similarity
    centred_similarity: Similarity
    blind_similarity: Similarity
    correct: UInt8[Tensor, " batch"] | None = None  # whether each image is recognised: 1 or 0
    cas_draws: Float[Tensor, " draws"] | None = None  # see ccnotes.attribution.cas_draws


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model on images as they are, and attacked."""

    clean: Measures
    robust: Measures

    def flat(self) -> dict[str, Tensor]:
        """All that was measured, by the names of records: ``clean_accuracy``, ``robust_cas``."""
        return {
            f"{kind}_{name}": value
            for kind in ("clean", "robust")
            for name, value in vars(getattr(self, kind)).items()
            if value is not None
        }


class Collapse(NamedTuple):
    """See :func:`neural_collapse`."""

    nc1: Float[Tensor, ""]  # 0 or more
    nc2: Float[Tensor, ""]  # 0 or more


class Radii(NamedTuple):
    """Accuracy and CAS by the radius of the attack."""

    radius: Float[Tensor, " radii"]  # pixel fractions
    accuracy: Float[Tensor, " radii"]  # in [0, 1]
    cas: Float[Tensor, " radii"]

    def flat(self) -> dict[str, Tensor]:
        """By the names of records: ``radius``, ``radius_accuracy``, ``radius_cas``."""
        return {
            "radius": self.radius,
            "radius_accuracy": self.accuracy,
            "radius_cas": self.cas,
        }


def features_of(
    model: Network | Headed,
    images: Pixels,
    labels: Labels,
    attack: PGD | None = None,
    *,
    seed: int = 0,
    precision: str = "float32",
    batch_size: int | None = None,
) -> Features:
    """The model's features of ``images``, or of what ``attack`` makes of them, in eval mode.

    ``images`` are uint8. ``seed`` fixes the attack's random starts: one model gets the same
    attack every time. ``precision`` is that of the model's products. ``batch_size`` images are
    computed on together, by default 500 or, of large ones, as many as have 2^20 pixels: what a
    ResNet-50 needs two gigabytes for. Raises ValueError for other images, for labels that the
    head has no class for, for features that are NaN, and for a network that is random in eval mode.
    Warns where the attack has no gradient.

    >>> from ccnotes.models import ConvNet
    >>> images, labels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.arange(6) % 2
    >>> features_of(ConvNet(2, width=2), images, labels, PGD(steps=1)).shape
    torch.Size([6, 8])
    """
    with evaluating(model), torch.no_grad(), autocast(images.device, precision):
        found: list[Tensor] = []
        for x, _, size in batches(model, images, labels, attack, seed, batch_size):
            features = model.features(x)
            if not found:
                check_split(model, x, features)
            found.append(whole(features.float(), size))
    features = torch.cat(found)
    check_finite(features, model)
    return features


def batches(
    model: Network | Headed,
    images: Pixels,
    labels: Labels,
    attack: PGD | None,
    seed: int,
    batch_size: int | None = None,
) -> Iterator[tuple[Images, Labels, int]]:
    """Batches of float images, attacked where there is an attack, their labels and number.

    Where several processes share a run, of each batch this one's part; the number is that of all.
    """
    if not isinstance(getattr(model, "head", None), nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has no linear layer called head, and perhaps no features: "
            f"wrap it, Headed(network)."
        )
    check_bytes(images, labels)
    labels = checked_labels(labels, model.head.out_features)
    if batch_size is None:
        batch_size = fitting(images, model)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    generator = torch.Generator(images.device).manual_seed(seed)
    stuck: list[Tensor] = []
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        x, size = to_float(x).contiguous(memory_format=torch.channels_last), len(y)
        start = random_start(x, attack, generator) if attack else x  # the same on all ranks
        x, y, start = (values[part(size)] for values in (x, y, start))
        yield (pgd(model, x, y, attack, start=start, stuck=stuck) if attack else x), y, size
    share = torch.cat(stuck).float().mean().item() if stuck else 0.0
    if share > FEW:
        warn(
            f"{share:.1%} of the images have a gradient of exactly zero, or NaN, so the attack "
            f"does not move them and they look robust. Do not trust the robust accuracy: attack "
            f"with another loss, of logits rather than probabilities, or without gradients, as "
            f"AutoAttack does, and leave rounding out of the network."
        )


def fitting(images: Pixels, model: nn.Module | None = None) -> int:
    """How many images of this size are evaluated together: 500, or as many as fit into memory.

    That is, 2^20 pixels and, of a ``model`` that is given, 2^30 numbers that its layers give: with
    what gradients add, less than 8 GiB.

    >>> fitting(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    500
    """
    count = min(BATCH, BATCH_PIXELS // images[0, 0].numel())
    if model is not None:
        count = min(count, BATCH_NUMBERS // numbers(model, images[:1]))
    return max(1, count)


@torch.no_grad()
def numbers(model: nn.Module, image: Pixels) -> int:
    """How many numbers the layers of a network give for one image, 1 at least.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 2))
    >>> numbers(model, torch.zeros(1, 1, 4, 4, dtype=torch.uint8))  # 4 maps, twice, and 2 logits
    130
    """
    found = [1]

    def count(module: nn.Module, given: Any, output: Any) -> None:
        found.append(output.numel() if isinstance(output, Tensor) else 0)

    layers = [module for module in model.modules() if not [*module.children()]]
    with evaluating(model):
        hooks = [layer.register_forward_hook(count) for layer in layers]
        try:
            getattr(model, "features", model)(to_float(image))
        finally:
            for hook in hooks:
                hook.remove()
    return max(1, sum(found[1:]))


def measure(features: Features, labels: Labels, head: nn.Linear, *, draws: int = 0) -> Measures:
    """What the head makes of the features.

    With ``draws`` also ``correct`` and as many ``cas_draws``. Raises ValueError for features that
    are NaN, and where a class has no sample.

    >>> head = nn.Linear(2, 2, bias=False)
    >>> head.weight.data = torch.eye(2)
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> found = measure(features, torch.tensor([0, 1, 1]), head)
    >>> round(found.accuracy.item(), 3), found.class_accuracy.tolist()
    (0.667, [1.0, 0.5])
    """
    features = wide(features)
    check_finite(features, head)
    labels = checked_labels(labels, head.out_features)
    with evaluating(head):  # as what computes a weight in train mode may change with each use
        weight = head.weight.detach().to(features.dtype)
        bias = None if head.bias is None else head.bias.detach().to(features.dtype)
    logits = F.linear(features, weight, bias)
    predicted = logits.argmax(1)
    correct = predicted == labels
    classes = len(weight)
    confusion = torch.bincount(classes * labels + predicted, minlength=classes**2)
    confusion = confusion.view(classes, classes)
    means = class_means(features, labels, classes)
    similarity = class_similarity(means * weight)
    instances = instance_similarity(features, labels, weight)
    collapse = neural_collapse(features, labels, classes)
    parts = head_or_features(means, weight)
    return Measures(
        accuracy=correct.float().mean(),
        loss=F.cross_entropy(logits, labels),
        cas=cas(similarity),
        instance_cas=cas(instances),
        nc1=collapse.nc1,
        nc2=collapse.nc2,
        nc3=parts.nc3,
        class_accuracy=confusion.diagonal() / confusion.sum(1),
        class_means=means,
        confusion=confusion,
        similarity=similarity,
        instance_similarity=instances,
        head_similarity=parts.head,
        centred_similarity=parts.centred,
        blind_similarity=parts.blind,
        correct=correct.byte() if draws else None,
        cas_draws=cas_draws(features, labels, weight, draws=draws) if draws else None,
    )


def neural_collapse(features: Features, labels: Labels, num_classes: int) -> Collapse:
    r"""How far the features are from neural collapse: NC1 and NC2, both 0 where it is complete.

    .. math:: \mathrm{NC1} = \mathrm{tr}(\Sigma_W \Sigma_B^{+}) / K, \qquad
              \mathrm{NC2} = \frac{1}{K (K - 1)} \sum_{i \ne j}
              \left| \cos(\mu_i - \mu, \mu_j - \mu) + \frac{1}{K - 1} \right|

    with the class means :math:`\mu_i`, their mean :math:`\mu`, and the covariances within
    (:math:`\Sigma_W`) and between classes (:math:`\Sigma_B`); the first is the spread within
    classes beside that between them, the second how unequal the angles are. Papyan, Han and
    Donoho (2020), arXiv:2008.08186. Raises ValueError if a class has no sample.

    >>> labels = torch.arange(6) % 3
    >>> [round(value.item(), 6) for value in neural_collapse(torch.eye(3)[labels], labels, 3)]
    [0.0, 0.0]
    """
    if num_classes < 2:
        raise ValueError(
            f"a head of {num_classes} class has no pairs of classes, whose similarities are "
            f"measured: give a network with one logit for each of two classes or more."
        )
    # In double precision, as the centred means lack one rank, to rounding; Apple GPUs have none.
    features, labels = features.cpu(), labels.cpu().long()
    means = class_means(features, labels, num_classes, torch.float64)
    centred = means - means.mean(0)
    # As Sigma_B is centred.T @ centred / K, the trace needs no matrix of features x features.
    inverse = torch.linalg.pinv(centred, rtol=1e-6)
    spread = [
        ((rows.double() - means[own]) @ inverse).square().sum(1)
        for rows, own in blocks(features, labels)
    ]
    cosines = class_similarity(centred)
    others = ~torch.eye(num_classes, dtype=torch.bool)
    unequal = (cosines + 1 / (num_classes - 1)).abs()[others].mean()
    return Collapse(torch.cat(spread).mean().float(), unequal.float())


def evaluate(
    model: Network | Headed,
    images: Pixels,
    labels: Labels,
    attack: PGD,
    *,
    seed: int = 0,
    precision: str = "float32",
    draws: int = 0,
    batch_size: int | None = None,
) -> Evaluation:
    """:func:`measure` of the images as they are and attacked, on the CPU.

    For ``seed``, ``precision``, ``batch_size`` and errors see :func:`features_of`, for ``draws``
    :func:`measure`.

    >>> from ccnotes.models import ConvNet
    >>> images, labels = torch.randint(256, (6, 3, 8, 8)).byte(), torch.arange(6) % 2
    >>> found = evaluate(ConvNet(2, width=2), images, labels, PGD(eps=0.0, steps=1))
    >>> found.robust.accuracy == found.clean.accuracy, list(found.flat())[:2]
    (tensor(True), ['clean_accuracy', 'clean_loss'])
    """

    if attack is None:
        raise ValueError(
            "attack=None leaves nothing to be robust against: give PGD(...), or PGD(eps=0) where "
            "that is meant."
        )
    if isinstance(attack, str):
        raise ValueError(
            f"attack={attack!r} has no radius: give PGD(...) here. AutoAttack's robust accuracy, "
            f"beside PGD's, is ccnotes.robustness.robustness(model, images, labels, PGD(...))."
        )

    def of(used: PGD | None) -> Measures:
        features = features_of(
            model, images, labels, used, seed=seed, precision=precision, batch_size=batch_size
        )
        found = measure(features, labels, model.head, draws=draws)
        return replace(found, **{k: v.cpu() for k, v in vars(found).items() if v is not None})

    return Evaluation(clean=of(None), robust=of(attack))


def radii(
    model: Network | Headed, split: Split, attack: PGD, *, seed: int = 0, precision: str = "float32"
) -> Radii:
    """How accuracy and CAS move with the strength of the attack that evaluates.

    At 0, 1/4, 1/2, 1, 3/2 and 2 times its radius, the step in proportion; in the l-infinity norm
    neither is wider than the pixel range.

    >>> from ccnotes.models import ConvNet
    >>> split = Split(images=torch.zeros(4, 3, 8, 8).byte(), labels=torch.arange(4) % 2)
    >>> found = radii(ConvNet(2, width=2), split, PGD(eps=0.75, step_size=0.5, steps=1))
    >>> found.radius
    tensor([0.0000, 0.1875, 0.3750, 0.7500, 1.0000, 1.0000])
    """
    rows = []
    for factor in (0, 0.25, 0.5, 1, 1.5, 2):
        most = 1.0 if attack.norm == "linf" else LONGEST  # 1 is the pixel range
        eps, step_size = (min(most, factor * value) for value in (attack.eps, attack.step_size))
        scaled = replace(attack, eps=eps, step_size=step_size)
        features = features_of(
            model, split.images, split.labels, scaled, seed=seed, precision=precision
        )
        found = measure(features, split.labels, model.head)
        rows.append([scaled.eps, found.accuracy.item(), found.cas.item()])
    return Radii(*map(torch.tensor, zip(*rows, strict=True)))


def stage_similarity(
    model: Network, split: Split, attack: PGD, *, seed: int = 0, precision: str = "float32"
) -> Float[Tensor, "stages classes classes"]:
    """The similarity matrix of attacked images after each stage of the network.

    From :func:`ccnotes.attribution.layer_attribution`; at the last stage it is the usual one.

    >>> from ccnotes.models import ConvNet
    >>> split = Split(images=torch.randint(256, (4, 3, 8, 8)).byte(), labels=torch.arange(4) % 2)
    >>> stage_similarity(ConvNet(2, width=2), split, PGD(steps=1)).shape
    torch.Size([3, 2, 2])
    """
    found: list[list[Tensor]] = [[] for _ in model.stages]
    with evaluating(model), autocast(split.images.device, precision):
        for x, y, size in batches(model, split.images, split.labels, attack, seed):
            for stage, layer in zip(found, model.stages, strict=True):
                found_here = layer_attribution(model, layer, x, y, channels=model.channels)
                stage.append(whole(found_here, size))
    classes = model.head.out_features
    means = [class_means(torch.cat(stage), split.labels, classes) for stage in found]
    return torch.stack([class_similarity(mean) for mean in means]).cpu()
