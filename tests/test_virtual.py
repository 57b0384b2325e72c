"""Smoothing without labels: its direction, its loss, and the images that it is about."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ccnotes.attacks import PGD, pgd
from ccnotes.data import Split, split, to_float
from ccnotes.data.dataset import unlabelled_part
from ccnotes.experiments import Experiment, dataset
from ccnotes.models import ConvNet
from ccnotes.onestep import elle, grad_align
from ccnotes.records import run
from ccnotes.setup import build, sgd
from ccnotes.steps import Learner, train_step
from ccnotes.training import OutOfTime
from ccnotes.virtual import Virtual, smoothness, vat_direction, virtual_images
from tests.helpers import SMALL, assert_equal_records, folder_of_images

pytestmark = pytest.mark.usefixtures("no_published")
VAT = replace(SMALL, name="vat", virtual=Virtual(kind="vat", batch_size=12), unlabelled_size=30)


@pytest.fixture(scope="module")
def trained():
    """A network that has seen planted parts for a second, and some of these."""
    e = Experiment(data="parts", train_size=240, width=8, batch_size=60)
    data = dataset(e)
    x, y = to_float(data.train.images), data.train.labels
    model = build(e, data).train()
    optimiser, generator = sgd(model, e), torch.Generator().manual_seed(0)
    for _ in range(5):
        for batch in torch.randperm(len(x), generator=generator).split(60):
            optimiser.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model, x[:60]


def product(model, x, direction):
    """The Hessian of the divergence times a direction, exactly: jvp, then vjp; of length 1."""
    model, x = deepcopy(model).double().eval(), x.double()
    p = model(x).softmax(1).detach()
    _, change = torch.func.jvp(model, (x,), (direction.double(),))
    change = p * (change - (p * change).sum(1, keepdim=True))  # diag(p) - p p'
    (found,) = torch.func.vjp(model, x)[1](change)
    return found / found.flatten(1).norm(dim=1)[:, None, None, None]


def agreement(a, b):
    """Cosines, up to the sign, which the divergence does not know."""
    return (a.double() * b).flatten(1).sum(1).abs()


def test_the_direction_of_vat_is_the_exact_top_direction(trained):
    """One step is the exact product with the start; few lead to the top, if xi is not too small."""
    model, x = deepcopy(trained[0]).eval(), trained[1][:24]
    start = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    top = start
    for _ in range(60):
        top = product(model, x, top)

    def found(xi, steps):
        return vat_direction(model, x, xi, steps, torch.Generator().manual_seed(3))

    xi, exact = (
        Virtual().xi,
        product(model, x, start / start.flatten(1).norm(dim=1).view(-1, 1, 1, 1)),
    )
    assert agreement(start / start.norm() * 24**0.5, top).mean() < 0.1
    assert agreement(found(xi, 1), exact).mean() > 0.99
    assert agreement(found(1e-6, 1), exact).mean() < 0.95
    assert agreement(found(10.0, 1), exact).mean() < 0.95
    assert agreement(found(xi, 1), top).median() > 0.9
    assert agreement(found(xi, 2), top).mean() > 0.9


def naive_vat(model, x, eps, xi, generator):
    """As in Miyato et al. (2018), with a copy of the network for its statistics' sake."""
    model = deepcopy(model)
    p = model(x).softmax(1).detach()
    d = torch.empty_like(x).normal_(generator=generator)
    d = (d / d.flatten(1).norm(dim=1)[:, None, None, None]).requires_grad_()
    q = model(x + xi * d).log_softmax(1)
    (gradient,) = torch.autograd.grad((p * (p.log() - q)).sum(1).mean(), d)
    return x + eps * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_images_and_loss_of_vat_are_the_slow_formula(mode, trained):
    """In either mode of BatchNorm; its gradient is that with the first prediction held fixed."""
    model, x = deepcopy(trained[0]).double().train(mode), trained[1].double()
    settings = Virtual(kind="vat", eps=0.7, weight=2.0, entropy=0.5)
    nearby = virtual_images(model, x, settings, torch.Generator().manual_seed(4))
    expected = naive_vat(model, x, 0.7, settings.xi, torch.Generator().manual_seed(4))
    torch.testing.assert_close(nearby, expected, atol=1e-6, rtol=0)
    before = {name: value.clone() for name, value in model.named_buffers()}
    loss = smoothness(model, x, nearby, settings)
    after = dict(model.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    other = deepcopy(model)
    fixed = other(x).softmax(1).detach()

    def naive(net):
        p, q = net(x).softmax(1), net(nearby).softmax(1)
        divergence = (fixed * (fixed.log() - q.log())).sum(1).mean()
        return 2.0 * divergence - 0.5 * (p * p.log()).sum(1).mean()

    assert loss.item() == pytest.approx(naive(other).item(), rel=1e-9)
    weight = model.head.weight
    (slope,) = torch.autograd.grad(loss, weight)
    for place in [(0, 0), (5, 20)]:
        values = []
        for h in (1e-5, -1e-5):
            moved = deepcopy(model)
            moved.head.weight.data[place] += h
            values.append(naive(moved).item())
        assert slope[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_the_random_step_is_as_long_as_that_of_vat_and_elsewhere(trained):
    model, x = trained
    steps = [
        virtual_images(model, x, Virtual(kind=kind, eps=0.7), torch.Generator().manual_seed(4)) - x
        for kind in ("vat", "random")
    ]
    for step in steps:
        torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.full((60,), 0.7))
    assert F.cosine_similarity(*(step.flatten(1) for step in steps)).abs().mean() < 0.1


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
def test_uat_is_pgd_on_the_divergence(batchnorm, trained):
    """And its own passes move no statistics, in train mode either."""
    model, x = deepcopy(trained[0]).train(), trained[1]
    other = deepcopy(model)
    settings = Virtual(kind="uat", eps=0.04, steps=3)
    generator = torch.Generator().manual_seed(4)
    found = virtual_images(model, x, settings, generator, batchnorm)
    attack, labels = PGD(eps=0.04, step_size=0.01, steps=3), torch.zeros(60).long()
    generator = torch.Generator().manual_seed(4)
    expected = pgd(other, x, labels, attack, generator, batchnorm=batchnorm, loss="kl")
    torch.testing.assert_close(found, expected)
    assert (found - x).abs().max().item() == pytest.approx(
        0.03, abs=6e-3
    )  # 3 steps; it starts near by
    assert model.body[2].num_batches_tracked == trained[0].body[2].num_batches_tracked


def test_a_direction_without_a_gradient_stays_and_is_no_nan():
    class Constant(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * 0

    found = vat_direction(Constant(), torch.rand(4, 3, 2, 2), 0.01, 2)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(4))


def one_step(e, data):
    """A network after one step on all training images, and the loss."""
    model = build(e, data).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    generators = {use: torch.Generator().manual_seed(0) for use in ("augmentation", "attack")}
    pool = data.unlabelled.images if data.unlabelled else None
    learner = Learner(
        experiment=e, model=model, optimiser=optimiser, generators=generators, unlabelled=pool
    )
    loss = train_step(learner, data.train.images, data.train.labels)
    return model, loss


@pytest.mark.parametrize("kind", ["vat", "terms"])
def test_a_step_with_terms_is_the_naive_step(kind):
    """Attack, labelled loss, then the terms with their noise in turn; statistics of labelled."""
    e = replace(VAT, virtual=replace(VAT.virtual, weight=0.7, entropy=0.2))
    if kind == "terms":
        objective = replace(SMALL.objective, grad_align=0.3, elle=5000.0)
        e = replace(SMALL, objective=objective)
    data = dataset(e)
    found, loss = one_step(e, data)
    model = build(e, data).to(memory_format=torch.channels_last).train()
    generator = torch.Generator().manual_seed(0)
    x, y = to_float(data.train.images), data.train.labels
    x = x.contiguous(memory_format=torch.channels_last)
    adv = pgd(model, x, y, e.attack, generator)

    def ball():
        return torch.empty_like(x).uniform_(-0.05, 0.05, generator=generator)

    if kind == "vat":
        other = torch.Generator().manual_seed(0)
        chosen = torch.randint(30, (12,), generator=other)
        both = torch.cat([x, to_float(data.unlabelled.images[chosen])])
        both = both.contiguous(memory_format=torch.channels_last)  # which noise follows
        nearby = virtual_images(model, both, e.virtual, generator)
        penalty = smoothness(deepcopy(model), both, nearby, e.virtual)
        naive = F.cross_entropy(model(adv), y) + smoothness(model, both, nearby, e.virtual)
    else:
        noise, ends = ball(), (ball(), ball())
        share = torch.rand(len(x), generator=generator)
        naive = F.cross_entropy(model(adv), y) + 0.3 * grad_align(model, x, y, noise)
        penalty = 5000.0 * elle(model, x, y, ends, share)
        naive = naive + penalty
    assert penalty.item() > 1e-4
    torch.testing.assert_close(loss, naive.detach())
    gradients = torch.autograd.grad(naive, list(model.parameters()))
    for (name, value), before, slope in zip(
        found.named_parameters(), model.parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(value, before - 0.1 * slope, atol=1e-6, rtol=1e-4, msg=name)
    for name, value in found.named_buffers():
        torch.testing.assert_close(value, model.get_buffer(name), msg=name)


def test_training_never_sees_the_labels_of_unlabelled_images_but_their_pixels(monkeypatch):
    e = replace(VAT, epochs=1)
    heads = [run(e).model("last").head.weight]
    data = dataset(e)
    for images in (data.unlabelled.images, data.unlabelled.images.flip(3)):
        labels = data.unlabelled.labels.flip(0) - 7  # which no network has a logit for
        other = replace(data, unlabelled=Split(images=images, labels=labels))
        monkeypatch.setattr("ccnotes.records.runner.dataset", lambda *_, other=other: other)
        heads.append(run(e, fresh=True).model("last").head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])


def test_a_run_with_unlabelled_images_in_slices_of_no_time_ends_in_the_same_record(monkeypatch):
    e = replace(VAT, epochs=1)
    whole = run(e)
    monkeypatch.setenv("CCNOTES_RUNS", str(whole.folder.parent.parent / "others"))
    for _ in range(20):
        with suppress(OutOfTime):
            assert_equal_records(run(e, minutes=1e-9, go_on=True), whole)
            return
    pytest.fail("the run did not end")


def pixels(part):
    return {image.numpy().tobytes() for image in part.images}


@pytest.mark.parametrize("kind", ["planted", "parts", "photographs"])
def test_unlabelled_images_are_apart_from_all_others(kind, tmp_path):
    """And the others are the same without them."""
    e = replace(VAT, data=kind, validation_size=12)
    if kind == "photographs":
        e = replace(e, data=folder_of_images(tmp_path / "images"))
    data = dataset(e)
    plain = dataset(replace(e, unlabelled_size=0, virtual=Virtual()))
    assert plain.unlabelled is None
    assert len(pixels(data.unlabelled)) == len(data.unlabelled) == 30
    assert data.unlabelled.labels.bincount().tolist() == [5] * 6
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        assert torch.equal(part.images, getattr(plain, name).images)
        assert not pixels(part) & pixels(data.unlabelled)


def test_labels_of_unlabelled_photographs_go_with_them():
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1)
    photos = Split(images=images, labels=torch.arange(40) // 10)
    found = unlabelled_part(photos, 8, 4, 3, 16)
    assert torch.equal(found.labels, found.images.flatten().long() // 10)
    assert pixels(unlabelled_part(photos, 8, 4, 3, 12)) < pixels(found)
    train, validation = split(photos, 8, 4, 3)
    assert len(pixels(found) | pixels(train) | pixels(validation)) == 28
    with pytest.raises(ValueError, match="unlabelled_size=29 images must be apart from train_si"):
        unlabelled_part(photos, 8, 4, 3, 29)
    with pytest.raises(ValueError, match="apart from train_size=None"):
        unlabelled_part(photos, None, 4, 3, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "vta"}, "virtual.kind='vta' is not one of"),
        ({"eps": -1.0}, "virtual.eps=-1.0 must be a finite number >= 0"),
        ({"kind": "uat", "eps": 8.0}, r"Did you mean eps=8 / 255\?"),
        ({"kind": "vat", "xi": 1e-6}, "virtual.xi=1e-06 must lie in .* rounding noise"),
        ({"batch_size": 0}, "virtual.batch_size=0 must be at least 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Virtual(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unlabelled_size": 60}, "unlabelled_size=60 images would not be used"),
        ({"unlabelled_size": -1}, "unlabelled_size=-1 must be at least 0"),
        (
            {"unlabelled_size": 5, "virtual": Virtual(kind="vat")},
            "unlabelled_size=5 must be at least planted.num_classes=6",
        ),
        (
            {"objective": replace(SMALL.objective, elle=1.0), "attack": PGD(eps=0)},
            "objective.elle=1 is about the attack's ball, and attack.eps=0",
        ),
        (
            {"objective": replace(SMALL.objective, loss="trades"), "attack": PGD(start=2.0)},
            "attack.start=2 does not count for TRADES",
        ),
        ({"on_collapse": "cry"}, "on_collapse='cry' is not one of 'go on', 'stop'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_experiments_that_would_not_do_what_they_say_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**settings)


def test_networks_of_the_package_have_the_batchnorm_that_is_kept_still():
    """Whatever it is called: a term's passes leave every buffer as it was."""
    model = ConvNet(3, width=4).train()
    before = [value.clone() for value in model.buffers()]
    x = torch.rand(6, 3, 8, 8)
    smoothness(model, x, x + 0.1, Virtual(kind="vat"))
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
