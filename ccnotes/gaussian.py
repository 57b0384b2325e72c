r"""Three classes, six features: adversarial training with pencil and paper.

An image of class ``i`` is ``x = (E1, E2, E3, C1, C2, C3)``: ``E_i`` and the two ``C_j`` with
``j != i`` are independent N(mu, sigma^2), the other three are 0. The logits are
``f_i = w1 E_i + w2 (C_j + C_k)`` with ``w1, w2 >= 0``, and an attack moves each feature by at most
``eps``. Everything here follows from the worst-case margin over a rival ``j``,
``w1 (E_i - 2 eps) + w2 (C_j - 2 eps)``. The model is that of Wei, Guo and Wang (2025),
arXiv:2506.05032; the proofs are in chapter 2 of the book. NumPy and SciPy only.

Lengths (mu, sigma, eps) share one unit. Arguments are numbers or arrays that broadcast, unless a
function says otherwise, and what is impossible raises a ValueError.
"""

from collections.abc import Callable
from math import comb
from typing import Literal, get_args

import numpy as np
from scipy.integrate import quad, simpson
from scipy.optimize import brentq, minimize
from scipy.special import ndtr, owens_t

Number = float | int
Real = Number | np.number | np.ndarray
Values = float | np.ndarray
Rivals = Literal["all", "one"]
Attack = Literal["hard", "smoothed"]  # on the unsmoothed label, or on the smoothed loss itself

_RULES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "mu": (lambda v: v > 0, "must be positive: it is the mean of a present feature"),
    "sigma": (lambda v: v >= 0, "must be >= 0: it is a standard deviation"),
    "absent": (lambda v: v >= 0, "must be >= 0: it is a standard deviation"),
    "eps": (lambda v: v >= 0, "must be >= 0: it is the radius of the attack"),
    "reg": (lambda v: v > 0, "must be positive: without it the best weights are infinite"),
    "smoothing": (lambda v: (v >= 0) & (v < 1), "must be in [0, 1), a share of the target"),
    "w1": (lambda v: v >= 0, "must be >= 0: below, the worst corner is another one"),
    "w2": (lambda v: v >= 0, "must be >= 0: below, the worst corner is another one"),
}


def _need(name: str, value: Real, holds: bool | np.bool_ | np.ndarray, rule: str) -> None:
    if not np.all(holds):
        value, holds = np.broadcast_arrays(value, holds)
        raise ValueError(f"{name}={value[~holds].flat[0]:g} {rule}.")


def _checked(**values: Real) -> list[np.ndarray]:
    arrays = {name: np.asarray(value, dtype=float) for name, value in values.items()}
    for name, value in arrays.items():
        holds, rule = _RULES[name]
        _need(name, value, np.isfinite(value), "must be a finite number")
        _need(name, value, holds(value), rule)
    return list(arrays.values())


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ValueError(f"{name}={value!r} must be one of {options}.")


def _attack_fits(eps: Real, mu: Real) -> None:
    rule = f"must be < mu/2 = {np.min(mu) / 2:g}: from there on the best classifier is w1 = w2 = 0"
    _need("eps", eps, eps < mu / 2, rule)


def _has_noise(sigma: Real) -> None:
    _need("sigma", sigma, sigma > 0, "must be positive here: without noise accuracy is 0 or 1")


def sample(
    num: int, mu: Number, sigma: Number, seed: int = 0, absent: Number = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(num, 6)`` in the order E1 E2 E3 C1 C2 C3 and labels ``(num,)`` in 0, 1, 2.

    ``absent`` is the standard deviation of the features that a class does not have (the model
    proper has exact zeros there). Equal seeds draw equal images.

    >>> x, y = sample(1, mu=2, sigma=0)
    >>> y.tolist(), x.round().astype(int).tolist()
    ([2], [[0, 0, 2, 2, 2, 0]])
    """
    _checked(mu=mu, sigma=sigma, absent=absent)
    _need("num", num, num >= 1, "must be at least 1")
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=num)
    own = np.eye(3, dtype=bool)[y]
    present = np.concatenate([own, ~own], axis=1)
    z = rng.standard_normal((num, 6))
    return np.where(present, mu + sigma * z, absent * z), y


def weight_matrix(w1: Number, w2: Number) -> np.ndarray:
    """The classifier as a ``(3, 6)`` matrix: its product with a feature vector is the logits.

    >>> weight_matrix(2, 1)[0].tolist()
    [2.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    return np.concatenate([w1 * np.eye(3), w2 * (1 - np.eye(3))], axis=1)


def attacked(x: np.ndarray, y: np.ndarray, eps: Number) -> np.ndarray:
    """The worst images ``(num, 6)`` in the l-inf ball of radius ``eps`` around ``x``.

    For ``w1, w2 >= 0`` one corner is worst against both rivals at once, so it maximises every
    loss that falls as the margins rise: what speaks for the class goes down, the rest goes up.

    >>> attacked(np.array([[2, 0, 0, 0, 2, 2]]), np.array([0]), eps=0.5).tolist()
    [[1.5, 0.5, 0.5, 0.5, 1.5, 1.5]]
    """
    _checked(eps=eps)
    own = np.eye(3)[y]
    return np.asarray(x - eps * np.concatenate([2 * own - 1, 1 - 2 * own], axis=1))


def margins(x: np.ndarray, y: np.ndarray, w1: Number, w2: Number, eps: Number = 0.0) -> np.ndarray:
    """Logit of the class less that of each rival, ``(num, 2)``, at the worst corner.

    >>> margins(np.array([[2, 0, 0, 0, 2, 2]]), np.array([0]), w1=3, w2=1, eps=0.5).tolist()
    [[4.0, 4.0]]
    """
    _checked(w1=w1, w2=w2)
    logits = attacked(x, y, eps) @ weight_matrix(w1, w2).T
    rivals = (y[:, None] + [1, 2]) % 3
    own, others = (np.take_along_axis(logits, index, 1) for index in (y[:, None], rivals))
    return np.asarray(own - others)


def simulated_accuracy(
    w1: Number,
    w2: Number,
    mu: Number,
    sigma: Number,
    eps: Number,
    rivals: Rivals = "all",
    num: int = 100_000,
    seed: int = 0,
    absent: Number = 0.0,
) -> tuple[float, float]:
    """Robust accuracy on ``num`` drawn images, and its standard error: Monte Carlo, in [0, 1].

    >>> p, error = simulated_accuracy(w1=1, w2=0, mu=2, sigma=1, eps=0.5)  # Phi(1) = 0.8413
    >>> abs(p - 0.8413) < 4 * error
    True
    """
    m = margins(*sample(num, mu, sigma, seed, absent), w1, w2, eps)
    correct = (m > 0).all(1) if rivals == "all" else m[:, 0] > 0
    p = float(correct.mean())
    return p, float(np.sqrt(max(p * (1 - p), 1 / num) / num))


def margin_loss(
    w1: Real,
    w2: Real,
    mu: Real,
    sigma: Real,
    eps: Real,
    reg: Real,
    smoothing: Real = 0.0,
    absent: Real = 0.0,
) -> Values:
    r"""The expected loss under attack that :func:`optimal_weights` minimises, any real number.

    .. math::
       :nowrap:

       \begin{align*}
       & \mathbb{E}\big[(1-\beta)\max_j(-m_j) + \beta\,\mathrm{mean}_j(-m_j)\big] + R \\
       &= -(w_1 + w_2)(\mu - 2\epsilon)
          + (1-\beta)\sqrt{(w_1^2\sigma_0^2 + w_2^2\sigma^2)/\pi} + R,
       \end{align*}

    :math:`m_j` the worst-case margins, :math:`R = \lambda (w_1^2 + w_2^2)/2` with ``reg`` as
    :math:`\lambda`, :math:`\beta` the smoothing, :math:`\sigma_0` the noise of absent features.

    >>> round(float(margin_loss(w1=1, w2=1, mu=4, sigma=np.sqrt(np.pi), eps=1, reg=1)), 6)
    -2.0
    """
    w1, w2, mu, sigma, eps, reg, beta, absent = _checked(
        w1=w1, w2=w2, mu=mu, sigma=sigma, eps=eps, reg=reg, smoothing=smoothing, absent=absent
    )
    spread = (1 - beta) * np.hypot(w1 * absent, w2 * sigma) / np.sqrt(np.pi)
    loss: Values = spread - (w1 + w2) * (mu - 2 * eps) + reg / 2 * (w1**2 + w2**2)
    return loss


def optimal_weights(
    mu: Real, sigma: Real, eps: Real, reg: Real, smoothing: Real = 0.0
) -> tuple[Values, Values]:
    r"""The ``(w1, w2)`` that minimise :func:`margin_loss`. Needs ``eps < mu / 2``.

    .. math:: w_1 = (\mu - 2\epsilon)/\lambda, \qquad
              w_2 = \max(0, \mu - (1-\beta)\,\sigma/\sqrt\pi - 2\epsilon)/\lambda

    Wei et al. (2025), theorem 1; with smoothing (form 1 of the book), theorem 3.

    >>> [round(float(w), 6) for w in optimal_weights(mu=3, sigma=np.sqrt(np.pi), eps=0.5, reg=1)]
    [2.0, 1.0]
    """
    mu, sigma, eps, reg, beta = _checked(mu=mu, sigma=sigma, eps=eps, reg=reg, smoothing=smoothing)
    _attack_fits(eps, mu)
    lesser = mu - (1 - beta) * sigma / np.sqrt(np.pi)
    return (mu - 2 * eps) / reg, np.maximum(0.0, lesser - 2 * eps) / reg


def threshold(mu: Real, sigma: Real, smoothing: Real = 0.0) -> Values:
    r"""The radius from which :func:`optimal_weights` drops cross-class features, in (0, mu/2].

    :math:`(\mu - (1-\beta)\,\sigma/\sqrt\pi)/2`: the book's eps0, or eps1 where smoothing > 0.

    >>> threshold(mu=3, sigma=np.sqrt(np.pi), smoothing=np.array([0, 0.5])).round(6).tolist()
    [1.0, 1.25]
    """
    mu, sigma, beta = _checked(mu=mu, sigma=sigma, smoothing=smoothing)
    spread = (1 - beta) * sigma / np.sqrt(np.pi)
    rule = "leaves no threshold: (1 - smoothing) sigma / sqrt(pi) must be < mu. Lower sigma"
    _need("sigma", sigma, spread < mu, rule)
    radius: Values = (mu - spread) / 2
    return radius


def form2_weights(
    mu: Real, sigma: Real, eps: Real, reg: Real, smoothing: Real, attack: Attack = "smoothed"
) -> tuple[Values, Values]:
    r"""The ``(w1, w2)`` that minimise the other smoothed margin loss, form 2.

    .. math:: \max_{j \ne i} f_j - \sum_c p_c f_c, \qquad p_i = 1-\beta,\; p_j = \beta/2,

    at the point that maximises it (``attack="smoothed"``) or that shrinks the margins most
    (``"hard"``). With :math:`s = \sigma/\sqrt\pi` and :math:`a = (2-\beta)\epsilon` or
    :math:`(2-2\beta)\epsilon`: :math:`w_1 = \max(0, (1-\beta)\mu - a)/\lambda` and
    :math:`w_2 = \max(0, (1-\beta)\mu - s - a)/\lambda`.

    >>> weights = form2_weights(mu=3, sigma=np.sqrt(np.pi), eps=0.5, reg=1, smoothing=0.2)
    >>> [round(float(w), 6) for w in weights]
    [1.5, 0.5]
    """
    mu, sigma, eps, reg, beta = _checked(mu=mu, sigma=sigma, eps=eps, reg=reg, smoothing=smoothing)
    _one_of("attack", attack, get_args(Attack))
    pull = (1 - beta) * mu - (2 - beta if attack == "smoothed" else 2 - 2 * beta) * eps
    w1, w2 = np.maximum(0.0, pull), np.maximum(0.0, pull - sigma / np.sqrt(np.pi))
    return w1 / reg, w2 / reg


def form2_threshold(mu: Real, sigma: Real, smoothing: Real, attack: Attack = "smoothed") -> Values:
    """The radius from which :func:`form2_weights` has ``w2 = 0`` (below 0: at every radius).

    >>> f"{form2_threshold(mu=3, sigma=np.sqrt(np.pi), smoothing=0.2, attack='hard'):.3f}"
    '0.875'
    """
    mu, sigma, beta = _checked(mu=mu, sigma=sigma, smoothing=smoothing)
    _one_of("attack", attack, get_args(Attack))
    factor = 2 - beta if attack == "smoothed" else 2 - 2 * beta
    radius: Values = ((1 - beta) * mu - sigma / np.sqrt(np.pi)) / factor
    return radius


def robust_accuracy(
    w1: Real, w2: Real, mu: Real, sigma: Real, eps: Real, rivals: Rivals = "all", absent: Real = 0.0
) -> Values:
    r"""Probability, in [0, 1], that no attack within ``eps`` flips the decision.

    Against one given rival it is :math:`\Phi(h)`, Wei et al. (2025), theorem 2; against all (both)
    it is :math:`\Phi(h) - 2\,T(h, w_2/\sqrt{2 w_1^2 + w_2^2})`, T Owen's function, with
    :math:`h = (w_1+w_2)(\mu-2\epsilon) / (\sigma\sqrt{w_1^2+w_2^2})`. Noise in the ``absent``
    features adds to what the margins share and to what each has alone; the form stays.

    >>> f"{robust_accuracy(w1=1, w2=0, mu=2, sigma=1, eps=0.5):.4f}"  # Phi(1)
    '0.8413'
    """
    w1, w2, mu, sigma, eps, absent = _checked(
        w1=w1, w2=w2, mu=mu, sigma=sigma, eps=eps, absent=absent
    )
    _has_noise(sigma)
    _need("w1 + w2", w1 + w2, w1 + w2 > 0, "must be positive: such a model decides nothing")
    _one_of("rivals", rivals, get_args(Rivals))
    shared = (w1 * sigma) ** 2 + (w2 * absent) ** 2
    alone = (w1 * absent) ** 2 + (w2 * sigma) ** 2
    h = (w1 + w2) * (mu - 2 * eps) / np.sqrt(shared + alone)
    accuracy: Values = ndtr(h)
    if rivals == "all":
        accuracy -= 2 * owens_t(h, np.sqrt(alone / (2 * shared + alone)))
    return accuracy


def best_ratio(mu: Real, sigma: Real, eps: Real) -> Values:
    r"""The one ratio ``w2 / w1``, in [0, 1), of greatest robust accuracy against both rivals.

    It is 0 exactly from :func:`threshold` on. Below, with :math:`d = (\mu-2\epsilon)/\sigma`, it
    solves :math:`d(1-t)\sqrt{(2+t^2)/(1+t^2)} = \phi(u)/\Phi(u)`, where
    :math:`u = d\,t(1+t)/\sqrt{(2+t^2)(1+t^2)}` (bisected until the floats run out).

    >>> best_ratio(mu=3, sigma=np.sqrt(np.pi), eps=np.array([0, 0.5, 1.1])).round(3).tolist()
    [0.909, 0.721, 0.0]
    """
    mu, sigma, eps = _checked(mu=mu, sigma=sigma, eps=eps)
    _has_noise(sigma)
    _attack_fits(eps, mu)
    d = (mu - 2 * eps) / sigma
    low, high = np.zeros(d.shape), np.ones(d.shape)
    for _ in range(54):
        t = (low + high) / 2
        u = d * t * (1 + t) / np.sqrt((2 + t**2) * (1 + t**2))
        mills = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi) / ndtr(u)
        rising = d * (1 - t) * np.sqrt((2 + t**2) / (1 + t**2)) > mills
        low, high = np.where(rising, t, low), np.where(rising, high, t)
    return np.where(d > 1 / np.sqrt(np.pi), (low + high) / 2, 0.0)[()]


def relu_robust_accuracy(ratio: Real, mu: Real, sigma: Real, eps: Real) -> Values:
    r"""Robust accuracy, in [0, 1], where each cross-class feature passes a ReLU first.

    The logits are :math:`f_i = w_1 E_i + w_2 (\mathrm{relu}(C_j - \epsilon) +
    \mathrm{relu}(C_k - \epsilon))`, and ``ratio`` is :math:`t = w_2 / w_1`, infinity included.
    With :math:`d = (\mu-2\epsilon)/\sigma`, by quadrature over the lesser feature,

    .. math:: \Phi(d)\,(1 - \Phi(d)^2)
              + 2 \int_0^\infty \phi(v - d)\, \Phi(d - v)\, \Phi(d + tv)\, dv .

    It rises with ``ratio`` at every radius, to :math:`\Phi(d) + \Phi(-d)\,\Phi(d)^2`.

    >>> relu_robust_accuracy(np.array([0.0, np.inf]), mu=1, sigma=0.5, eps=0.4).round(3).tolist()
    [0.655, 0.803]
    """
    (mu, sigma, eps), ratio = _checked(mu=mu, sigma=sigma, eps=eps), np.asarray(ratio, dtype=float)
    _has_noise(sigma)
    _need("ratio", ratio, ratio >= 0, "must be >= 0: below, the worst corner is another one")
    d, t = np.broadcast_arrays((mu - 2 * eps) / sigma, ratio)
    v = _lesser(d)
    d, t = d[..., None], t[..., None]
    helped = np.where(np.isinf(t), 1.0, ndtr(d + np.where(np.isinf(t), 0.0, t) * v))
    density = 2 * np.exp(-((v - d) ** 2) / 2) / np.sqrt(2 * np.pi) * ndtr(d - v)
    unhelped = ndtr(d[..., 0]) * (1 - ndtr(d[..., 0]) ** 2)
    accuracy: Values = (unhelped + simpson(density * helped, x=v, axis=-1))[()]
    return accuracy


def relu_weight(mu: Real, sigma: Real, eps: Real, reg: Real) -> Values:
    r"""The ``w2`` that minimises the margin loss with the ReLU of :func:`relu_robust_accuracy`.

    .. math:: w_2 = \frac{\sigma}{\lambda} \int_0^\infty \Phi(d - v)^2\, dv > 0,

    the mean of the lesser of the two features that the attack leaves, over :math:`\lambda`. There
    is no radius at which it is 0; ``w1`` is that of :func:`optimal_weights`.

    >>> bool(relu_weight(mu=1, sigma=0.5, eps=0.45, reg=1) > 0)
    True
    """
    mu, sigma, eps, reg = _checked(mu=mu, sigma=sigma, eps=eps, reg=reg)
    _has_noise(sigma)
    d = np.asarray((mu - 2 * eps) / sigma)
    v = _lesser(d)
    weight: Values = (sigma / reg * simpson(ndtr(d[..., None] - v) ** 2, x=v, axis=-1))[()]
    return weight


def _lesser(d: np.ndarray) -> np.ndarray:
    """What the attack may leave of the lesser feature, in units of its noise, for a quadrature."""
    return np.asarray(np.linspace(0, 1, 4001) * (np.maximum(d, 0) + 9)[..., None])


# Half sum and half difference of the two margins are independent normals, and the loss is even in
# the difference: a grid over one half plane. The trapezoid rule is exact to rounding for such
# integrands as long as sigma * w stays below about 5 (Trefethen and Weideman, 2014).
_Z = np.linspace(-8.5, 8.5, 171)
_ZS, _ZD = np.meshgrid(_Z, _Z[85:], indexing="ij")
_MASS = np.exp(-(_ZS**2 + _ZD**2) / 2) * np.where(_ZD > 0, 2, 1)
_MASS /= _MASS.sum()


def _cross_entropy(
    w: tuple[Number, Number] | np.ndarray,
    mu: Number,
    sigma: Number,
    eps: Number,
    reg: Number,
    beta: Number,
    attack: Attack,
) -> tuple[float, np.ndarray]:
    """The loss and its slopes in the two weights; see :func:`cross_entropy`."""
    (w1, w2), spread = w, max(np.hypot(w[0], w[1] / np.sqrt(2)), 1e-300)
    best = None
    # Worst corners, as shifts of (half sum, half difference) in units of eps (w1 + w2).
    one_corner = attack == "hard" or beta == 0
    for a, b in [(-2, 0)] if one_corner else [(-2, 0), (2, 0), (-1, 1), (1, 1)]:
        total = (w1 + w2) * (mu + a * eps) + sigma * spread * _ZS
        apart = sigma * w2 / np.sqrt(2) * _ZD + b * eps * (w1 + w2)
        rival = np.logaddexp(-total - apart, -total + apart)
        plain = np.logaddexp(0, rival)
        loss, share = plain + beta * total, np.exp(rival - plain)
        tilt = share * np.tanh(apart)
        down, out = beta - share, tilt * b * eps
        d1 = down * (mu + a * eps + sigma * _ZS * w1 / spread) + out
        d2 = down * (mu + a * eps + sigma * _ZS * w2 / (2 * spread)) + out
        d2 += tilt * sigma / np.sqrt(2) * _ZD
        new = np.stack([loss, d1, d2])
        best = new if best is None else np.where(new[0] > best[0], new, best)
    value, *slope = (best * _MASS).sum((1, 2))
    return value + reg / 2 * (w1**2 + w2**2), np.array(slope) + reg * np.array([w1, w2])


def cross_entropy(
    w1: Number,
    w2: Number,
    mu: Number,
    sigma: Number,
    eps: Number,
    reg: Number,
    smoothing: Number = 0.0,
    attack: Attack = "hard",
) -> float:
    r"""Expected softmax cross-entropy under attack plus ``reg/2 (w1^2 + w2^2)``, by quadrature.

    The target has :math:`1-\beta` on the class, :math:`\beta/2` on each rival. ``attack="hard"``
    maximises the cross-entropy of the unsmoothed label, ``"smoothed"`` the loss itself. Scalars
    only; in nats. Good to rounding for "hard"; to 1e-4 for "smoothed", which has kinks.

    >>> f"{cross_entropy(w1=0, w2=0, mu=1, sigma=0.5, eps=0.1, reg=1):.4f}"  # log 3
    '1.0986'
    """
    _checked(w1=w1, w2=w2, mu=mu, sigma=sigma, eps=eps, reg=reg, smoothing=smoothing)
    _one_of("attack", attack, get_args(Attack))
    return float(_cross_entropy((w1, w2), mu, sigma, eps, reg, smoothing, attack)[0])


def minimise_cross_entropy(
    mu: Number,
    sigma: Number,
    eps: Number,
    reg: Number,
    smoothing: Number = 0.0,
    attack: Attack = "hard",
) -> tuple[float, float]:
    """The ``(w1, w2)``, both >= 0, that minimise :func:`cross_entropy`: no closed form.

    Deterministic: quadrature, then L-BFGS on a strictly convex function. Needs ``eps < mu / 2``,
    and ``smoothing < 2/3`` (from there on a rival is as likely as the class).

    >>> [round(w, 1) for w in minimise_cross_entropy(mu=1, sigma=0.5, eps=0.1, reg=0.1)]
    [1.4, 1.3]
    """
    _checked(mu=mu, sigma=sigma, eps=eps, reg=reg, smoothing=smoothing)
    _attack_fits(eps, mu)
    _one_of("attack", attack, get_args(Attack))
    _need("smoothing", smoothing, smoothing < 2 / 3, "must be < 2/3: else a rival is as likely")
    result = minimize(
        _cross_entropy,
        x0=[0.1, 0.1],
        args=(mu, sigma, eps, reg, smoothing, attack),
        jac=True,
        bounds=[(0, None)] * 2,
        options={"ftol": 1e-13, "gtol": 1e-9},
    )
    return float(result.x[0]), float(result.x[1])


def _groups(classes: int, group: int, disjoint: bool) -> tuple[int, float]:
    """Shared features that tell a class from a given rival, and their spread's factor."""
    if not 2 <= group < classes:
        raise ValueError(f"group={group} must be at least 2 and less than classes={classes}.")
    if disjoint and classes % group:
        raise ValueError(f"group={group} must divide classes={classes} into disjoint groups.")
    return comb(classes - 2, group - 1), (group - 1) / (classes - 2)


def group_threshold(
    mu: Number,
    sigma: Number,
    classes: int,
    group: int,
    smoothing: Number = 0.0,
    disjoint: bool = False,
) -> float:
    r"""The radius from which the margin loss drops the features that ``group`` classes share.

    Every set of ``group`` of the ``classes`` shares a feature (``classes=3, group=2`` is the model
    above), or, if ``disjoint``, the classes fall into groups that share one feature each. With
    :math:`n = \binom{K-2}{m-1}` and :math:`e` the mean of the greatest of K - 1 standard normals,
    :math:`\big(\mu - (1-\beta)\,\sigma e \sqrt{(m-1)/((K-2) n)}\big)/2`. Proof: n shared features
    tell a class from a rival. The sums of two rivals have :math:`\binom{K-3}{m-1}` features in
    common, so the least of the K - 1 sums has mean :math:`n\mu - \sigma e \sqrt{n(m-1)/(K-2)}`,
    and the attack takes :math:`2n\epsilon`. Disjoint groups have no closed form (a root is found)
    and, unsmoothed, no threshold: -inf, dropped at every radius.

    >>> f"{group_threshold(mu=3, sigma=np.sqrt(np.pi), classes=3, group=2):.3f}"  # as threshold
    '1.000'
    """
    _checked(mu=mu, sigma=sigma, smoothing=smoothing)
    n, factor = _groups(classes, group, disjoint)
    if not disjoint:
        greatest = quad(lambda z: 1 - ndtr(z) ** (classes - 1) - ndtr(-z) ** (classes - 1), 0, 12)
        return float(mu - (1 - smoothing) * sigma * greatest[0] * np.sqrt(factor / n)) / 2
    if smoothing == 0:
        return -np.inf
    odds = smoothing / (1 - smoothing) * (classes - group) / (classes - 1)
    d = brentq(lambda d: odds * d + d * ndtr(-d) - np.exp(-d * d / 2) / np.sqrt(2 * np.pi), 0, 9)
    return float(mu - d * sigma) / 2


def group_robust_accuracy(
    w1: Real,
    w2: Real,
    mu: Real,
    sigma: Real,
    eps: Real,
    classes: int,
    group: int,
    disjoint: bool = False,
) -> Values:
    """Robust accuracy, in [0, 1], against all rivals in the models of :func:`group_threshold`.

    By quadrature over the least helpful shared feature; closed form for disjoint groups, where
    ``w2 = 0`` is best at every radius. Needs ``w1 > 0``, and ``eps < mu / 2`` if ``disjoint``.

    >>> f"{group_robust_accuracy(w1=1, w2=0, mu=2, sigma=1, eps=0.5, classes=10, group=3):.4f}"
    '0.8413'
    """
    w1, w2, mu, sigma, eps = _checked(w1=w1, w2=w2, mu=mu, sigma=sigma, eps=eps)
    _has_noise(sigma)
    _need("w1", w1, w1 > 0, "must be positive here")
    n, factor = _groups(classes, group, disjoint)
    d = (mu - 2 * eps) / sigma
    if disjoint:
        _attack_fits(eps, mu)
        k = (w1 + w2) * d / np.hypot(w1, w2)
        tail = owens_t(k, (w2 - w1) / (w1 + w2))
        alone: Values = (ndtr(d) + ndtr(k) - ndtr(d) * ndtr(-d)) / 2 - tail
        return alone
    z = np.linspace(-9, 9, 1001)
    density = np.exp(-(z**2) / 2) * ndtr(z) ** (classes - 2)
    common = np.sqrt(w1**2 + w2**2 * n * (1 - factor))
    margin = ((w1 + n * w2) * d)[..., None] - (w2 * np.sqrt(n * factor))[..., None] * z
    shared: Values = ndtr(margin / common[..., None]) @ (density / density.sum())
    return shared
