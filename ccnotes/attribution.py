"""Which features does a linear head use for which class?"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def class_attribution(
    features: Float[Tensor, "samples features"],
    labels: Int[Tensor, " samples"],
    head: Float[Tensor, "classes features"],
) -> Float[Tensor, "classes features"]:
    r"""Mean contribution of each feature to the logit of the sample's own class, in logits.

    .. math:: A_{ik} = \mathbb{E}_{x : y(x) = i} \left[ g_k(x) \, W_{ik} \right]

    Summed over ``k`` it is the class's mean logit, less the bias (Wei et al., 2025,
    arXiv:2506.05032). Raises ValueError if a class has no sample.
    """
    return class_means(features, labels, len(head)) * head


def class_means(
    features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"], num_classes: int
) -> Float[Tensor, "classes features"]:
    """Mean feature vector of each class.

    Raises ValueError if a class has no sample, or a sample another label than 0, ..., K - 1.
    """
    if (strange := labels[(labels < 0) | (labels >= num_classes)]).numel():
        raise ValueError(
            f"label {strange.max().item()} is not one of the {num_classes} classes of the head, "
            f"which are 0 to {num_classes - 1}: choose the data that the model was trained on."
        )
    counts = torch.bincount(labels, minlength=num_classes)
    if (missing := torch.where(counts == 0)[0]).numel():
        raise ValueError(
            f"no samples of class {missing.tolist()}, so its mean attribution is undefined. "
            f"Got {len(labels)} samples for a head of {num_classes} classes."
        )
    total = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return total / counts[:, None]


def class_similarity(
    attribution: Float[Tensor, "classes features"],
) -> Float[Tensor, "classes classes"]:
    r"""Cosine of the angle between the attribution vectors of each pair of classes.

    .. math:: C_{ij} = \langle A_i, A_j \rangle \,/\, (\|A_i\| \|A_j\|)

    Unitless, in [-1, 1]; high off the diagonal means that the classes lean on the same
    features. This is the matrix of Wei et al. (2025), arXiv:2506.05032.
    """
    unit = F.normalize(attribution, dim=1)
    return unit @ unit.T


def cas(similarity: Float[Tensor, "*batch classes classes"]) -> Float[Tensor, "*batch"]:
    r"""Class attribution similarity: the positive similarities off the diagonal, summed.

    .. math:: \mathrm{CAS} = \sum_{i \ne j} \max(C_{ij}, 0)

    Both triangles count, so it lies in [0, K (K - 1)] for K classes: at most 90 for ten. Not
    comparable between different K without dividing by K (K - 1). Wei et al. (2025).
    """
    diagonal = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    return similarity.clamp_min(0).masked_fill(diagonal, 0).sum((-2, -1))


def cas_draws(
    features: Float[Tensor, "samples features"],
    labels: Int[Tensor, " samples"],
    head: Float[Tensor, "classes features"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Float[Tensor, " draws"]:
    """CAS of bootstrap samples: as many images of each class, drawn from it with replacement.

    Their 2.5 % and 97.5 % quantiles are an interval for what the choice of test images does.
    One seed draws the same images whatever the model, so draws of two models are paired.
    Efron and Tibshirani (1993). Raises ValueError if a class has no sample.
    """
    generator = torch.Generator(features.device).manual_seed(seed)
    class_means(features, labels, len(head))  # for its error, where a class has no sample
    means = []
    for label in range(len(head)):
        own = features[labels == label]
        chosen = torch.randint(len(own), (draws, len(own)), generator=generator, device=own.device)
        times = own.new_zeros(draws, len(own)).scatter_add_(1, chosen, own.new_ones(chosen.shape))
        means.append(times @ own / len(own))
    unit = F.normalize(torch.stack(means, 1) * head, dim=2)
    return cas(unit @ unit.mT)


def layer_attribution(
    model: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "samples channels height width"],
    labels: Int[Tensor, " samples"],
) -> Float[Tensor, "samples maps"]:
    r"""Contribution of each channel of a layer's output to the logit of the sample's own class.

    .. math:: a_k(x) = \sum_p h_{kp}(x) \, \partial f_{y(x)}(x) / \partial h_{kp}(x)

    Gradient times activation, summed over the places ``p``, in logits. Where nothing but an
    average over places and a linear head follow, it is exactly :math:`g_k(x) W_{yk}`; at
    earlier layers it is a first-order account. Call it with the model in eval mode.
    """
    found: list[Tensor] = []
    images = images.detach().requires_grad_()  # for networks whose weights are frozen
    hook = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
    with hook, torch.enable_grad():
        logits = model(images)
        own = logits.gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(own, found[0])
    return (found[0].detach().float() * gradient.float()).flatten(2).sum(2)


def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "samples channels height width"],
    labels: Int[Tensor, " samples"],
) -> Float[Tensor, "samples rows columns"]:
    r"""Where in each image the layer's output speaks for the image's label, 0 or more.

    .. math:: \max\left(0, \; \sum_k \bar\alpha_k \, h_{kp}(x) \right)

    with :math:`\bar\alpha_k` the mean over places of the gradient of the label's logit in map
    ``k``. Selvaraju et al. (2017), arXiv:1610.02391, as captum computes it. At a last layer that
    only a mean over places and a linear head follow, the sum over places of what stands in the
    max is the logit less the bias. Call it with the model in eval mode.
    """
    from captum.attr import LayerGradCam  # comes with the book, not with the package

    maps = LayerGradCam(model, layer).attribute(images, target=labels, relu_attributions=True)
    return maps.detach().squeeze(1)


def spread(maps: Float[Tensor, "samples rows columns"]) -> Float[Tensor, " samples"]:
    r"""The share of its places that a map, 0 or more, covers.

    .. math:: \exp\left(-\sum_p m_p \log m_p\right) / P, \qquad \sum_p m_p = 1

    From 1/P, where all of it lies in one of the ``P`` places, to 1, where it is everywhere the
    same; NaN for a map of zeros.
    """
    flat = maps.flatten(1)
    share = flat / flat.sum(1, keepdim=True)
    return torch.special.entr(share).sum(1).exp() / flat.shape[1]


def instance_similarity(
    features: Float[Tensor, "samples features"],
    labels: Int[Tensor, " samples"],
    head: Float[Tensor, "classes features"],
) -> Float[Tensor, "classes classes"]:
    r"""Mean cosine between the attribution vectors of single samples of two classes.

    .. math:: S_{ij} = \mathbb{E}_{x \in i,\, z \in j,\, z \ne x}
              \left[ \cos\left(g(x) \odot W_i,\; g(z) \odot W_j\right) \right]

    Unitless, in [-1, 1]. The mean over all pairs of unit vectors is the product of their mean
    vectors, so this takes time linear in the samples. A class needs two samples for its
    diagonal entry, which is NaN otherwise; raises ValueError for a class without any.
    """
    unit = F.normalize(features * head[labels], dim=1)
    means = class_means(unit, labels, len(head))
    similarity = means @ means.T
    # On the diagonal, n of the n^2 pairs join a sample with itself (cosine 1, or 0 for zeros).
    n = torch.bincount(labels, minlength=len(head))
    self_pairs = class_means((unit**2).sum(1, keepdim=True), labels, len(head))[:, 0]
    others = (n * similarity.diagonal() - self_pairs) / (n - 1)
    similarity.diagonal().copy_(others.where(n > 1, torch.nan))
    return similarity


def group_similarity(
    similarity: Float[Tensor, "*batch classes classes"], groups: Int[Tensor, " classes"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Mean similarity of two classes of one group, and of two classes of different groups."""
    same = groups[:, None] == groups
    inside = same & ~torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    return similarity[..., inside].mean(-1), similarity[..., ~same].mean(-1)
