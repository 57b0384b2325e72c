"""Groups of classes: a network seen as one of groups."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ccnotes.types import Images


class Grouped(nn.Module):
    r"""A network's logits of groups, whose probabilities are sums over the classes of a group.

    .. math:: z_g = \log \sum_{c \in g} \exp z_c

    So an attack on it looks for an image that is taken for another group, and its cross-entropy
    asks for no more than the group.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> grouped, x = Grouped(model, torch.tensor([0, 0, 1])), torch.rand(2, 1, 2, 2)
    >>> p = model(x).softmax(1)
    >>> torch.allclose(grouped(x).softmax(1)[:, 0], p[:, 0] + p[:, 1])
    True
    """

    def __init__(self, model: nn.Module, groups: Int[Tensor, " classes"]) -> None:
        super().__init__()
        self.model = model
        self.members = [torch.where(groups == group)[0] for group in groups.unique()]

    def forward(self, x: Images) -> Float[Tensor, "images groups"]:
        logits = self.model(x).float()
        return torch.stack([logits[:, classes].logsumexp(1) for classes in self.members], 1)
