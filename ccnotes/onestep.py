"""Attacks of one step, what keeps training on them from collapsing, and what gives warning."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ccnotes.attacks import PGD, input_gradient, random_point
from ccnotes.checks import check_bytes
from ccnotes.data import to_float
from ccnotes.devices import autocast
from ccnotes.modes import evaluating, recording, statistics_kept
from ccnotes.types import Images, Labels, Pixels


def fgsm(eps: float) -> PGD:
    """One step of ``eps`` from the image itself (Goodfellow et al., 2015; arXiv:1412.6572).

    >>> fgsm(0.1).step_size, fgsm(0.1).random_start
    (0.1, False)
    """
    return PGD(eps=eps, step_size=eps, steps=1, random_start=False)


def fgsm_rs(eps: float) -> PGD:
    """From a random start a step of 1.25 eps, back into the ball.

    Wong, Rice and Kolter (2020), arXiv:2001.03994. Without ``project`` it is the attack of Kang and
    Moosavi-Dezfooli (2021), arXiv:2105.02942.

    >>> fgsm_rs(0.1).step_size, replace(fgsm_rs(0.1), project=False).project
    (0.125, False)
    """
    return PGD(eps=eps, step_size=1.25 * eps, steps=1)


def n_fgsm(eps: float) -> PGD:
    """A step of eps from noise uniform within 2 eps; into [0, 1], but not into the ball.

    de Jorge et al. (2022), arXiv:2202.01181.

    >>> n_fgsm(0.1).start, n_fgsm(0.1).project
    (2.0, False)
    """
    return PGD(eps=eps, step_size=eps, steps=1, start=2.0, project=False)


def zero_grad(eps: float) -> PGD:
    """:func:`fgsm_rs` that leaves the 35 % of pixels with the smallest gradients at the start.

    Golgooni et al. (2021), arXiv:2103.15476.

    >>> zero_grad(0.1).zero_smallest
    0.35
    """
    return replace(fgsm_rs(eps), zero_smallest=0.35)


def grad_align_weight(eps: float) -> float:
    """The weight of :func:`grad_align` for a radius, as its authors' own are interpolated.

    0.2 at 8 / 255, 2 at 16 / 255 (Andriushchenko and Flammarion, 2020).

    >>> round(grad_align_weight(8 / 255), 6), round(grad_align_weight(16 / 255), 6)
    (0.2, 2.0)
    """
    return float(0.02 * 10 ** (eps * 255 / 8))


def noise_in_ball(x: Images, attack: PGD, generator: torch.Generator | None) -> Images:
    """Noise uniform in the attack's ball, whatever its own start.

    >>> round(noise_in_ball(torch.zeros(999, 1, 1, 1), n_fgsm(0.1), None).max().item(), 1)
    0.1
    """
    return random_point(x, PGD(norm=attack.norm, eps=attack.eps), generator)


def grad_align(model: nn.Module, x: Images, y: Labels, noise: Images) -> Float[Tensor, ""]:
    r"""How far input gradients turn within the ball, to be kept small; in [0, 2].

    .. math:: 1 - \frac{1}{n} \sum_i \cos(\nabla_x \ell(x_i, y_i), \nabla_x \ell(x_i + \eta_i, y_i))

    with :math:`\eta` the noise. Andriushchenko and Flammarion (2020), arXiv:2007.02617. As in their
    code the first gradient is held fixed, and images without a gradient do not count. BatchNorm is
    in the model's own mode, its running statistics stay; their code lets them move. Computed in
    float32, as rounding to half precision turns gradients.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))  # whose gradients hardly turn
    >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> grad_align(model, x, y, torch.rand_like(x)).item() < 1e-5
    True
    """
    with recording(), autocast(x.device, "float32"), statistics_kept(model):
        first = loss_gradient(model, x, y, create_graph=False)
        second = loss_gradient(model, x + noise, y, create_graph=True)
    first, second = first.flatten(1), second.flatten(1)
    turned = first.any(1) & second.any(1)
    if not turned.any():
        return second.sum() * 0.0
    cosines = (unit(first[turned]) * unit(second[turned])).sum(1)
    return 1 - cosines.mean()


def loss_gradient(model: nn.Module, x: Images, y: Labels, *, create_graph: bool) -> Images:
    """The gradient, in the images, of the summed cross-entropy."""
    x = x.detach().requires_grad_()
    loss = F.cross_entropy(model(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    return gradient


def unit(rows: Float[Tensor, "rows values"]) -> Float[Tensor, "rows values"]:
    """Each row divided by its length.

    >>> unit(torch.tensor([[3e-20, 4e-20]]))  # where squares vanish
    tensor([[0.6000, 0.8000]])
    """
    scaled = rows / rows.detach().abs().amax(1, keepdim=True)
    result: Tensor = scaled / scaled.norm(dim=1, keepdim=True)
    return result


def elle(
    model: nn.Module,
    x: Images,
    y: Labels,
    noise: tuple[Images, Images],
    share: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    r"""How far the loss is from linear between two random points of the ball, in nats squared.

    .. math:: \frac{1}{n} \sum_i (\ell(x_c) - (1 - \alpha) \ell(x_a) - \alpha \ell(x_b))^2, \qquad
              x_c = (1 - \alpha) x_a + \alpha x_b

    with :math:`x_a, x_b` the image plus either noise and :math:`\alpha` its ``share``. Abad
    Rocamora et al. (2024), "Efficient local linearity regularization to overcome catastrophic
    overfitting", ICLR: no double backward. All three in one pass, so that BatchNorm sees them
    together; its running statistics stay. In float32, as what is left of losses is small.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> elle(model, x, y, (torch.zeros_like(x), torch.zeros_like(x)), torch.rand(3)).item() < 1e-9
    True
    """
    a, b = (x + n for n in noise)
    weight = share[:, None, None, None]
    with autocast(x.device, "float32"), statistics_kept(model):
        logits = model(torch.cat([a, b, (1 - weight) * a + weight * b]))
    losses = F.cross_entropy(logits, y.repeat(3), reduction="none")
    at_a, at_b, between = losses.chunk(3)
    return F.mse_loss(between, (1 - share) * at_a + share * at_b)


def gradient_alignment(
    model: nn.Module,
    images: Pixels,
    labels: Labels,
    eps: float,
    *,
    norm: Literal["linf", "l2"] = "linf",
    seed: int = 0,
    batch_size: int = 100,
) -> float:
    r"""Mean cosine of the input gradients at images and at random points around them, in [-1, 1].

    The points are uniform in the ball of radius ``eps`` (pixel fractions). It is near 1 where the
    loss is linear there, so that one step finds the worst case, and falls to nearly 0 in
    catastrophic overfitting (Andriushchenko and Flammarion, 2020; arXiv:2007.02617). ``images`` are
    uint8; the model is in eval mode and in float32. Images without a gradient do not count; NaN
    where none has one. Raises ValueError for other images and labels.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images, labels = torch.randint(256, (6, 1, 2, 2)).byte(), torch.arange(6) % 3
    >>> gradient_alignment(model, images, labels, eps=0.01) > 0.9
    True
    """
    check_bytes(images, labels)
    ball, generator = PGD(norm=norm, eps=eps), torch.Generator(images.device).manual_seed(seed)
    cosines: list[Tensor] = []
    with evaluating(model), recording(), autocast(images.device, "float32"):
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            x = to_float(x).contiguous(memory_format=torch.channels_last)
            gradients = [
                input_gradient(model, at, y.long(), [int(y.min()), int(y.max())]).flatten(1)
                for at in (x, x + random_point(x, ball, generator))
            ]
            kept = gradients[0].any(1) & gradients[1].any(1)
            cosines.append((unit(gradients[0][kept]) * unit(gradients[1][kept])).sum(1))
    return torch.cat(cosines).mean().item()
