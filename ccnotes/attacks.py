"""Worst-case inputs inside a small ball around an image."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ccnotes.types import Images, Labels, Soft


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent (Madry et al., 2018; arXiv:1706.06083).

    Lengths are in units of the [0, 1] pixel range: the literature's "8" is 8 / 255.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255  # radius of the ball
    step_size: float = 2 / 255  # length of one step
    steps: int = 10
    random_start: bool = True  # uniform in the ball

    def __post_init__(self):
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm={self.norm!r} is not one of 'linf', 'l2'.")
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r} must be a finite number >= 0.")
            if value > 1 and self.norm == "linf":
                raise ValueError(
                    f"{name}={value:g} is wider than the whole [0, 1] pixel range. "
                    f"Did you mean {name}={value:g} / 255?"
                )
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1.")


def pgd(
    model: nn.Module,
    x: Images,
    y: Labels,
    attack: PGD,
    generator: torch.Generator | None = None,
    *,
    batchnorm: Literal["eval", "paper"] = "eval",
    loss: Literal["cross-entropy", "kl"] = "cross-entropy",
) -> Images:
    """Images near ``x``, in [0, 1], on which ``model`` does as badly as ``attack`` can manage.

    ``x`` holds raw pixels in [0, 1]; the model normalises its own input. The model is attacked
    in eval mode and left as it was found: same modes, no gradients on its weights.
    ``batchnorm="paper"`` instead attacks it in the mode that it is in, as the reference code of
    Wei et al. (2025) does while training: BatchNorm then sees, and counts, every step.
    ``loss="kl"`` attacks the probabilities at ``x`` rather than the labels, from a normal start
    of standard deviation 0.001 (TRADES; Zhang et al., 2019, arXiv:1901.08573).
    """
    adv = x = x.detach()
    if loss == "kl":
        noise = 1e-3 * torch.empty_like(x).normal_(generator=generator)
        adv = (x + project(noise, attack)).clamp(0, 1)
    elif attack.random_start:
        adv = (x + random_point(x, attack, generator)).clamp(0, 1)
    with evaluating(model) if batchnorm == "eval" else nullcontext():
        target = model(x).float().softmax(1).detach() if loss == "kl" else y
        for _ in range(attack.steps):
            step = attack.step_size * ascent_direction(model, adv, target, attack.norm)
            adv = (x + project(adv + step - x, attack)).clamp(0, 1)
    return adv


def ascent_direction(model: nn.Module, x: Images, y: Labels | Soft, norm: str) -> Images:
    """The step of length 1 along which the cross-entropy grows fastest.

    With probabilities for ``y``, the divergence from them grows as fast.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        # Summed, so that an image's gradient does not depend on how many share its batch.
        loss = F.cross_entropy(model(x).float(), y, reduction="sum")
    (grad,) = torch.autograd.grad(loss, x)
    return grad.sign() if norm == "linf" else grad / lengths(grad).clamp_min(1e-12)


def project(delta: Images, attack: PGD) -> Images:
    """The nearest point to ``delta`` in the ball."""
    if attack.norm == "linf":
        return delta.clamp(-attack.eps, attack.eps)
    return delta * (attack.eps / lengths(delta).clamp_min(1e-12)).clamp_max(1)


def random_point(x: Images, attack: PGD, generator: torch.Generator | None) -> Images:
    """A point drawn uniformly from the ball around the origin."""
    noise = torch.empty_like(x)
    if attack.norm == "linf":
        return noise.uniform_(-attack.eps, attack.eps, generator=generator)
    direction = noise.normal_(generator=generator)
    radius = torch.empty_like(lengths(x)).uniform_(generator=generator) ** (1 / x[0].numel())
    return attack.eps * radius * direction / lengths(direction)


def lengths(delta: Images) -> Float[Tensor, "batch 1 1 1"]:
    return delta.flatten(1).norm(dim=1)[:, None, None, None]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode, then put every submodule's mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
