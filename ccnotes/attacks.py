"""Worst-case inputs inside a small ball around an image."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ccnotes.checks import (
    check_choice,
    check_labels,
    check_one_each,
    check_pixels,
    check_trackable,
    extremes,
    logits_of,
    real,
    truth,
    whole,
)
from ccnotes.types import Images, Labels, Logits, Soft

LONGEST = 1e6  # what an l2 length may be: as far as 1e12 pixels from black to white


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent (Madry et al., 2018; arXiv:1706.06083).

    Lengths are in units of the [0, 1] pixel range: the literature's "8" is 8 / 255.

    >>> PGD(norm="l2", eps=0.5, step_size=0.1).steps
    10
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255  # radius of the ball
    step_size: float = 2 / 255  # length of one step
    steps: int = 10
    random_start: bool = True  # uniform in the ball

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, ("linf", "l2"))
        for name in ("eps", "step_size"):
            value = real(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r} must be a finite number >= 0.")
            if value > 1 and self.norm == "linf":
                raise ValueError(
                    f"{name}={value:g} is wider than the whole [0, 1] pixel range. "
                    f"Did you mean {name}={value:g} / 255?"
                )
            if value > LONGEST:
                raise ValueError(
                    f"{name}={value:g} is longer than any way from image to image, so that "
                    f"squares would overflow: give at most {LONGEST:g}."
                )
        object.__setattr__(self, "steps", whole("steps", self.steps, 1))
        object.__setattr__(self, "random_start", truth("random_start", self.random_start))


def pgd(
    model: nn.Module,
    x: Images,
    y: Labels,
    attack: PGD,
    generator: torch.Generator | None = None,
    *,
    batchnorm: Literal["eval", "train"] = "eval",
    loss: Literal["cross-entropy", "kl"] = "cross-entropy",
    stuck: list[Tensor] | None = None,
) -> Images:
    """Images near ``x``, in [0, 1], on which ``model`` does as badly as ``attack`` can manage.

    ``x`` holds raw pixels in [0, 1]; the model normalises its own input. The model is attacked
    in eval mode and left as it was found: same modes, no gradients on its weights.
    ``batchnorm="train"`` instead attacks it in the mode that it is in while it trains, as the
    reference code of Wei et al. (2025) does: BatchNorm then sees, and counts, every step.
    ``loss="kl"`` attacks the probabilities at ``x`` rather than the labels, from a normal start
    of standard deviation 0.001 (TRADES; Zhang et al., 2019, arXiv:1901.08573). A list given as
    ``stuck`` gets one more entry: which images had a gradient of exactly zero, or NaN, at the last
    step, so that the attack could not move them.

    Raises ValueError for ``x`` outside [0, 1] or in half precision, for labels that are not one per
    image or that the model has no logit for, and where no gradient reaches the images.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> adversarial = pgd(model, x, y, PGD(eps=0.1, step_size=0.05))
    >>> round((adversarial - x).abs().max().item(), 4)
    0.1
    """
    check_choice("batchnorm", batchnorm, ("eval", "train"))
    check_choice("loss", loss, ("cross-entropy", "kl"))
    check_pixels(x)
    if torch.finfo(x.dtype).eps > 1e-6:
        raise ValueError(
            f"images of {x.dtype} are rounded so much that an attack would leave its ball: give "
            f"x.float(), and a network that takes it, as Headed(network) does."
        )
    check_one_each(x, y)
    check_trackable(model)
    ends = [] if loss == "kl" else extremes(y)
    with recording(), evaluating(model) if batchnorm == "eval" else nullcontext():
        adv = x = usable(x)
        if loss == "kl":
            noise = 1e-3 * torch.empty_like(x).normal_(generator=generator)
            adv = (x + project(noise, attack)).clamp(0, 1)
            target = logits_of(model(x)).float().softmax(1).detach()
        else:
            target = usable(y.long())
            if attack.random_start:
                adv = (x + random_point(x, attack, generator)).clamp(0, 1)
        for _ in range(attack.steps):
            direction = ascent_direction(model, adv, target, attack.norm, ends)
            adv = (x + project(adv + attack.step_size * direction - x, attack)).clamp(0, 1)
        if stuck is not None:
            stuck.append((direction == 0).flatten(1).all(1))
    return adv


def log_odds_against(logits: Logits, labels: Labels) -> Float[Tensor, " batch"]:
    r"""The logarithm of the odds that the network gives against each label, in nats.

    .. math:: m = \log \frac{1 - p_y}{p_y} = \log \sum_{j \ne y} e^{z_j} - z_y, \qquad
              -\log p_y = \log(1 + e^m), \qquad \nabla(-\log p_y) = (1 - p_y) \nabla m

    So it rises along the same direction as the cross-entropy does, image by image. But where a
    network is all but certain, the cross-entropy's gradient is the difference of nearly equal
    numbers (in float32 noise from 1 - p = 1e-7 on), and this one holds. Raises ValueError for a
    single class, against which there are no odds.

    >>> log_odds_against(torch.tensor([[3.0, 1.0], [50.0, 0.0]]), torch.tensor([0, 0]))
    tensor([ -2., -50.])
    """
    if logits.shape[1] < 2:
        raise ValueError(
            "the network gives 1 logit, so there is no other class to be taken for: let it give "
            "one logit for each of two classes or more."
        )
    own = labels[:, None]
    others = logits.scatter(1, own, -torch.inf).logsumexp(1)
    return others - logits.gather(1, own)[:, 0]


def ascent_direction(
    model: nn.Module, x: Images, y: Labels | Soft, norm: str, ends: Sequence[float] = ()
) -> Images:
    """The step of length 1 along which the cross-entropy grows fastest.

    With probabilities for ``y``, the divergence from them grows as fast. ``ends`` are the least
    and the greatest label; see :func:`log_odds_against` for what is differentiated.
    """
    x = x.detach().requires_grad_()
    logits = logits_of(model(x)).float()
    check_labels(ends, logits.shape[1])
    # Summed, so that an image's gradient does not depend on how many share its batch.
    if y.is_floating_point():
        loss = F.cross_entropy(logits, y, reduction="sum")
    else:
        odds = log_odds_against(logits, y)
        # Images that share BatchNorm's statistics share a gradient, too, each to its weight.
        loss = (F.softplus(odds) if model.training else odds).sum()
    grad = None
    if loss.requires_grad:
        (grad,) = torch.autograd.grad(loss, x, allow_unused=True)
    if grad is None:
        raise ValueError(
            "no gradient reaches the images, so no attack can be made from gradients: the network "
            "detaches or rounds them to integers, or runs under torch.no_grad(). Let it compute "
            "on floating-point numbers from the images to the logits."
        )
    return grad.sign() if norm == "linf" else grad / lengths(grad).clamp_min(1e-12)


def project(delta: Images, attack: PGD) -> Images:
    """The nearest point to ``delta`` in the ball.

    >>> project(torch.tensor([[[[3.0, 4.0]]]]), PGD(norm="l2", eps=0.5))
    tensor([[[[0.3000, 0.4000]]]])
    """
    if attack.norm == "linf":
        return delta.clamp(-attack.eps, attack.eps)
    return delta * (attack.eps / lengths(delta).clamp_min(1e-12)).clamp_max(1)


def random_point(x: Images, attack: PGD, generator: torch.Generator | None) -> Images:
    """A point drawn uniformly from the ball around the origin; ``x`` says of which shape.

    >>> bool(random_point(torch.zeros(9, 1, 1, 2), PGD(eps=0.1), None).abs().max() <= 0.1)
    True
    """
    noise = torch.empty_like(x)
    if attack.norm == "linf":
        return noise.uniform_(-attack.eps, attack.eps, generator=generator)
    direction = noise.normal_(generator=generator)
    radius = torch.empty_like(lengths(x)).uniform_(generator=generator) ** (1 / x[0].numel())
    return attack.eps * radius * direction / lengths(direction)


def lengths(delta: Images) -> Float[Tensor, "batch 1 1 1"]:
    """The l2 norm of each image.

    >>> lengths(torch.tensor([[[[3.0, 4.0]]]]))
    tensor([[[[5.]]]])
    """
    norms: Tensor = delta.flatten(1).norm(dim=1)
    return norms[:, None, None, None]


@contextmanager
def recording() -> Iterator[None]:
    """A block in which autograd records, under torch.no_grad() and inference_mode(), too.

    >>> with torch.inference_mode(), recording():
    ...     (2 * torch.ones(1, requires_grad=True)).requires_grad
    True
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def usable(values: Tensor) -> Tensor:
    """The values, detached, such that autograd can use them if they come from inference mode."""
    return values.clone() if values.is_inference() else values.detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode, then put every submodule's mode back.

    By ``train`` where a class has its own, which may do more than to set the mode (LoRA's layers
    merge their weights), by the mode alone elsewhere.

    >>> model = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.Dropout())
    >>> with evaluating(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [False, True]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # from the outside in, as ``train`` reaches inside
            if type(module).train is not nn.Module.train:
                module.train(training)
        for module, training in modes:
            module.training = training
