"""Which features does a linear head use for which class?"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ccnotes.checks import (
    channels_of,
    check_floats,
    check_maps as check_maps,  # where it was before
    check_one_each,
    check_pixels,
    check_trackable,
    checked_labels,
    few,
    logits_of,
)
from ccnotes.models import Headed, Network, check_repeats
from ccnotes.modes import evaluating, recording, usable
from ccnotes.types import Features, Images, Labels, Similarity

BLOCK = 2**25  # numbers that are worked on at a time, as copies of all may not fit into memory
Head = Float[Tensor, "classes features"]  # a linear layer's weights
Attribution = Float[Tensor, "classes features"]  # in logits


def class_attribution(features: Features, labels: Labels, head: Head) -> Attribution:
    r"""Mean contribution of each feature to the logit of the sample's own class, in logits.

    .. math:: A_{ik} = \mathbb{E}_{x : y(x) = i} \left[ g_k(x) \, W_{ik} \right]

    Summed over ``k`` it is the class's mean logit, less the bias (Wei et al., 2025,
    arXiv:2506.05032). Raises ValueError if a class has no sample.

    >>> features = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 1.0]])
    >>> head = torch.tensor([[1.0, -1.0], [5.0, 2.0]])
    >>> class_attribution(features, torch.tensor([0, 0, 1]), head)
    tensor([[ 2., -1.],
            [ 0.,  2.]])
    """
    if head.ndim != 2 or features.ndim != 2 or head.shape[1] != features.shape[1]:
        raise ValueError(
            f"features of the shape {tuple(features.shape)} and a head of {tuple(head.shape)} do "
            f"not fit: give images x features, and classes x as many features."
        )
    return class_means(features, labels, len(head)) * head


def class_means(
    features: Features, labels: Labels, num_classes: int, dtype: torch.dtype | None = None
) -> Float[Tensor, "classes features"]:
    """Mean feature vector of each class, by default of the type of :func:`wide`.

    Raises ValueError if a class has no sample, or a sample another label than 0, ..., K - 1.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), num_classes=2)
    tensor([[2.],
            [5.]])
    """
    labels = checked_labels(labels, num_classes)
    counts = class_counts(labels, num_classes)
    dtype = dtype or wide(features[:0]).dtype
    total = features.new_zeros(num_classes, features.shape[1], dtype=dtype)
    for rows, own in blocks(features, labels):
        total = total.index_add_(0, own, rows.to(dtype))
    return total / counts[:, None]


def class_counts(labels: Labels, num_classes: int) -> Int[Tensor, " classes"]:
    """How many samples each class has. Raises ValueError if one has none.

    >>> class_counts(torch.tensor([0, 0, 1]), num_classes=2)
    tensor([2, 1])
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if missing := torch.where(counts == 0)[0].tolist():
        raise ValueError(
            f"no samples of class [{few(list(map(str, missing)))}], so the mean attribution is "
            f"undefined: {num_classes - len(missing)} of the head's {num_classes} classes are "
            f"among the {len(labels)} samples. Add samples, or keep of the head only the rows of "
            f"the classes there are, and number the labels by these rows."
        )
    return counts


def blocks(features: Features, labels: Labels) -> Iterator[tuple[Features, Labels]]:
    """The samples in their order, as many at a time as have ``BLOCK`` numbers.

    >>> [len(rows) for rows, own in blocks(torch.ones(3, BLOCK // 2), torch.zeros(3).long())]
    [2, 1]
    """
    rows = max(1, BLOCK // max(1, features.shape[1]))
    return zip(features.split(rows), labels.split(rows), strict=True)


def class_similarity(attribution: Attribution) -> Similarity:
    r"""Cosine of the angle between the attribution vectors of each pair of classes.

    .. math:: C_{ij} = \langle A_i, A_j \rangle \,/\, (\|A_i\| \|A_j\|)

    Unitless, in [-1, 1]; high off the diagonal means that the classes lean on the same
    features. A vector of zeros has similarity 0 with all, itself included. This is the matrix of
    Wei et al. (2025), arXiv:2506.05032.

    >>> class_similarity(torch.tensor([[1.0, 0.0], [3.0, 3.0], [0.0, -2.0]]))
    tensor([[ 1.0000,  0.7071,  0.0000],
            [ 0.7071,  1.0000, -0.7071],
            [ 0.0000, -0.7071,  1.0000]])
    """
    unit = normalised(attribution)
    return unit @ unit.T


def wide(values: Tensor) -> Tensor:
    """The values as float32, in which sums and squares have room; float64 stays as it is.

    >>> wide(torch.ones(1).half()).dtype, wide(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return values if values.dtype == torch.float64 else values.float()


def normalised(vectors: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """The vectors at length 1; zeros stay zeros.

    Of lengths that squares of single precision do not reach, the scale goes first; others are
    divided by 1, which leaves every bit.

    >>> normalised(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    vectors = wide(vectors)
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    extreme = ((largest < 1e-10) | (largest > 1e15)) & (largest > 0)
    return F.normalize(vectors / largest.where(extreme, 1), dim=-1)


def cas(similarity: Float[Tensor, "*batch classes classes"]) -> Float[Tensor, "*batch"]:
    r"""Class attribution similarity: the positive similarities off the diagonal, summed.

    .. math:: \mathrm{CAS} = \sum_{i \ne j} \max(C_{ij}, 0)

    Both triangles count, so it lies in [0, K (K - 1)] for K classes: at most 90 for ten. Not
    comparable between different K without dividing by K (K - 1). Wei et al. (2025).

    >>> cas(torch.tensor([[1.0, 0.5, -0.7], [0.5, 1.0, 0.0], [-0.7, 0.0, 1.0]])).item()
    1.0
    """
    diagonal = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    return similarity.clamp_min(0).masked_fill(diagonal, 0).sum((-2, -1))


def cas_draws(
    features: Features,
    labels: Labels,
    head: Head,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Float[Tensor, " draws"]:
    """CAS of bootstrap samples: as many images of each class, drawn from it with replacement.

    Their 2.5 % and 97.5 % quantiles are an interval for what the choice of test images does.
    One seed draws the same images whatever the model, so draws of two models are paired.
    Efron and Tibshirani (1993). Raises ValueError if a class has no sample.

    >>> features, labels = torch.eye(3).repeat(20, 1) + 0.1, torch.arange(60) % 3
    >>> cas_draws(features, labels, head=torch.ones(3, 3), draws=5).shape
    torch.Size([5])
    """
    generator = torch.Generator(features.device).manual_seed(seed)
    labels = checked_labels(labels, len(head))
    own = [wide(features[labels == label]) for label in range(len(head))]
    times = []  # that each draw takes each sample
    for n in class_counts(labels, len(head)).tolist():
        chosen = torch.randint(n, (draws, n), generator=generator, device=features.device)
        times.append(own[0].new_zeros(draws, n).scatter_add_(1, chosen, own[0].new_ones(draws, n)))
    found = []
    together = max(1, BLOCK // (len(head) * max(head.shape)))  # draws
    for parts in zip(*(part.split(together) for part in times), strict=True):
        means = [part @ x / len(x) for part, x in zip(parts, own, strict=True)]
        unit = normalised(torch.stack(means, 1) * head)
        found.append(cas(unit @ unit.mT))
    return torch.cat(found)


def layer_attribution(
    model: nn.Module,
    layer: nn.Module,
    images: Images,
    labels: Labels,
    *,
    channels: int | None = None,
) -> Float[Tensor, "batch maps"]:
    r"""Contribution of each channel of a layer's output to the logit of the sample's own class.

    .. math:: a_k(x) = \sum_p h_{kp}(x) \, \partial f_{y(x)}(x) / \partial h_{kp}(x)

    Gradient times activation, summed over the places ``p``, in logits. Where nothing but an
    average over places and a linear head follow, it is exactly :math:`g_k(x) W_{yk}`; at
    earlier layers it is a first-order account. The model is asked in eval mode.

    ``channels`` is the dimension of the output that counts the channels, 1 of maps (images x
    channels x rows x columns) and of vectors; of anything else it must be given, such as 2 (or -1)
    of a transformer's tokens (images x tokens x channels), and of maps that are as many as they
    have rows, so that the channels may be last. Attention (tokens x tokens) is refused after its
    softmax; before it, it cannot be told from maps. Raises ValueError where ``channels`` is missing
    and for labels that are not one per image, or a layer that is not used exactly once, or not on
    the way from the images to the logits.

    >>> model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    >>> layer_attribution(model, model[1], torch.rand(5, 1, 2, 2), torch.arange(5) % 2).shape
    torch.Size([5, 3])
    """
    found, gradient = traced(model, layer, images, labels)
    if channels is not None or found.ndim != 2:
        channels = channels_of(found, images, channels)
    return (found * gradient).transpose(1, channels or 1)[..., None].flatten(2).sum(2)


def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: Images,
    labels: Labels,
    *,
    channels: int | None = None,
) -> Float[Tensor, " batch *places"]:
    r"""Where in each image the layer's output speaks for the image's label, 0 or more.

    .. math:: \max\left(0, \; \sum_k \bar\alpha_k \, h_{kp}(x) \right)

    with :math:`\bar\alpha_k` the mean over places of the gradient of the label's logit in map
    ``k``. Selvaraju et al. (2017), arXiv:1610.02391. At a last layer that only a mean over places
    and a linear head follow, the sum over places of what stands in the max is the logit less the
    bias. The model is asked in eval mode. ``channels`` and errors are as for
    :func:`layer_attribution`; the places have the other dimensions' shape, such as one row of
    a transformer's tokens, which :func:`on_grid` lays out. Of a transformer that asks its class
    token alone, take a layer before the last attention, such as ``blocks[-1].norm1`` of timm's:
    after it the other tokens decide nothing, though a map would show them.

    >>> model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    >>> grad_cam(model, model[1], torch.rand(5, 1, 2, 2), torch.arange(5) % 2).shape
    torch.Size([5, 2, 2])
    """
    found, gradient = traced(model, layer, images, labels)
    channels = channels_of(found, images, channels)
    places = [d for d in range(1, found.ndim) if d != channels]
    if places:  # else a mean over none would be one over all
        gradient = gradient.mean(places, keepdim=True)
    return (gradient * found).sum(channels).relu()


def on_grid(
    tokens: Float[Tensor, "batch tokens"], rows: int, columns: int, *, prefix: int = 1
) -> Float[Tensor, "batch {rows} {columns}"]:
    """A value for each token as a map: ``prefix`` tokens that stand for no place are left out.

    The others are the image's patches, row by row. Raises ValueError where there are other
    numbers of them.

    >>> on_grid(torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0]]), 2, 2)
    tensor([[[1., 2.],
             [3., 4.]]])
    """
    if tokens.shape[1] != prefix + rows * columns:
        raise ValueError(
            f"{tokens.shape[1]} tokens are not {rows} x {columns} places and prefix={prefix}: give "
            f"the rows and columns of the patches, and how many tokens stand before them."
        )
    maps: Tensor = tokens[:, prefix:].unflatten(1, (rows, columns))
    return maps


def traced(
    model: nn.Module, layer: nn.Module, images: Images, labels: Labels
) -> tuple[Tensor, Tensor]:
    """A layer's output, and in it the gradient of the logit of each image's label; float32."""
    check_floats(images)
    if isinstance(model, Headed | Network):  # which normalise pixels in [0, 1]
        check_pixels(images)
    check_one_each(images, labels)
    check_trackable(model)
    found: list[Tensor] = []

    def look(module: nn.Module, given: object, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"the layer {type(module).__name__} returns {type(output).__name__}, no tensor: "
                f"choose a layer inside it or after it."
            )
        found.append(output)
        return output.clone()  # as what follows may write into it

    with evaluating(model):
        check_repeats(model, images, lambda x: logits_of(model(x)))
    with recording(), evaluating(model), layer.register_forward_hook(look):
        images = usable(images).requires_grad_()  # for networks whose weights are frozen
        logits = logits_of(model(images))
        labels = usable(checked_labels(labels, logits.shape[1]))
        if len(found) != 1:
            raise ValueError(
                f"the layer {type(layer).__name__} is used {len(found)} times from the images to "
                f"the logits, where once is wanted: choose another, or give each use its own."
            )
        (output,), gradient = found, None
        own = logits.gather(1, labels[:, None]).sum()
        if own.requires_grad and output.requires_grad:
            (gradient,) = torch.autograd.grad(own, output, allow_unused=True)
    if gradient is None or len(output) != len(images):
        raise ValueError(
            f"the logits of these {len(images)} images have no gradient in the output of the layer "
            f"{type(layer).__name__} (shape {tuple(output.shape)}): choose one on the way from the "
            f"images to the logits, not under torch.no_grad(), whose first dimension counts images."
        )
    return output.detach().float(), gradient.float()


def spread(maps: Float[Tensor, "batch rows columns"]) -> Float[Tensor, " batch"]:
    r"""The share of its places that a map, 0 or more, covers.

    .. math:: \exp\left(-\sum_p m_p \log m_p\right) / P, \qquad \sum_p m_p = 1

    From 1/P, where all of it lies in one of the ``P`` places, to 1, where it is everywhere the
    same; NaN for a map of zeros.

    >>> spread(torch.tensor([[[0.0, 0.0], [0.0, 7.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    tensor([0.2500, 1.0000])
    """
    flat = maps.flatten(1)
    share = flat / flat.sum(1, keepdim=True)
    places: Tensor = torch.special.entr(share).sum(1).exp()
    return places / flat.shape[1]


def share_on(
    maps: Float[Tensor, "batch rows columns"], corners: Int[Tensor, "batch 2"], size: int, side: int
) -> Float[Tensor, " batch"]:
    """The share of each map, 0 or more, that lies on a square of its image, in [0, 1].

    ``corners`` are row and column of the squares' top left pixel, ``size`` the length of their
    sides, ``side`` that of the images, in pixels. Each place of the map stands for the pixels that
    it covers. NaN for a map of zeros.

    >>> maps = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
    >>> share_on(maps, torch.tensor([[0, 1]]), size=2, side=4)  # half of either place on top
    tensor([0.5000])
    """

    def covered(first: Int[Tensor, " batch"], places: int) -> Float[Tensor, "batch places"]:
        step = side / places
        start = step * torch.arange(places)
        ends = torch.minimum(first[:, None] + size, start + step)
        return (ends - torch.maximum(first[:, None], start)).clamp(min=0) / step

    rows, columns = (covered(corners[:, i], n) for i, n in enumerate(maps.shape[1:]))
    return torch.einsum("brc,br,bc->b", maps, rows, columns) / maps.flatten(1).sum(1)


def instance_similarity(
    features: Features,
    labels: Labels,
    head: Head,
) -> Similarity:
    r"""Mean cosine between the attribution vectors of single samples of two classes.

    .. math:: S_{ij} = \mathbb{E}_{x \in i,\, z \in j,\, z \ne x}
              \left[ \cos\left(g(x) \odot W_i,\; g(z) \odot W_j\right) \right]

    Unitless, in [-1, 1]. The mean over all pairs of unit vectors is the product of their mean
    vectors, so this takes time linear in the samples. A class needs two samples for its
    diagonal entry, which is NaN otherwise; raises ValueError for a class without any.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> instance_similarity(features, torch.tensor([0, 0, 1]), head=torch.ones(2, 2))
    tensor([[1., 0.],
            [0., nan]])
    """
    labels = checked_labels(labels, len(head))
    n = class_counts(labels, len(head))
    total = (wide(features[:0]) * head[:0]).new_zeros(head.shape)
    squares = total.new_zeros(len(head), 1)
    for rows, own in blocks(features, labels):
        unit = normalised(wide(rows) * head[own])
        total = total.index_add_(0, own, unit)
        squares = squares.index_add_(0, own, (unit**2).sum(1, keepdim=True))
    means = total / n[:, None]
    similarity = means @ means.T
    # On the diagonal, n of the n^2 pairs join a sample with itself (cosine 1, or 0 for zeros).
    self_pairs = (squares / n[:, None])[:, 0]
    others = (n * similarity.diagonal() - self_pairs) / (n - 1)
    similarity.diagonal().copy_(others.where(n > 1, torch.nan))
    return similarity


class HeadOrFeatures(NamedTuple):
    """What the similarity of attribution vectors is made of: matrices of cosines, in [-1, 1]."""

    head: Similarity  # of the head's rows
    centred: Similarity  # of the classes' mean features, less the mean over classes
    blind: Similarity  # of attribution, every class's mean features replaced by the mean over all
    nc3: Float[Tensor, ""]  # in [0, 2]; see head_or_features


def head_or_features(means: Float[Tensor, "classes features"], head: Head) -> HeadOrFeatures:
    r"""How much of the similarity comes from the head :math:`W` and from the features' means.

    Attribution is :math:`A_i = \mu_i \odot W_i` (:func:`class_attribution`). So of two networks'
    class means and heads, ``class_similarity(means * head)`` of one's means and the other's head
    is what a swap gives. NC3 says how far the head is from the centred means :math:`M`:

    .. math:: \mathrm{NC3} = \left\| W / \|W\|_F - M / \|M\|_F \right\|_F

    with the mean over classes taken off the rows of :math:`W`, too, as no probability depends on
    it. It is 0 where both have the same shape. Papyan, Han and Donoho (2020), arXiv:2008.08186.

    >>> means, head = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    >>> found = head_or_features(means, head)
    >>> [round(matrix[0, 1].item(), 4) for matrix in found[:3]]
    [1.0, -1.0, 1.0]
    """
    means, head = wide(means), wide(head)
    mean = means.mean(0)
    centred, rows = means - mean, head - head.mean(0)
    nc3 = (normalised(rows.flatten()) - normalised(centred.flatten())).norm()
    return HeadOrFeatures(
        head=class_similarity(head),
        centred=class_similarity(centred),
        blind=class_similarity(mean * head),
        nc3=nc3,
    )


class Groups(NamedTuple):
    """Mean similarities of pairs of classes, in [-1, 1], one for each matrix."""

    inside: Float[Tensor, "*batch"]  # of two classes of one group
    across: Float[Tensor, "*batch"]  # of two classes of different groups


def group_similarity(
    similarity: Float[Tensor, "*batch classes classes"], groups: Int[Tensor, " classes"]
) -> Groups:
    """Mean similarity of two classes of one group, and of two classes of different groups.

    >>> similarity = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]])
    >>> group_similarity(similarity, groups=torch.tensor([0, 0, 1]))
    Groups(inside=tensor(0.5000), across=tensor(0.1250))
    """
    same = groups[:, None] == groups
    inside = same & ~torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    return Groups(similarity[..., inside].mean(-1), similarity[..., ~same].mean(-1))
