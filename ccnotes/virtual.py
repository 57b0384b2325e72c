"""Smoothing without labels: what a network predicts, and what it predicts nearby."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ccnotes.attacks import PGD, ascent, lengths
from ccnotes.checks import check_choice, real, whole
from ccnotes.devices import autocast
from ccnotes.modes import recording, statistics_kept
from ccnotes.types import Images, Logits

Kind = Literal["none", "vat", "random", "uat"]


@dataclass(frozen=True, kw_only=True)
class Virtual:
    """A term on images without their labels; those with labels count among them.

    ``"vat"``: virtual adversarial training (Miyato et al., 2018; arXiv:1704.03976): a step of
    length ``eps`` in l2, where the divergence grows fastest. ``"random"``: a step as long, in a
    random direction: its control. ``"uat"``: the worst in an l-inf ball by PGD on the divergence
    (UAT-OT; Alayrac et al., 2019; arXiv:1905.13725). Lengths are in units of the [0, 1] pixel
    range. Raises ValueError for what cannot be.

    >>> Virtual(kind="vat", eps=1.0, entropy=1.0).used  # VAT with entropy
    True
    """

    kind: Kind = "none"
    eps: float = 1.0  # length of the step (vat, random), radius of the ball (uat)
    steps: int = 1  # of the power iteration (vat), of PGD with steps of eps / 4 (uat)
    xi: float = 0.01  # how far from the image vat looks for its direction
    weight: float = 1.0  # of the divergence in the loss
    entropy: float = 0.0  # weight of the entropy of what is predicted, to be kept small
    batch_size: int = 100  # unlabelled images beside each batch of labelled ones

    def __post_init__(self) -> None:
        check_choice("virtual.kind", self.kind, get_args(Kind))
        for name in ("eps", "xi", "weight", "entropy"):
            value = real(f"virtual.{name}", getattr(self, name))
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"virtual.{name}={value!r} must be a finite number >= 0.")
            object.__setattr__(self, name, value)
        for name in ("steps", "batch_size"):
            object.__setattr__(self, name, whole(f"virtual.{name}", getattr(self, name), 1))
        if self.kind == "uat":
            _ = self.attack  # for the error of a radius that is none
        if self.kind == "vat" and not 1e-3 <= self.xi <= 10:
            raise ValueError(
                f"virtual.xi={self.xi:g} must lie in [0.001, 10]: nearer, what is left of the "
                f"divergence in float32 is rounding noise; farther, it is another direction."
            )

    @property
    def used(self) -> bool:
        """Whether it adds anything to the loss."""
        return self.kind != "none" or self.entropy > 0

    @property
    def attack(self) -> PGD:
        """That of ``"uat"``."""
        return PGD(eps=self.eps, step_size=self.eps / 4, steps=self.steps)


def divergence(p: Logits, q: Logits) -> Float[Tensor, ""]:
    """KL(p || q), in nats, of the predictions with these logits; the mean over images.

    >>> round(divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])).item(), 4)
    49.3069
    """
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def vat_direction(
    model: nn.Module,
    x: Images,
    xi: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> Images:
    """Where the divergence from the prediction at ``x`` grows fastest; of length 1 in l2.

    By ``steps`` of a power iteration on its Hessian, from a normal start: each takes the gradient
    of the divergence at ``x + xi * d`` for the next direction (Miyato et al., 2018). Where there is
    no gradient the direction stays. BatchNorm is in the model's own mode, its statistics stay.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> found = vat_direction(model, torch.rand(3, 1, 2, 2), xi=0.1, steps=1)
    >>> found.flatten(1).norm(dim=1).round(decimals=3)
    tensor([1., 1., 1.])
    """
    direction = random_direction(x, generator)
    with recording(), autocast(x.device, "float32"), statistics_kept(model):
        logits = model(x).detach()
        for _ in range(steps):
            at = direction.requires_grad_()
            (gradient,) = torch.autograd.grad(divergence(logits, model(x + xi * at)), at)
            size = gradient.abs().amax((1, 2, 3), keepdim=True)
            scaled = gradient / size.clamp_min(torch.finfo(torch.float32).tiny)
            found = scaled / lengths(scaled).clamp_min(1e-12)
            direction = torch.where(size > 0, found, at.detach())
    return direction


def random_direction(x: Images, generator: torch.Generator | None) -> Images:
    """Uniform on the sphere: of length 1 in l2."""
    noise = torch.empty_like(x).normal_(generator=generator)
    return noise / lengths(noise)


def virtual_images(
    model: nn.Module,
    x: Images,
    settings: Virtual,
    generator: torch.Generator | None = None,
    batchnorm: Literal["eval", "train"] = "eval",
) -> Images:
    """The images nearby at which the prediction shall be the same; without one, ``x``.

    Those of ``"uat"`` are in [0, 1], the others may leave it, as in their authors' code.
    ``batchnorm`` is its mode while ``"uat"`` attacks; its statistics stay.

    >>> model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(3, 1, 2, 2)
    >>> nearby = virtual_images(model, x, Virtual(kind="random", eps=0.5))
    >>> (nearby - x).flatten(1).norm(dim=1)
    tensor([0.5000, 0.5000, 0.5000])
    """
    s = settings
    if s.kind == "vat":
        return x + s.eps * vat_direction(model, x, s.xi, s.steps, generator)
    if s.kind == "random":
        return x + s.eps * random_direction(x, generator)
    if s.kind == "uat":
        none = torch.zeros(len(x), dtype=torch.long, device=x.device)
        with autocast(x.device, "float32"), statistics_kept(model):
            found = ascent(model, x, none, s.attack, generator, batchnorm=batchnorm, loss="kl")
            return found.images
    return x


def smoothness(model: nn.Module, x: Images, nearby: Images, settings: Virtual) -> Float[Tensor, ""]:
    r"""The weighted divergence between predictions at ``x`` and nearby, and entropy; in nats.

    .. math:: w \, \mathrm{KL}(p(x) \,\|\, p(x')) + v \, H(p(x))

    with :math:`p(x)` held fixed in the first term. BatchNorm is in the model's own mode, but its
    statistics stay: they are those of labelled images, attacked as training attacks them.

    >>> model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(3, 1, 2, 2)
    >>> smoothness(model, x, x, Virtual(kind="vat")).item()
    0.0
    """
    s = settings
    with autocast(x.device, "float32"), statistics_kept(model):
        logits = model(x)
        loss: Tensor = logits.sum() * 0
        if s.kind != "none":
            loss = loss + s.weight * divergence(logits.detach(), model(nearby))
    if s.entropy:
        loss = loss + s.entropy * torch.special.entr(logits.softmax(1)).sum(1).mean()
    return loss
