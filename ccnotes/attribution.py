"""Which features does a linear head use for which class?"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


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
    """Mean feature vector of each class. Raises ValueError if a class has no sample."""
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
    diagonal = similarity.diagonal(dim1=-2, dim2=-1)
    return similarity.clamp_min(0).sum((-2, -1)) - diagonal.clamp_min(0).sum(-1)


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
