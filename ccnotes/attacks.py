"""Worst-case inputs inside a small ball around an image."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
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
from ccnotes.devices import Compiled, compiled
from ccnotes.modes import evaluating, recording, usable
from ccnotes.types import Images, Labels, Logits, Soft

LONGEST = 1e6  # what an l2 length may be: as far as 1e12 pixels from black to white


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent (Madry et al., 2018; arXiv:1706.06083), and its kin of one step.

    Lengths are in units of the [0, 1] pixel range: the literature's "8" is 8 / 255. Named attacks
    of one step are in :mod:`ccnotes.onestep`.

    >>> PGD(norm="l2", eps=0.5, step_size=0.1).steps
    10
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255  # radius of the ball
    step_size: float = 2 / 255  # length of one step
    steps: int = 10
    random_start: bool = True  # uniform in the ball
    start: float = 1.0  # radius of the ball in which it starts, as a multiple of eps
    project: bool = True  # each step back into the ball; without it only into [0, 1]
    zero_smallest: float = 0.0  # share of each image's gradient, the smallest of it, set to 0

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
        for name in ("random_start", "project"):
            object.__setattr__(self, name, truth(name, getattr(self, name)))
        for name, low, high in (("start", 0, 255), ("zero_smallest", 0, 1)):
            value = real(name, getattr(self, name))
            if not low <= value < high:
                raise ValueError(f"{name}={value:g} must lie in [{low}, {high}).")
            object.__setattr__(self, name, value)
        if self.start != 1 and not self.random_start:
            raise ValueError(
                f"start={self.start:g} is the radius of a random start, and random_start=False: "
                f"leave one of them out."
            )


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
    start: Images | None = None,
) -> Images:
    """Images near ``x``, in [0, 1], on which ``model`` does as badly as ``attack`` can manage.

    ``x`` holds raw pixels in [0, 1]; the model normalises its own input. The model is attacked
    in eval mode and left as it was found: same modes, no gradients on its weights.
    ``batchnorm="train"`` instead attacks it in the mode that it is in while it trains, as the
    reference code of Wei et al. (2025) does: BatchNorm then sees, and counts, every step.
    ``loss="kl"`` attacks the probabilities at ``x`` rather than the labels, from a normal start
    of standard deviation 0.001 (TRADES; Zhang et al., 2019, arXiv:1901.08573). A list given as
    ``stuck`` gets one more entry: which images had a gradient of exactly zero, or NaN, at the last
    step, so that the attack could not move them. ``start`` is where to begin, seen from ``x``, in
    place of what :func:`random_start` draws.

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
    known = [] if loss == "kl" else extremes(y)
    found = ascent(
        model,
        x,
        y,
        attack,
        generator,
        batchnorm=batchnorm,
        loss=loss,
        label_range=known,
        start=start,
    )
    if stuck is not None:
        stuck.append(found.stuck)
    return found.images


class Found(NamedTuple):
    """What an attack has found."""

    images: Images
    stuck: Bool[Tensor, " batch"]  # no gradient, so that the last step could not move them


def ascent(
    model: nn.Module,
    x: Images,
    y: Labels,
    attack: PGD,
    generator: torch.Generator | None,
    *,
    batchnorm: Literal["eval", "train"] = "eval",
    loss: Literal["cross-entropy", "kl"] = "cross-entropy",
    label_range: Sequence[float] = (),
    start: Images | None = None,
) -> Found:
    """:func:`pgd` of what has been looked at: nothing here waits for the device.

    ``label_range`` is the least and the greatest label, where there may be no logit for them.
    """
    with recording(), evaluating(model) if batchnorm == "eval" else nullcontext():
        x = usable(x)
        if start is None:
            start = random_start(x, attack, generator, loss=loss)
        adv = (x + usable(start)).clamp(0, 1)
        if loss == "kl":
            target = logits_of(model(x)).float().softmax(1).detach()
        else:
            target = usable(y.long())
        if batchnorm == "eval" and len(x) and (found := compiled(model)):
            # Compiled code finds no fault with what has no gradient, or a label no logit.
            if not found.functions or label_range:
                input_gradient(model, adv[:1], target[:1], label_range)
            return compiled_steps(found, model, x, adv, target, attack)
        for _ in range(attack.steps):
            gradient = input_gradient(model, adv, target, label_range)
            adv, direction = stepped(x, adv, gradient, attack, attack.eps, attack.step_size)
    return Found(adv, still(direction))


def compiled_steps(
    engine: Compiled, model: nn.Module, x: Images, start: Images, target: Tensor, attack: PGD
) -> Found:
    """All steps of the attack, in batches of the size that the network is compiled for."""

    def step(x: Images, adv: Images, target: Tensor, eps: Tensor, step_size: Tensor) -> Found:
        # No function of its own: what checks annotations in tests would be traced with it.
        ascent_of = torch.func.grad(
            lambda adv: ascended(logits_of(model(adv)), target, shared=False)
        )
        gradient = ascent_of(adv)
        moved, direction = stepped(x, adv, gradient, attack, eps, step_size)
        return Found(moved, still(direction))

    def steps(x: Images, adv: Images, target: Tensor, eps: Tensor, step_size: Tensor) -> Found:
        for _ in range(attack.steps):
            adv, stuck = one(x, adv, target, eps, step_size)
        return Found(adv, stuck)

    # Lengths are tensors, so that what is compiled for one radius serves all.
    radii = [x.new_tensor(attack.eps), x.new_tensor(attack.step_size)]
    size = engine.batch_size
    kind = (attack.norm, attack.project, attack.zero_smallest)
    one = engine.function(("step", kind, target.dtype), step)
    found: list[Found] = []
    with torch.no_grad():  # but towards the images
        for parts in zip(x.split(size), start.split(size), target.split(size), strict=True):
            inputs = [*(filled_up(part, size) for part in parts), *radii]
            run = engine.recorded(("steps", kind, attack.steps), steps, *inputs)
            count = len(parts[0])
            found.append(Found(*(value[:count].clone() for value in run(*inputs))))
    return Found(*(torch.cat(values) for values in zip(*found, strict=True)))


def filled_up(values: Tensor, size: int) -> Tensor:
    """The values, and the first again until they are so many, as compiled code takes no fewer.

    >>> filled_up(torch.tensor([3, 4]), 4).tolist()
    [3, 4, 3, 3]
    """
    missing = size - len(values)
    if missing:
        values = torch.cat([values, values[:1].expand(missing, *values.shape[1:])])
    # One layout, as what is compiled serves no other.
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


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


def input_gradient(
    model: nn.Module, x: Images, target: Labels | Soft, label_range: Sequence[float] = ()
) -> Images:
    """The gradient, in the images, of what :func:`ascended` makes of the network's logits.

    ``label_range``: the least and the greatest label, for the error where there is no logit.
    """
    x = x.detach().requires_grad_()
    logits = logits_of(model(x))
    check_labels(label_range, logits.shape[1])
    loss = ascended(logits, target, shared=model.training)
    gradient = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "no gradient reaches the images, so no attack can be made from gradients: the network "
            "detaches or rounds them to integers, or runs under torch.no_grad(). Let it compute "
            "on floating-point numbers from the images to the logits."
        )
    return gradient


def ascended(logits: Logits, target: Labels | Soft, *, shared: bool) -> Float[Tensor, ""]:
    """What an attack drives up: image by image along the gradient of the cross-entropy.

    With probabilities as the target, the divergence from them grows as fast. For labels see
    :func:`log_odds_against`. Images that ``shared`` BatchNorm's statistics share a gradient, too,
    each to its weight. Summed, so that it does not depend on how many share a batch.
    """
    logits = logits.float()
    if target.is_floating_point():
        return F.cross_entropy(logits, target, reduction="sum")
    odds = log_odds_against(logits, target)
    return (F.softplus(odds) if shared else odds).sum()


def stepped(
    x: Images,
    adv: Images,
    gradient: Images,
    attack: PGD,
    eps: float | Tensor,
    step_size: float | Tensor,
) -> tuple[Images, Images]:
    """One step of ``step_size`` from ``adv``, back into the ball and [0, 1], and its direction.

    The lengths of ``attack`` do not count, those given beside it do: compiled code has tensors.
    """
    gradient = without_smallest(gradient, attack.zero_smallest)
    steepest = attack.norm == "linf"
    direction = gradient.sign() if steepest else gradient / lengths(gradient).clamp_min(1e-12)
    delta = adv + step_size * direction - x
    if attack.project:
        delta = project(delta, attack.norm, eps)
    return (x + delta).clamp(0, 1), direction


def without_smallest(gradient: Images, share: float) -> Images:
    """The gradient with that share of each image's entries, the smallest in size, set to 0.

    >>> without_smallest(torch.tensor([[[[3.0, -1.0], [-4.0, 2.0]]]]), 0.5).flatten().tolist()
    [3.0, 0.0, -4.0, 0.0]
    """
    sizes = gradient.abs().flatten(1)
    if not (count := round(share * sizes.shape[1])):
        return gradient
    limit = sizes.kthvalue(count, 1).values
    return gradient.where(gradient.abs() > limit[:, None, None, None], 0)


def still(direction: Images) -> Bool[Tensor, " batch"]:
    """Which images have no direction to go.

    >>> still(torch.tensor([[[[0.0, 0.0]]], [[[0.0, 1.0]]]]))
    tensor([ True, False])
    """
    return (direction == 0).flatten(1).all(1)


def project(delta: Images, norm: str, eps: float | Tensor) -> Images:
    """The nearest point to ``delta`` in the ball of radius ``eps``.

    >>> project(torch.tensor([[[[3.0, 4.0]]]]), "l2", 0.5)
    tensor([[[[0.3000, 0.4000]]]])
    """
    if norm == "linf":
        return delta.clamp(-eps, eps)  # type: ignore[arg-type]
    return delta * (eps / lengths(delta).clamp_min(1e-12)).clamp_max(1)


def random_start(
    x: Images,
    attack: PGD,
    generator: torch.Generator | None,
    *,
    loss: Literal["cross-entropy", "kl"] = "cross-entropy",
) -> Images:
    """Where the attack begins, seen from ``x``: zeros where it begins there.

    >>> random_start(torch.zeros(1, 1, 1, 2), PGD(random_start=False), None)
    tensor([[[[0., 0.]]]])
    """
    if loss == "kl":
        noise = 1e-3 * torch.empty_like(x).normal_(generator=generator)
        return project(noise, attack.norm, attack.eps)
    return random_point(x, attack, generator) if attack.random_start else torch.zeros_like(x)


def random_point(x: Images, attack: PGD, generator: torch.Generator | None) -> Images:
    """A point uniform in the ball in which the attack starts; ``x`` says of which shape.

    Around the origin, of radius ``start * eps``.

    >>> bool(random_point(torch.zeros(9, 1, 1, 2), PGD(eps=0.1), None).abs().max() <= 0.1)
    True
    """
    noise, length = torch.empty_like(x), attack.start * attack.eps
    if attack.norm == "linf":
        return noise.uniform_(-length, length, generator=generator)
    direction = noise.normal_(generator=generator)
    radius = torch.empty_like(lengths(x)).uniform_(generator=generator) ** (1 / x[0].numel())
    return length * radius * direction / lengths(direction)


def lengths(delta: Images) -> Float[Tensor, "batch 1 1 1"]:
    """The l2 norm of each image.

    >>> lengths(torch.tensor([[[[3.0, 4.0]]]]))
    tensor([[[[5.]]]])
    """
    norms: Tensor = delta.flatten(1).norm(dim=1)
    return norms[:, None, None, None]
