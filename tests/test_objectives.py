"""Every objective against its formula, written out sample by sample in double precision."""

import math
from itertools import product

import pytest
import torch

from ccnotes.models import ConvNet
from ccnotes.objectives import (
    Objective,
    Outputs,
    batch_cas,
    batch_contrast,
    cross_entropy,
    distillation,
    mart,
    permuted,
    perturbed,
    placebo,
    soft_labels,
    total,
    trades,
)

CLASSES = 6
GROUPS = torch.arange(CLASSES) // 2


@pytest.fixture
def batch():
    """Logits before and after an attack, labels, a teacher's probabilities."""
    torch.manual_seed(0)
    clean, attacked = (2 * torch.randn(9, CLASSES) for _ in range(2))
    return clean, attacked, torch.arange(9) % 5, torch.randn(9, CLASSES).softmax(1)


def slow_softmax(row, temperature=1.0):
    powers = [torch.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def slow_smoothing(clean, attacked, labels, teacher):
    result = 0
    for row, y in zip(attacked, labels, strict=True):
        p = slow_softmax(row)
        wanted = [0.7 * (c == y) + 0.3 / CLASSES for c in range(CLASSES)]
        result -= sum(w * torch.log(q) for w, q in zip(wanted, p, strict=True))
    return result / len(labels)


def slow_distillation(clean, attacked, labels, teacher):
    result = 0
    for row, wanted in zip(attacked, teacher, strict=True):
        p = slow_softmax(row, temperature=2.0)
        result -= 4 * sum(w * torch.log(q) for w, q in zip(wanted, p, strict=True))
    return result / len(labels)


def slow_divergence(p, q):
    return sum(a * (torch.log(a) - torch.log(b)) for a, b in zip(p, q, strict=True))


def slow_trades(clean, attacked, labels, teacher):
    result = 0
    for before, after, y in zip(clean, attacked, labels, strict=True):
        p, q = slow_softmax(before), slow_softmax(after)
        result += -torch.log(p[y]) + 6 * slow_divergence(p, q)
    return result / len(labels)


def slow_mart(clean, attacked, labels, teacher):
    result = 0
    for before, after, y in zip(clean, attacked, labels, strict=True):
        p, q = slow_softmax(before), slow_softmax(after)
        rival = max(q[c] for c in range(CLASSES) if c != y)
        result += -torch.log(q[y]) - torch.log(1 - rival) + 6 * (1 - p[y]) * slow_divergence(p, q)
    return result / len(labels)


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (lambda c, a, y, t: cross_entropy(a, y, 0.3), slow_smoothing),
        (lambda c, a, y, t: distillation(a, t, 2.0), slow_distillation),
        (lambda c, a, y, t: trades(c, a, y, 6.0), slow_trades),
        (lambda c, a, y, t: mart(c, a, y, 6.0), slow_mart),
    ],
    ids=["smoothing", "distillation", "trades", "mart"],
)
def test_each_loss_and_its_gradients_agree_with_the_formula(fast, slow, batch):
    """Single precision against double: a few units of 1e-6."""
    clean, attacked, labels, teacher = batch
    logits = [clean.requires_grad_(), attacked.requires_grad_()]
    doubles = [value.detach().double().requires_grad_() for value in logits]
    found, expected = fast(*logits, labels, teacher), slow(*doubles, labels, teacher.double())
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(found, logits, materialize_grads=True)
    for gradient, slowly in zip(
        gradients, torch.autograd.grad(expected, doubles, materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(gradient.double(), slowly, atol=1e-5, rtol=1e-4)


def test_mart_bears_a_model_that_is_sure_and_wrong():
    """The rival's probability rounds to 1, where log(1 - p) would be infinite."""
    logits = torch.tensor([[-60.0, 60.0, 0.0]], requires_grad=True)
    loss = mart(logits, logits, torch.tensor([0]), 6.0)
    assert loss.item() == pytest.approx(120 + 60, rel=1e-5)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def slow_cas(features, labels, head):
    """One pair of the classes that the batch has after the other."""
    attribution = {
        y.item(): sum(h * head[y] for h, own in zip(features, labels, strict=True) if own == y)
        for y in labels.unique()
    }
    cosines = [
        attribution[i] @ attribution[j] / (attribution[i].norm() * attribution[j].norm())
        for i, j in product(attribution, attribution)
        if i != j
    ]
    return sum(cosine.clamp_min(0) for cosine in cosines)


def test_the_batch_s_cas_and_its_gradients_agree_with_the_formula():
    """A class of the head has no image in the batch; some similarities are negative."""
    torch.manual_seed(1)
    features, labels = torch.rand(12, 8, requires_grad=True), torch.arange(12) % 5
    head = torch.randn(CLASSES, 8, requires_grad=True)
    doubles = [value.detach().double().requires_grad_() for value in (features, head)]
    expected = slow_cas(doubles[0], labels, doubles[1])
    found = batch_cas(features, labels, head)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    slowly = torch.autograd.grad(expected, doubles)
    for value, other in zip(torch.autograd.grad(found, (features, head)), slowly, strict=True):
        torch.testing.assert_close(value.double(), other, atol=1e-5, rtol=1e-4)


def test_the_batch_s_contrast_and_its_gradients_agree_with_the_formula():
    """Classes 0 to 4, in groups (0, 1), (2, 3) and (4): class 4 has no kin."""
    torch.manual_seed(1)
    features, labels = torch.rand(12, 8, requires_grad=True), torch.arange(12) % 5
    head = torch.randn(CLASSES, 8, requires_grad=True)
    doubles = [value.detach().double().requires_grad_() for value in (features, head)]
    rows = [
        sum(h * doubles[1][y] for h, own in zip(doubles[0], labels, strict=True) if own == y)
        for y in range(5)
    ]
    cosines = {
        (i, j): rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())
        for i, j in product(range(5), range(5))
        if i != j
    }
    kin = [c for (i, j), c in cosines.items() if i // 2 == j // 2]
    rest = [c for (i, j), c in cosines.items() if i // 2 != j // 2]
    expected = sum(kin) / len(kin) - sum(rest) / len(rest)
    found = batch_contrast(features, labels, head, GROUPS)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    slowly = torch.autograd.grad(expected, doubles)
    for value, other in zip(torch.autograd.grad(found, (features, head)), slowly, strict=True):
        torch.testing.assert_close(value.double(), other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("labels", [[0, 2, 4], [2, 3, 2], [5, 5, 5]])
def test_a_batch_that_lacks_kin_or_strangers_has_no_contrast(labels):
    features = torch.rand(3, 8, requires_grad=True)
    head = torch.randn(CLASSES, 8)
    found = batch_contrast(features, torch.tensor(labels), head, GROUPS)
    assert found == 0
    assert (torch.autograd.grad(found, features)[0] == 0).all()


@pytest.fixture
def model():
    torch.manual_seed(2)
    return ConvNet(CLASSES, width=4)


def test_the_whole_is_the_sum_of_its_parts(model, batch):
    """Chen et al.: 0.3 on the labels, 0.6 and 0.1 on two teachers; CAS up, contrast down."""
    clean, attacked, labels, teacher = batch
    features, other = torch.rand(9, 16), teacher.flip(1)
    soft = {"teachers": ("a", "b"), "teacher_weights": (0.6, 0.1), "temperature": 3.0}
    o = Objective(loss="trades", push_cas=0.2, push_contrast=-0.4, **soft)
    expected = (
        0.3 * trades(clean, attacked, labels, 6.0)
        + 0.6 * distillation(attacked, teacher, 3.0)
        + 0.1 * distillation(attacked, other, 3.0)
        - 0.2 * batch_cas(features, labels, model.head.weight)
        + 0.4 * batch_contrast(features, labels, model.head.weight, GROUPS)
    )
    taught = [(teacher, 0.6), (other, 0.1)]
    found = total(o, model, Outputs(attacked, clean, features), labels, taught, GROUPS)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"smoothing": 0.3}, lambda c, a, y: cross_entropy(a, y, 0.3)),
        (
            {"loss": "trades", "beta": 2.0, "smoothing": 0.1},
            lambda c, a, y: trades(c, a, y, 2.0, 0.1),
        ),
        ({"loss": "mart", "beta": 2.0}, lambda c, a, y: mart(c, a, y, 2.0)),
    ],
    ids=["cross-entropy", "trades", "mart"],
)
def test_the_whole_hands_each_loss_its_settings(settings, wanted, model, batch):
    clean, attacked, labels, _ = batch
    o = Objective(**settings)
    given = None if o.loss == "cross-entropy" else clean
    found = total(o, model, Outputs(attacked, given), labels, [])
    torch.testing.assert_close(found, wanted(clean, attacked, labels))


def test_smoothing_in_trades_is_that_of_the_clean_images_labels(batch):
    clean, attacked, labels, teacher = batch
    smooth = slow_smoothing(attacked, clean, labels, teacher)  # 0.3, of the clean logits
    divergences = [
        slow_divergence(slow_softmax(p), slow_softmax(q))
        for p, q in zip(clean, attacked, strict=True)
    ]
    wanted = smooth + 2 * sum(divergences) / len(labels)
    torch.testing.assert_close(trades(clean, attacked, labels, 2.0, 0.3), wanted)


def test_the_placebo_pushes_as_hard_as_cas_and_leaves_it_where_it_is(model):
    x, labels = torch.rand(24, 3, 8, 8), torch.arange(24) % CLASSES
    model.to(memory_format=torch.channels_last).train()
    weights = list(model.parameters())
    features = model.features(x)
    term = placebo(features, labels, model)
    assert term == 0
    pushes = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, weights, **how)]).double()
        for value, how in (
            (term, {"retain_graph": True, "materialize_grads": True}),
            (batch_cas(features, labels, model.head.weight), {"materialize_grads": True}),
        )
    ]
    lengths = [push.norm().item() for push in pushes]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
    assert lengths[0] > 0.01
    assert abs((pushes[0] @ pushes[1]).item()) < 1e-4 * lengths[0] * lengths[1]


def test_the_whole_has_the_placebo_s_gradient_at_its_weight_the_same_every_time(model):
    """Its value is 0, so that the gradient alone shows it."""
    labels = torch.arange(24) % CLASSES
    weights, features = list(model.parameters()), model.features(torch.rand(24, 3, 8, 8))
    outputs = Outputs(model.head(features), features=features)

    def gradient(value):
        found = torch.autograd.grad(value, weights, retain_graph=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    def whole(**settings):
        return gradient(total(Objective(**settings), model, outputs, labels, []))

    push = gradient(placebo(features, labels, model))
    assert push.norm() > 0.01
    # In single precision, of sums of some 0.1.
    torch.testing.assert_close(whole(push_placebo=-0.5) - whole(), 0.5 * push, atol=1e-5, rtol=1e-3)


def test_the_placebo_of_a_batch_without_similar_classes_is_nothing(model):
    """CAS has no gradient there, so its placebo has none, rather than NaN."""
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(CLASSES, 16))
    features = (torch.eye(CLASSES, 16) + 0 * model.features(torch.rand(6, 3, 8, 8))).float()
    term = placebo(features, torch.arange(CLASSES), model)
    gradients = torch.autograd.grad(term, list(model.parameters()), materialize_grads=True)
    assert all((gradient == 0).all() for gradient in gradients)


def entropy(soft):
    return -(soft * soft.log()).sum(1)


@pytest.mark.parametrize("structure", ["uniform", "groups"])
def test_hand_made_labels_have_the_teacher_s_entropy_and_their_own_structure(structure, batch):
    logits, _, labels, _ = batch
    o = Objective(soft_labels=structure)
    soft = soft_labels(logits, labels, o, GROUPS)
    torch.testing.assert_close(entropy(soft), entropy((logits / 2).softmax(1)), atol=1e-5, rtol=0)
    for row, y in zip(soft.log(), labels.tolist(), strict=True):
        mates = [c for c in range(CLASSES) if c != y and GROUPS[c] == GROUPS[y]]
        others = [c for c in range(CLASSES) if GROUPS[c] != GROUPS[y]]
        for c in range(CLASSES):
            steps = {y: 0, **dict.fromkeys(mates, 1), **dict.fromkeys(others, 2)}[c]
            steps = min(steps, 1) if structure == "uniform" else steps
            assert (row[y] - row[c]).item() == pytest.approx(
                steps * (row[y] - row[mates[0]]).item(), abs=1e-4
            )
        assert row[y] > row[mates[0]]


def test_a_teacher_s_own_labels_are_its_probabilities_at_the_temperature(batch):
    logits, _, labels, _ = batch
    soft = soft_labels(logits, labels, Objective(temperature=5.0), None)
    torch.testing.assert_close(soft, torch.stack([*map(torch.stack, map(warm, logits))]))


def warm(row):
    return slow_softmax(row, temperature=5.0)


@pytest.mark.parametrize(("classes", "group_size"), [(6, 2), (9, 3), (12, 2), (10, None)])
def test_permuted_labels_move_every_mass_but_the_label_s_to_another_group(classes, group_size):
    """All labels in turn; every class's mass is recognised by its size."""
    groups = torch.arange(classes) // group_size if group_size else None
    logits = torch.arange(1.0, classes + 1).log().expand(classes, -1)
    labels, o = torch.arange(classes), Objective(soft_labels="permuted", temperature=1.0)
    masses = soft_labels(logits, labels, o, groups) * classes * (classes + 1) / 2
    for y, row in enumerate(masses.round().int().tolist()):
        sources = [mass - 1 for mass in row]
        assert sorted(sources) == list(range(classes))
        for c, source in enumerate(sources):
            assert (source == c) == (c == y)
            if groups is not None and c != y:
                assert groups[source] != groups[c]


def test_averaged_labels_are_the_batch_s_mean_for_each_class():
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).log()
    labels, o = torch.tensor([0, 0, 1]), Objective(soft_labels="averaged", temperature=1.0)
    soft = soft_labels(logits, labels, o, None)
    torch.testing.assert_close(soft, torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.2, 0.8]]))


def test_hard_labels_are_soft_only_where_the_teacher_is_least_sure_of_the_label():
    """Of the label, not of its favourite: of class 1 in the second image it is quite unsure."""
    probabilities = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    labels, o = torch.tensor([0, 1, 1, 1]), Objective(soft_labels="hard", temperature=1.0)
    soft = soft_labels(probabilities.log(), labels, o, None)
    wanted = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.0, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(soft, wanted)


def test_labels_that_cannot_be_permuted_are_refused():
    with pytest.raises(ValueError, match="4 classes cannot be permuted by 2"):
        permuted(torch.rand(3, 4), torch.arange(3), 2)
    with pytest.raises(ValueError, match="needs true groups"):
        soft_labels(torch.rand(3, 4), torch.arange(3), Objective(soft_labels="groups"), None)


def test_contrast_without_true_groups_is_refused(model, batch):
    _, attacked, labels, _ = batch
    outputs = Outputs(attacked, features=torch.rand(9, 16))
    with pytest.raises(ValueError, match="push_contrast needs true groups"):
        total(Objective(push_contrast=-1.0), model, outputs, labels, [])


def test_perturbed_weights_follow_the_formula_and_come_back(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    before |= {name: b.clone() for name, b in model.named_buffers()}
    gamma = 0.01
    with perturbed(model, gamma):
        for name, p in model.named_parameters():
            delta = p.detach() - before[name]
            if p.ndim == 1:
                assert (delta == 0).all()
                continue
            # Rounding is relative to the weight, the step is a hundredth of it.
            wanted = gamma * before[name].norm() / p.grad.norm() * p.grad
            torch.testing.assert_close(delta, wanted, atol=1e-6, rtol=1e-4)
        model(torch.rand(4, 3, 8, 8))
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"smoothing": 1.0}, r"smoothing=1.0 must lie in \[0, 1\)"),
        ({"awp": -0.1}, "awp=-0.1 must lie"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"loss": "mart", "smoothing": 0.1}, "MART has no smoothed form"),
        ({"teachers": ("a",)}, r"teacher_weights=\(\) must be one number"),
        ({"teachers": ("a", "b"), "teacher_weights": (0.7, 0.7)}, "1 or less in sum"),
        ({"teacher_weights": (math.nan,), "teachers": ("a",)}, "1 or less in sum"),
    ],
)
def test_impossible_objectives_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Objective(**setting)
