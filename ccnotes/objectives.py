"""What adversarial training minimises."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of the logits at the attacked images (Madry et al., 2018)."""
    return F.cross_entropy(logits.float(), labels)
