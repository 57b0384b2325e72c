import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from scipy.integrate import quad
from scipy.special import ndtr

from ccnotes import gaussian as g

few = settings(derandomize=True, deadline=None, max_examples=40)
lengths = st.floats(0.2, 3)
weights = st.floats(0.05, 4)
shares = st.floats(0, 0.95)
absences = st.sampled_from([0.0, 0.1, 0.7])
fractions = st.floats(0, 0.99)


def phi(z):
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def lesser_of_two(mu, sigma):
    """E[min(C_j, C_k)] by quadrature over its density."""
    return quad(lambda z: (mu + sigma * z) * 2 * phi(z) * ndtr(-z), -12, 12, epsabs=1e-12)[0]


# --- the attack and the margins


@given(weights, weights, lengths, lengths, fractions, st.integers(0, 2))
@few
def test_no_corner_of_the_ball_beats_the_worst_one(w1, w2, mu, sigma, share, label):
    eps = share * mu / 2
    x, y = g.sample(300, mu, sigma, seed=3)
    x = x[y == label][:5]
    y = np.full(len(x), label)
    corners = eps * np.array(list(itertools.product([-1, 1], repeat=6)))
    logits = (x[:, None] + corners) @ g.weight_matrix(w1, w2).T
    rivals = [(label + 1) % 3, (label + 2) % 3]
    brute = (logits[..., [label]] - logits[..., rivals]).min(1)
    np.testing.assert_allclose(g.margins(x, y, w1, w2, eps), brute, atol=1e-12)
    assert np.abs(g.attacked(x, y, eps) - x).max() <= eps + 1e-12


def test_sample_puts_the_features_where_they_belong():
    x, y = g.sample(30_000, 2.0, 0.5, seed=1)
    for c in range(3):
        present = np.concatenate([np.arange(3) == c, np.arange(3) != c])
        assert np.all(x[y == c][:, ~present] == 0)
        np.testing.assert_allclose(x[y == c][:, present].mean(0), 2.0, atol=5 * 0.5 / 95)
        np.testing.assert_allclose(x[y == c][:, present].std(0), 0.5, atol=0.02)
    same, other = g.sample(9, 1, 1, seed=5), g.sample(9, 1, 1, seed=6)
    np.testing.assert_array_equal(g.sample(9, 1, 1, seed=5)[0], same[0])
    assert not np.array_equal(same[0], other[0])
    assert g.sample(500, 1, 0.5, absent=0.1)[0].all()


# --- the margin loss


@given(weights, weights, lengths, lengths, fractions, weights, shares)
@few
def test_margin_loss_equals_quadrature(w1, w2, mu, sigma, share, reg, beta):
    eps = share * mu / 2
    mean = w1 * (mu - 2 * eps) + w2 * (mu - 2 * eps)
    least = w1 * (mu - 2 * eps) + w2 * (lesser_of_two(mu, sigma) - 2 * eps)
    expected = -(1 - beta) * least - beta * mean + reg / 2 * (w1**2 + w2**2)
    assert g.margin_loss(w1, w2, mu, sigma, eps, reg, beta) == pytest.approx(expected, abs=1e-8)


@given(weights, weights, lengths, lengths, fractions, weights, shares, absences)
@few
def test_margin_loss_agrees_with_monte_carlo(w1, w2, mu, sigma, share, reg, beta, absent):
    eps = share * mu / 2
    m = g.margins(*g.sample(20_000, mu, sigma, 11, absent), w1, w2, eps)
    losses = -(1 - beta) * m.min(1) - beta * m.mean(1) + reg / 2 * (w1**2 + w2**2)
    error = losses.mean() - g.margin_loss(w1, w2, mu, sigma, eps, reg, beta, absent)
    assert abs(error) < 5 * losses.std() / np.sqrt(len(losses))


@given(lengths, lengths, fractions, weights, shares)
@few
def test_optimal_weights_minimise_the_margin_loss(mu, sigma, share, reg, beta):
    eps = share * mu / 2
    w1, w2 = g.optimal_weights(mu, sigma, eps, reg, beta)
    best = g.margin_loss(w1, w2, mu, sigma, eps, reg, beta)
    for a, b in itertools.product([-0.1, -1e-3, 0, 1e-3, 0.1], repeat=2):
        near = g.margin_loss(max(0, w1 + a), max(0, w2 + b), mu, sigma, eps, reg, beta)
        assert near >= best - 1e-12


@given(lengths, lengths, shares, st.floats(1e-3, 0.5))
@few
def test_theorems_1_and_3_the_thresholds(mu, sigma, beta, off):
    assume(sigma / np.sqrt(np.pi) < 0.9 * mu)
    eps0, eps1 = g.threshold(mu, sigma), g.threshold(mu, sigma, beta)
    assert eps0 <= eps1 <= mu / 2
    assert (eps0 < eps1) == (beta > 0) or beta < 1e-12
    for eps in (eps1 - off * eps1, min(eps1 + off * eps1, 0.999 * mu / 2)):
        w1, w2 = g.optimal_weights(mu, sigma, eps, 1.0, beta)
        assert w1 > 0
        assert (w2 > 0) == (eps < eps1)
        assert w2 >= g.optimal_weights(mu, sigma, eps, 1.0)[1]


@given(lengths, lengths, fractions, st.floats(0.02, 0.6), st.sampled_from(["hard", "smoothed"]))
@few
def test_form_2_minimises_its_loss_and_lowers_the_threshold(mu, sigma, share, beta, attack):
    """The loss over all 64 corners, averaged over draws that have exactly the model's moments."""
    eps, reg = share * mu / 2, 0.7
    corners = eps * np.array(list(itertools.product([-1, 1], repeat=6)))
    half = sigma / np.sqrt(np.pi)  # (C_j, C_k) = mu -+ half has the right mean of its minimum
    x = np.array([[mu, 0, 0, 0, mu + half, mu - half], [mu, 0, 0, 0, mu - half, mu + half]])

    def loss(w1, w2):
        def form2(x):
            f = x @ g.weight_matrix(w1, w2).T
            return f[..., 1:].max(-1) - (1 - beta) * f[..., 0] - beta / 2 * f[..., 1:].sum(-1)

        if attack == "smoothed":
            worst = form2(x[:, None] + corners).max(1)
        else:
            worst = form2(g.attacked(x, np.zeros(2, int), eps))
        return worst.mean() + reg / 2 * (w1**2 + w2**2)

    w1, w2 = g.form2_weights(mu, sigma, eps, reg, beta, attack)
    for a, b in itertools.product([-0.01, 0, 0.01], repeat=2):
        assert loss(max(0, w1 + a), max(0, w2 + b)) >= loss(w1, w2) - 1e-12
    limit = g.form2_threshold(mu, sigma, beta, attack)
    if half < mu:
        assert limit < g.threshold(mu, sigma)
    if limit > 0:
        args = (reg, beta, attack)
        assert g.form2_weights(mu, sigma, 0.999 * limit, *args)[1] > 0
        assert g.form2_weights(mu, sigma, 1.001 * limit, *args)[1] == 0


# --- a ReLU on each cross-class feature


def relu_margins(x, y, w1, w2, eps):
    """The least margin over each rival that any of the 64 corners reaches."""
    corners = eps * np.array(list(itertools.product([-1, 1], repeat=6)))
    moved = x[:, None] + corners
    shared = np.maximum(moved[..., 3:] - eps, 0)
    logits = w1 * moved[..., :3] + w2 * (shared.sum(-1, keepdims=True) - shared)
    own = np.take_along_axis(logits, y[:, None, None], 2)
    rivals = np.take_along_axis(logits, (y[:, None, None] + [[[1, 2]]]) % 3, 2)
    return (own - rivals).min(1)


@pytest.mark.parametrize("eps", [0.1, 0.359, 0.45])
@pytest.mark.parametrize("ratio", [0.3, 2.0])
def test_accuracy_with_a_relu_agrees_with_all_corners_of_drawn_images(ratio, eps):
    x, y = g.sample(40_000, 1, 0.5, seed=4)
    drawn = (relu_margins(x, y, 1.0, ratio, eps) > 0).all(1).mean()
    found = g.relu_robust_accuracy(ratio, 1, 0.5, eps)
    assert abs(drawn - found) < 4 * np.sqrt(0.25 / 40_000)


def test_with_a_relu_more_of_the_shared_features_is_always_better():
    """From Phi(d) to Phi(d) + Phi(-d) Phi(d)^2; three radii by hand, to three digits."""
    ratios = np.array([0, 0.05, 0.5, 1, 5, 50, np.inf])
    for eps, least, most in ((0.359, 0.713, 0.859), (0.4, 0.655, 0.803), (0.45, 0.579, 0.721)):
        found = g.relu_robust_accuracy(ratios, 1, 0.5, eps)
        assert (np.diff(found) > 0).all()
        assert found[[0, -1]] == pytest.approx([least, most], abs=7e-4)
        assert found[-2] == pytest.approx(most, abs=0.01)
    with pytest.raises(ValueError, match="ratio=-1 must be >= 0"):
        g.relu_robust_accuracy(-1, 1, 0.5, 0.1)


def test_with_a_relu_the_margin_loss_gives_shared_features_weight_at_every_radius():
    """The mean of the lesser feature, from drawn images, at the worst of all corners."""
    for eps in (0.1, 0.4, 0.49):
        x, y = g.sample(40_000, 1, 0.5, seed=5)
        lesser = relu_margins(x, y, 0.0, 1.0, eps).min(1)
        error = lesser.std() / np.sqrt(len(lesser))
        found = g.relu_weight(1, 0.5, eps, 2.0)
        assert abs(found - lesser.mean() / 2) < 4 * error
        assert found > 0


# --- robust accuracy


def accuracy_by_quadrature(w1, w2, mu, sigma, eps, rivals):
    """Condition on E: given it, the two rivals are independent."""
    d = (mu - 2 * eps) / sigma

    def integrand(z):
        return phi(z) * ndtr((w1 * (d + z) + w2 * d) / w2) ** (2 if rivals == "all" else 1)

    step = -d * (w1 + w2) / w1
    cuts = sorted({-12.0, 12.0, *np.clip([step - 5 * w2 / w1, step, step + 5 * w2 / w1], -12, 12)})
    parts = itertools.pairwise(cuts)
    return sum(quad(integrand, a, b, epsabs=1e-13, limit=200)[0] for a, b in parts)


@given(weights, weights, lengths, lengths, st.floats(0, 1.4), st.sampled_from(["all", "one"]))
@few
def test_robust_accuracy_equals_quadrature(w1, w2, mu, sigma, share, rivals):
    eps = share * mu / 2
    closed = g.robust_accuracy(w1, w2, mu, sigma, eps, rivals)
    assert closed == pytest.approx(accuracy_by_quadrature(w1, w2, mu, sigma, eps, rivals), abs=1e-8)


both_or_one = st.sampled_from(["all", "one"])


@given(weights, weights, lengths, lengths, st.floats(0, 1.4), both_or_one, absences)
@few
def test_robust_accuracy_agrees_with_monte_carlo(w1, w2, mu, sigma, share, rivals, absent):
    eps = share * mu / 2
    p, error = g.simulated_accuracy(w1, w2, mu, sigma, eps, rivals, 20_000, 2, absent)
    assert error < 0.5 / np.sqrt(20_000) + 1e-12
    assert abs(p - g.robust_accuracy(w1, w2, mu, sigma, eps, rivals, absent)) < 5 * error


@given(weights, lengths, lengths, fractions)
@few
def test_accuracy_by_hand_on_the_axes(w, mu, sigma, share):
    d = (mu - share * mu) / sigma
    for rivals in ("all", "one"):
        assert g.robust_accuracy(w, 0, mu, sigma, share * mu / 2, rivals) == pytest.approx(ndtr(d))
    assert g.robust_accuracy(0, w, mu, sigma, share * mu / 2) == pytest.approx(ndtr(d) ** 2)


@given(weights, lengths, lengths, fractions)
@few
def test_theorem_2_one_rival(w1, mu, sigma, share):
    ratio = np.linspace(0, 1, 30)
    accuracy = g.robust_accuracy(w1, ratio * w1, mu, sigma, share * mu / 2, "one")
    assert np.all(np.diff(accuracy) >= 0)


@given(lengths, lengths, fractions)
@few
def test_both_rivals_slope_is_positive_exactly_below_eps0(mu, sigma, share):
    assume(sigma / np.sqrt(np.pi) < 0.95 * mu)
    eps, eps0 = share * mu / 2, g.threshold(mu, sigma)
    assume(abs(eps - eps0) > 1e-3 * sigma)
    h = 1e-4
    slope = (g.robust_accuracy(1, h, mu, sigma, eps) - g.robust_accuracy(1, 0, mu, sigma, eps)) / h
    d = (mu - 2 * eps) / sigma
    assert slope == pytest.approx(phi(d) * (d - 1 / np.sqrt(np.pi)), abs=2e-4)
    if phi(d) > 1e-2:
        assert (slope > 0) == (eps < eps0)


@given(lengths, lengths, fractions)
@few
def test_best_ratio_is_the_peak_and_lies_above_the_margin_loss(mu, sigma, share):
    eps = share * mu / 2
    best = g.best_ratio(mu, sigma, eps)
    grid = np.linspace(0, 2, 401)
    peak = g.robust_accuracy(1, best, mu, sigma, eps)
    assert np.all(g.robust_accuracy(1, grid, mu, sigma, eps) <= peak + 1e-12)
    w1, w2 = g.optimal_weights(mu, sigma, eps, 1.0)
    assert 0 <= w2 / w1 <= best + 1e-12
    assert best <= 1
    if (mu - 2 * eps) / sigma < 1 / np.sqrt(np.pi):
        assert best == 0


# --- the exact cross-entropy


def exact_loss(w1, w2, mu, sigma, eps, reg, beta):
    """The same expectation, integrated over the half sum and difference with SciPy's rule."""
    a, b = sigma * np.hypot(w1, w2 / np.sqrt(2)), sigma * w2 / np.sqrt(2)
    z, mass = np.polynomial.hermite_e.hermegauss(120)
    mass = mass / mass.sum()
    total, apart = (w1 + w2) * (mu - 2 * eps) + a * z[:, None], b * z
    loss = np.logaddexp(0, np.logaddexp(-total - apart, -total + apart)) + beta * total
    return mass @ loss @ mass + reg / 2 * (w1**2 + w2**2)


@given(*[st.floats(0.05, 1.5)] * 2, st.floats(0.2, 1.5), st.floats(0.2, 0.8), fractions, shares)
@few
def test_cross_entropy_equals_another_quadrature(w1, w2, mu, sigma, share, beta):
    args = (w1, w2, mu, sigma, share * mu / 2, 0.3, beta)
    assert g.cross_entropy(*args) == pytest.approx(exact_loss(*args), abs=1e-8)


@given(weights, weights, lengths, lengths, fractions, st.floats(0, 0.6))
@few
def test_cross_entropy_agrees_with_monte_carlo_over_all_corners(w1, w2, mu, sigma, share, beta):
    eps = share * mu / 2
    x, y = g.sample(1_500, mu, sigma, seed=8)
    corners = eps * np.array(list(itertools.product([-1, 1], repeat=6)))
    f = (x[:, None] + corners) @ g.weight_matrix(w1, w2).T
    logp = f - np.logaddexp.reduce(f, axis=-1, keepdims=True)
    target = np.full((len(y), 3), beta / 2)
    target[np.arange(len(y)), y] = 1 - beta
    losses = -(target[:, None] * logp).sum(-1)
    hard = np.take_along_axis(logp, y[:, None, None], -1)[..., 0].argmin(1)
    for attack, drawn in [
        ("hard", losses[np.arange(len(y)), hard]),
        ("smoothed", losses.max(1)),
    ]:
        value = g.cross_entropy(w1, w2, mu, sigma, eps, 1e-9, beta, attack)
        assert abs(drawn.mean() - value) < 5 * drawn.std() / np.sqrt(len(y)) + 1e-4


def test_the_attack_on_the_smoothed_loss_equals_a_grid_over_all_corners():
    """Where a rival is far behind, this attack helps it while it helps the other one, too."""
    w1, w2, mu, sigma, eps, beta = 0.3, 1.8, 1.0, 0.8, 0.3, 0.5
    z = np.linspace(-5, 5, 31)
    e, c, d = (v.ravel() for v in np.meshgrid(z, z, z))
    mass = np.exp(-(e**2 + c**2 + d**2) / 2)
    zero = np.zeros_like(e)
    x = np.stack([mu + sigma * e, zero, zero, zero, mu + sigma * c, mu + sigma * d], axis=1)
    worst = np.full(len(x), -np.inf)
    for corner in itertools.product([-eps, eps], repeat=6):
        f = (x + corner) @ g.weight_matrix(w1, w2).T
        loss = np.logaddexp.reduce(f, axis=1) - f @ [1 - beta, beta / 2, beta / 2]
        worst = np.maximum(worst, loss)
    value = g.cross_entropy(w1, w2, mu, sigma, eps, 1e-9, beta, "smoothed")
    assert value == pytest.approx(mass @ worst / mass.sum(), abs=5e-4)


@given(lengths, st.floats(0.2, 1), st.floats(0, 0.97), st.floats(0.01, 1), st.floats(0, 0.5))
@few
def test_cross_entropy_minimiser_is_stationary_and_never_drops_a_feature(mu, sigma, share, reg, b):
    eps = share * mu / 2
    w1, w2 = g.minimise_cross_entropy(mu, sigma, eps, reg, b)
    assert w1 > 0
    assert w2 > 0  # at every radius below mu / 2: theorem 1's threshold is the margin loss's own
    h = 1e-4
    for a, c in [(h, 0), (0, h)]:
        up = g.cross_entropy(w1 + a, w2 + c, mu, sigma, eps, reg, b)
        down = g.cross_entropy(max(0, w1 - a), max(0, w2 - c), mu, sigma, eps, reg, b)
        assert abs(up - down) / (2 * h) < 1e-6 or min(w1, w2) < h
    assert g.minimise_cross_entropy(mu, sigma, eps, reg, b) == (w1, w2)


@pytest.mark.parametrize("reg", [1.0, 0.1, 0.01])
def test_cross_entropy_ratio_near_half_mu(reg):
    mu, sigma = 1.0, 0.5
    w1, w2 = g.minimise_cross_entropy(mu, sigma, 0.4999 * mu, reg)
    assert w2 / w1 == pytest.approx((reg + 2 * sigma**2 / 9) / (reg + 4 * sigma**2 / 9), abs=1e-3)


def test_the_attack_on_the_smoothed_loss_is_at_least_as_strong():
    for b in (0.0, 0.1, 0.4):
        args = (1.5, 1.2, 1.0, 0.5, 0.3, 0.1, b)
        hard, smoothed = (g.cross_entropy(*args, a) for a in ("hard", "smoothed"))
        assert smoothed >= hard
        assert (smoothed > hard + 1e-6) == (b > 0)
        w_hard = g.minimise_cross_entropy(*args[2:])
        w_smoothed = g.minimise_cross_entropy(*args[2:], "smoothed")
        value = g.cross_entropy(*w_smoothed, *args[2:], "smoothed")
        assert value <= g.cross_entropy(*w_hard, *args[2:], "smoothed") + 1e-12
        for a, c in itertools.product([-0.02, 0, 0.02], repeat=2):
            near = g.cross_entropy(w_smoothed[0] + a, w_smoothed[1] + c, *args[2:], "smoothed")
            assert near >= value - 1e-9


# --- K classes in groups


def grouped(classes, group, disjoint):
    """Membership matrix: features by classes."""
    if disjoint:
        sets = np.arange(classes).reshape(-1, group)
    else:
        sets = np.array(list(itertools.combinations(range(classes), group)))
    return (sets[:, :, None] == np.arange(classes)).any(1).astype(float)


GROUPS = [(3, 2, False), (4, 2, False), (5, 3, False), (6, 5, False), (6, 2, True), (6, 3, True)]


@pytest.mark.parametrize(("classes", "group", "disjoint"), GROUPS)
def test_grouped_accuracy_agrees_with_monte_carlo(classes, group, disjoint):
    mu, sigma, eps, w1, w2, num = 1.0, 0.8, 0.15, 1.0, 0.6, 40_000
    member = grouped(classes, group, disjoint)
    rng = np.random.default_rng(4)
    shared = (mu + sigma * rng.standard_normal((num, len(member)))) * member[:, 0]
    own = mu + sigma * rng.standard_normal(num)
    shared -= eps * (2 * member[:, 0] - 1)  # class 0's features down, the others' up
    logits = w2 * shared @ member + w1 * eps
    logits[:, 0] += w1 * (own - 2 * eps)
    p = (logits[:, 0] > logits[:, 1:].max(1)).mean()
    closed = g.group_robust_accuracy(w1, w2, mu, sigma, eps, classes, group, disjoint)
    assert abs(p - closed) < 5 * np.sqrt(p * (1 - p) / num)


@given(weights, weights, lengths, lengths, fractions)
@few
def test_groups_of_two_among_three_are_the_model(w1, w2, mu, sigma, share):
    args = (mu, sigma, share * mu / 2)
    grouped_accuracy = g.group_robust_accuracy(w1, w2, *args, 3, 2)
    assert grouped_accuracy == pytest.approx(g.robust_accuracy(w1, w2, *args), abs=1e-8)
    if sigma / np.sqrt(np.pi) < mu:
        assert g.group_threshold(mu, sigma, 3, 2, 0.2) == pytest.approx(g.threshold(mu, sigma, 0.2))


@pytest.mark.parametrize(("classes", "group"), [(4, 2), (5, 3), (6, 5), (10, 2)])
def test_group_threshold_is_where_the_accuracy_stops_rising(classes, group):
    eps0 = g.group_threshold(1.0, 0.4, classes, group)
    for eps, sign in [(eps0 - 0.01, 1), (eps0 + 0.01, -1)]:
        a = g.group_robust_accuracy(1.0, np.array([0.0, 1e-4]), 1.0, 0.4, eps, classes, group)
        assert np.sign(a[1] - a[0]) == sign


def test_disjoint_groups_never_gain_and_need_smoothing_to_be_kept():
    for eps in (0.0, 0.2, 0.45):
        a = g.group_robust_accuracy(1, np.linspace(0, 3, 50), 1, 0.5, eps, 6, 2, True)
        assert np.all(np.diff(a) < 0)
    assert g.group_threshold(1.0, 0.5, 6, 2, 0.0, True) == -np.inf
    eps1 = g.group_threshold(1.0, 0.5, 6, 2, 0.1, True)
    rng = np.random.default_rng(0)
    surplus = 1 + 0.5 * rng.standard_normal(400_000) - 2 * eps1
    slope = 0.9 * np.minimum(0, surplus) + 0.1 * 4 / 5 * surplus  # of the loss, at w2 = 0
    assert abs(slope.mean()) < 5 * slope.std() / np.sqrt(len(slope))


# --- what callers get wrong


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: g.threshold(1.0, -0.5), r"sigma=-0\.5 must be >= 0"),
        (lambda: g.threshold(1.0, 3.0), r"sigma=3 leaves no threshold"),
        (lambda: g.threshold(0.0, 0.5), r"mu=0 must be positive"),
        (lambda: g.threshold(1.0, float("nan")), r"sigma=nan must be a finite number"),
        (lambda: g.optimal_weights(1.0, 0.5, -0.1, 1.0), r"eps=-0\.1 must be >= 0"),
        (lambda: g.optimal_weights(1.0, 0.5, 0.5, 1.0), r"eps=0\.5 must be < mu/2 = 0\.5"),
        (lambda: g.optimal_weights(1.0, 0.5, 0.1, 0.0), r"reg=0 must be positive"),
        (lambda: g.optimal_weights(1.0, 0.5, 0.1, 1.0, 1.0), r"smoothing=1 must be in \[0, 1\)"),
        (lambda: g.optimal_weights(1.0, 0.5, np.array([0.1, 0.7]), 1.0), r"eps=0\.7 must be <"),
        (lambda: g.form2_weights(1.0, 0.5, 0.1, 1.0, -0.1), r"smoothing=-0\.1 must be in"),
        (lambda: g.robust_accuracy(1.0, 1.0, 1.0, 0.0, 0.1), r"sigma=0 must be positive here"),
        (lambda: g.robust_accuracy(0, 0, 1, 0.5, 0.1), r"w1 \+ w2=0 must be positive"),
        (lambda: g.robust_accuracy(1.0, -1.0, 1.0, 0.5, 0.1), r"w2=-1 must be >= 0"),
        (lambda: g.best_ratio(1.0, 0.5, 0.6), r"eps=0\.6 must be < mu/2"),
        (
            lambda: g.minimise_cross_entropy(1.0, 0.5, 0.1, 1.0, 0.7),
            r"smoothing=0\.7 must be < 2/3",
        ),
        (lambda: g.sample(0, 1.0, 0.5), r"num=0 must be at least 1"),
        (lambda: g.group_threshold(1.0, 0.5, 4, 4), r"group=4 must be at least 2 and less than"),
        (lambda: g.group_threshold(1.0, 0.5, 5, 2, 0.1, True), r"group=2 must divide classes=5"),
    ],
)
def test_impossible_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_imports_where_torch_is_absent():
    code = "import sys; sys.modules['torch'] = None; from ccnotes import gaussian"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_large_shared_weight_can_pay_at_the_threshold_with_many_classes():
    """With 20 classes in groups of 13, where the slope at 0 is not positive."""
    eps0 = g.group_threshold(1.0, 0.5, 20, 13)
    start, little, large = (
        g.group_robust_accuracy(1.0, ratio, 1.0, 0.5, eps0, 20, 13) for ratio in (0.0, 1e-4, 0.045)
    )
    assert little <= start + 1e-7
    assert large > start + 1e-3
