"""Attacks of one step, what keeps training on them from collapsing, and what gives warning."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ccnotes.attacks import PGD, pgd
from ccnotes.data import to_float
from ccnotes.devices import compile_network
from ccnotes.models import ConvNet
from ccnotes.objectives import Objective
from ccnotes.onestep import (
    elle,
    fgsm,
    fgsm_rs,
    grad_align,
    gradient_alignment,
    n_fgsm,
    noise_in_ball,
    zero_grad,
)

EPS = 0.1


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(16, 3, 12, 12), torch.arange(16) % 3


@pytest.fixture
def model():
    torch.manual_seed(1)
    return ConvNet(3, width=4)


def steps_of_authors(model, x, y):
    """Each method's perturbed images, as its authors write them, from the same noise."""

    def noise(length):
        generator = torch.Generator().manual_seed(7)
        return torch.empty_like(x).uniform_(-length, length, generator=generator)

    def gradient(delta):
        delta = delta.clone().requires_grad_()
        (found,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y), delta)
        return found

    def into_pixels(delta):
        return torch.max(torch.min(delta, 1 - x), 0 - x)

    eta = into_pixels(noise(2 * EPS))  # de Jorge et al.: U(-2 eps, 2 eps), pixels, step, pixels
    delta = into_pixels(noise(EPS))  # Wong et al.
    grad = gradient(delta)
    sizes = grad.abs().flatten(1)
    large = sizes >= torch.quantile(sizes, 0.35, dim=1, keepdim=True)
    return {
        "fgsm": x + into_pixels(EPS * gradient(torch.zeros_like(x)).sign()),
        "fgsm-rs": x + into_pixels((delta + 1.25 * EPS * grad.sign()).clamp(-EPS, EPS)),
        "rs without projection": x + into_pixels(delta + 1.25 * EPS * grad.sign()),
        "n-fgsm": x + into_pixels(eta + EPS * gradient(eta).sign()),
        "zero-grad": x
        + into_pixels((delta + 1.25 * EPS * (grad * large.view_as(grad)).sign()).clamp(-EPS, EPS)),
    }


ATTACKS = {
    "fgsm": fgsm(EPS),
    "fgsm-rs": fgsm_rs(EPS),
    "rs without projection": replace(fgsm_rs(EPS), project=False),
    "n-fgsm": n_fgsm(EPS),
    "zero-grad": zero_grad(EPS),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_of_one_step_is_its_authors_update(name, model, batch):
    """To 1e-6: they add to the perturbation, we to the image."""
    model.eval()
    expected = steps_of_authors(model, *batch)
    found = pgd(model, *batch, ATTACKS[name], torch.Generator().manual_seed(7))
    torch.testing.assert_close(found, expected[name], atol=1e-6, rtol=0)
    for other, images in expected.items():
        assert other == name or (images - expected[name]).abs().max() > 0.01


def test_without_projection_an_attack_leaves_the_ball_but_not_the_pixels(model, batch):
    x, y = batch
    moved = pgd(model, x, y, n_fgsm(EPS), torch.Generator().manual_seed(0))
    assert EPS + 0.05 < (moved - x).abs().max() <= 3 * EPS + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_what_is_compiled_for_one_attack_of_one_step_serves_no_other(model, batch, monkeypatch):
    """Nor one of the same steps that is projected, or keeps all of its gradient."""
    names = []

    def compile(function, **how):  # which takes a second for each of them
        names.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    model.eval()
    plain = deepcopy(model)
    compile_network(model, 16)
    for attack in ATTACKS.values():
        found, expected = (
            pgd(m, *batch, attack, torch.Generator().manual_seed(3)) for m in (model, plain)
        )
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert names == ["step"] * 3  # projected, not projected, and with gradients set to 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"start": -1.0}, r"start=-1 must lie in \[0, 255\)"),
        ({"zero_smallest": 1.0}, r"zero_smallest=1 must lie in \[0, 1\)"),
        ({"project": "no"}, "project='no' must be True or False"),
        ({"start": 2.0, "random_start": False}, "leave one of them out"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_attacks_of_one_step_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        PGD(**setting)


class Smooth(nn.Module):
    """A small network whose gradients differ from image to image and have derivatives."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)
        )
        self.double()

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def small():
    torch.manual_seed(3)
    x = torch.rand(8, 3, 2, 2, dtype=torch.float64)
    return Smooth().train(), x, torch.arange(8) % 3, 0.4 * torch.rand_like(x)


def authors_alignment(model, x, y, noise):
    """1 - mean cosine as in the authors' code, both gradients with their graphs."""

    def gradient(delta):
        delta = delta.clone().requires_grad_()
        loss = F.cross_entropy(model(x + delta), y)
        return torch.autograd.grad(loss, delta, create_graph=True)[0].flatten(1)

    first, second = gradient(torch.zeros_like(x)), gradient(noise)
    return first, second


def turn(first, second):
    lengths = first.norm(dim=1) * second.norm(dim=1)
    return 1 - ((first * second).sum(1) / lengths).mean()


def test_grad_align_is_its_authors_term_and_only_the_second_gradient_is_differentiated(small):
    model, x, y, noise = small
    other = deepcopy(model)
    first, second = authors_alignment(other, x, y, noise)
    found = grad_align(model, x, y, noise)
    assert found.item() == pytest.approx(turn(first, second).item(), abs=1e-12)
    assert found.item() > 0.01
    weight = model.layers[1].weight
    (slope,) = torch.autograd.grad(found, weight)
    fixed, h = first.detach(), 1e-6
    numerical = {"second": torch.zeros_like(slope), "both": torch.zeros_like(slope)}
    for place in [(0, 0), (2, 7), (4, 11)]:
        values = []
        for sign in (1, -1):
            moved = deepcopy(model)
            moved.layers[1].weight.data[place] += sign * h
            a, b = authors_alignment(moved, x, y, noise)
            values.append((turn(fixed, b).item(), turn(a, b).item()))
        (up, up_both), (down, down_both) = values
        numerical["second"][place] = (up - down) / (2 * h)
        numerical["both"][place] = (up_both - down_both) / (2 * h)
        assert slope[place].item() == pytest.approx(numerical["second"][place].item(), rel=1e-4)
        assert abs(numerical["both"][place] / numerical["second"][place] - 1) > 0.01


def terms(model, x, y, noise):
    """The terms that keep training from collapsing, at some noise."""
    share = torch.linspace(0, 1, len(x), dtype=x.dtype)
    return {
        "grad_align": lambda: grad_align(model, x, y, noise),
        "elle": lambda: elle(model, x, y, (noise, -noise), share),
    }


@pytest.mark.parametrize("name", ["grad_align", "elle"])
def test_batchnorm_normalises_by_the_batch_and_keeps_nothing_of_it(name, small):
    model = small[0]
    norm = model.layers[2]
    before = [value.clone() for value in norm.buffers()]
    found = terms(*small)[name]()
    found.backward()
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))
    assert norm.momentum == 0.1
    model.eval()
    assert abs(terms(*small)[name]().item() - found.item()) > 1e-4
    model.train()
    model(small[1])
    assert norm.num_batches_tracked == 1
    assert not torch.equal(norm.running_mean, before[0])


@pytest.mark.parametrize("name", ["grad_align", "elle"])
def test_terms_are_computed_in_float32_in_runs_of_half_precision_too(name, model, batch):
    x, y = batch
    noise = torch.empty_like(x).uniform_(-EPS, EPS)
    found = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            term = terms(model, x, y, noise)[name]()
        term.backward()
        found.append([term.detach(), *(p.grad for p in model.body.parameters())])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_images_without_a_gradient_do_not_count_in_grad_align(model, batch):
    """Two whose pixels the network does not look at; they would make it NaN."""
    x, y = batch

    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model.eval()

        def forward(self, x):
            seen = torch.ones(len(x))
            seen[[3, 5]] = 0
            return self.model(x) * seen[:, None]

    noise = torch.empty_like(x).uniform_(-EPS, EPS)
    found = grad_align(Blind(), x, y, noise)
    kept = [i for i in range(16) if i not in (3, 5)]
    expected = grad_align(model, x[kept], y[kept], noise[kept])
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    found.backward()
    assert all(p.grad.isfinite().all() for p in model.body.parameters())


def test_elle_is_its_authors_term(small):
    """Their lines, with their random numbers."""
    model, x, y, _ = small
    torch.manual_seed(5)
    bs = len(x)
    uniform = 2 * torch.rand(2 * bs, 3, 2, 2, dtype=x.dtype) - 1
    x_ab = x.repeat([2, 1, 1, 1]) + 0.3 * uniform
    alpha = torch.rand([bs, 1, 1, 1], dtype=x.dtype)
    x_c = (1 - alpha) * x_ab[:bs] + alpha * x_ab[bs:]
    share = alpha.squeeze()
    with torch.no_grad():
        logits = deepcopy(model)(torch.cat((x_ab, x_c), dim=0))
    losses = nn.CrossEntropyLoss(reduction="none")(logits, y.repeat([3]))
    linear = (1 - share) * losses[:bs] + share * losses[bs : 2 * bs]
    expected = nn.MSELoss()(losses[2 * bs :], linear)
    ends = (0.3 * uniform[:bs], 0.3 * uniform[bs:])
    found = elle(model, x, y, ends, share)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert found.item() > 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_alignment_is_the_mean_cosine_of_gradients_image_by_image(norm, model):
    torch.manual_seed(4)
    images, labels = torch.randint(256, (10, 3, 12, 12)).byte(), torch.arange(10) % 3
    model.train()
    found = gradient_alignment(model, images, labels, 0.2, norm=norm, seed=5, batch_size=10)
    assert model.training
    assert model.body[2].num_batches_tracked == 0
    model.eval()
    x = to_float(images).contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(5)
    if norm == "linf":
        noise = torch.empty_like(x).uniform_(-0.2, 0.2, generator=generator)
    else:
        noise = noise_in_ball(x, PGD(norm="l2", eps=0.2), generator)
    cosines = []
    for image, near, label in zip(x, x + noise, labels, strict=True):
        gradients = []
        for at in (image, near):
            at = at[None].clone().requires_grad_()
            loss = F.cross_entropy(model(at), label[None])
            gradients.append(torch.autograd.grad(loss, at)[0].flatten())
        cosines.append(F.cosine_similarity(*gradients, dim=0).item())
    assert found == pytest.approx(sum(cosines) / 10, abs=1e-5)
    assert min(cosines) < 0.99


def test_alignment_is_known_where_the_gradient_flips():
    """Of a network that folds its pixels at 1/2, noise carries some gradients over the fold."""

    class Fold(nn.Module):
        def forward(self, x):
            height = (x - 0.5).abs().sum((1, 2, 3))
            return torch.stack([height, -height], 1)

    images = torch.full((400, 1, 1, 1), 140).byte()  # at 0.549: over the fold with noise < -0.049
    found = gradient_alignment(Fold(), images, torch.zeros(400).long(), 0.1)
    share = (0.1 - (140 / 255 - 0.5)) / 0.2  # of the interval that is beyond the fold
    assert found == pytest.approx(1 - 2 * share, abs=5 * 2 * (share * (1 - share) / 400) ** 0.5)


@pytest.mark.parametrize("name", ["grad_align", "elle"])
def test_weights_of_terms_are_numbers_and_not_negative(name):
    with pytest.raises(ValueError, match=rf"{name}=-1.0 must lie in \[0"):
        Objective(**{name: -1.0})
