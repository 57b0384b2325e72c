"""One step of training, and what it starts from."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ccnotes import objectives
from ccnotes.attacks import PGD, pgd
from ccnotes.data import Split, augment, cutout, to_float
from ccnotes.devices import compile_network
from ccnotes.experiments import Experiment, dataset
from ccnotes.objectives import Objective
from ccnotes.onestep import fgsm
from ccnotes.parts import parts
from ccnotes.setup import build, stream
from ccnotes.steps import Learner, gradients, train_step, with_statistics
from ccnotes.virtual import Virtual
from tests.helpers import (
    SMALL,
)

pytestmark = pytest.mark.usefixtures("no_published")


@pytest.mark.parametrize(("augmented", "side"), [(True, 0), (False, 6), (True, 6)])
def test_training_sees_images_augmented_and_cut(augmented, side):
    """In this order, both by the generator for augmentation; without an attack here."""
    data, e = dataset(SMALL), replace(SMALL, attack=PGD(eps=0, step_size=0))
    e = replace(e, augment=augmented, cutout=side)
    model, seen = build(e, data).train(), []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    generators = {use: torch.Generator().manual_seed(7) for use in ("augmentation", "attack")}
    x = data.train.images
    learner = Learner(experiment=e, model=model, optimiser=optimiser, generators=generators)
    train_step(learner, x, data.train.labels)
    generator = torch.Generator().manual_seed(7)
    if augmented:
        x = augment(x, generator)
    if side:
        x = cutout(x, side, generator)
    (found,) = seen
    assert torch.equal(found, to_float(x))
    assert not torch.equal(found, to_float(data.train.images))


def one_step(e, data, teachers=(), *, compiled=False):
    """The model after one training step on all images, and the loss."""
    model = build(e, data).to(memory_format=torch.channels_last).train()
    if compiled:
        compile_network(model, len(data.train))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    generators = {use: torch.Generator().manual_seed(0) for use in ("augmentation", "attack")}
    x, y, groups = data.train.images, data.train.labels, torch.tensor(data.groups)
    learner = Learner(
        experiment=e,
        model=model,
        optimiser=optimiser,
        generators=generators,
        precision=e.precision,
        teachers=teachers,
        groups=groups,
        lacking=data.lacking,
    )
    return model, train_step(learner, x, y)


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_a_step_that_asks_for_groups_equals_the_naive_step(kind):
    """On five training images that lack the kind of part; two classes a group, one after the other.

    To 1e-5: float32 sums in another order.
    """
    e = replace(SMALL, data="parts", objective=Objective(group_weight=0.7, lacking=kind))
    data = dataset(e)
    found, loss = one_step(e, data)
    model = build(e, data).to(memory_format=torch.channels_last).train()
    noise, draw = (torch.Generator().manual_seed(0) for _ in range(2))
    x = to_float(data.train.images).contiguous(memory_format=torch.channels_last)
    adv = pgd(model, x, data.train.labels, e.attack, noise)
    pool = parts(24, without=kind)
    chosen = torch.randint(24, (5,), generator=draw)
    x = to_float(pool.images)[chosen].contiguous(memory_format=torch.channels_last)
    groups = pool.true_labels[chosen] // 2

    def wrong(z):
        pairs = model.eval()(z).softmax(1).view(5, 3, 2).sum(2)
        return -pairs[torch.arange(5), groups].log().mean()

    z = (x + torch.empty_like(x).uniform_(-0.05, 0.05, generator=noise)).clamp(0, 1)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(wrong(z.requires_grad_()), z)
        z = (x + (z.detach() + 0.02 * gradient.sign() - x).clamp(-0.05, 0.05)).clamp(0, 1)
    naive = F.cross_entropy(model.train()(adv), data.train.labels)  # statistics move first
    naive = naive + 0.7 * wrong(z)
    naive.backward()
    assert abs(naive - loss) < 1e-5
    for (name, weight), other in zip(model.named_parameters(), found.parameters(), strict=True):
        assert torch.allclose(weight - 0.1 * weight.grad, other, atol=1e-5), name
    for one, other in zip(model.buffers(), found.buffers(), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)  # of whole images alone


@pytest.mark.parametrize(("awp", "push"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2)])
@pytest.mark.parametrize("name", ["cross-entropy", "trades", "mart"])
def test_a_step_of_each_loss_equals_the_naive_step(name, awp, push):
    """Attack, loss, perturbed weights and their return written out, with a teacher and CAS."""
    data = dataset(SMALL)
    o = Objective(
        loss=name,
        teachers=("a",),
        teacher_weights=(0.4,),
        soft_labels="permuted",
        awp=awp,
        push_cas=-push,
    )
    e = replace(SMALL, objective=o)
    guide = build(replace(SMALL, seed=1), data).eval()
    found, loss = one_step(e, data, [(guide, 0.4)])
    model = build(e, data).to(memory_format=torch.channels_last).train()
    x, y = to_float(data.train.images), data.train.labels
    x = x.contiguous(memory_format=torch.channels_last)
    inner = "kl" if name == "trades" else "cross-entropy"
    adv = pgd(model, x, y, e.attack, torch.Generator().manual_seed(0), loss=inner)
    soft = objectives.soft_labels(guide(adv), y, o, torch.tensor(data.groups)).detach()

    def naive():
        clean = model(x) if name != "cross-entropy" else None
        features = model.features(adv)
        logits = model.head(features)
        hard = {
            "cross-entropy": lambda: F.cross_entropy(logits, y),
            "trades": lambda: objectives.trades(clean, logits, y, 6.0),
            "mart": lambda: objectives.mart(clean, logits, y, 6.0),
        }[name]()
        taught = 0.6 * hard + 0.4 * objectives.distillation(logits, soft, 2.0)
        return taught + push * objectives.batch_cas(features, y, model.head.weight)

    first = naive()
    torch.testing.assert_close(loss, first.detach())
    weights = list(model.parameters())
    gradients = torch.autograd.grad(first, weights)
    statistics = {name: b.clone() for name, b in model.named_buffers()}
    if awp:
        before = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w.add_(awp * w.norm() / g.norm() * g if w.ndim > 1 else 0)
        gradients = torch.autograd.grad(naive(), weights)
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)
    with torch.no_grad():
        for w, g in zip(weights, gradients, strict=True):
            w.sub_(0.1 * g)
    for (key, value), wanted in zip(found.named_parameters(), weights, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-4, msg=key)
    for key, value in found.named_buffers():
        torch.testing.assert_close(value, statistics[key], atol=1e-6, rtol=1e-4)


def test_perturbed_weights_count_in_bfloat16_too():
    """Autocast keeps copies of the weights, which must not outlive the perturbation."""
    e, data = replace(SMALL, precision="bfloat16"), dataset(SMALL)
    plain, _ = one_step(e, data)
    moved, _ = one_step(replace(e, objective=Objective(awp=0.5)), data)
    exact, _ = one_step(replace(SMALL, objective=Objective(awp=0.5)), data)
    start = build(e, data).head.weight
    steps = [(m.head.weight - start).flatten() for m in (plain, moved, exact)]
    assert (steps[1] - steps[2]).norm() < 0.2 * (steps[0] - steps[2]).norm()


def free():
    """A learner of Free AT, and what moves a network like its own."""
    data, e = dataset(SMALL), replace(SMALL, attack=fgsm(0.06), replays=3, lr=0.1)
    learner, other = (build(e, data).to(memory_format=torch.channels_last) for _ in range(2))
    learned = Learner(
        experiment=e,
        model=learner.train(),
        optimiser=torch.optim.SGD(learner.parameters(), 0.1, momentum=0.9),
        generators={"attack": torch.Generator()},
    )
    grey = torch.randint(64, 192, data.train.images.shape, dtype=torch.uint8)  # no attack clips it
    return Split(images=grey, labels=data.train.labels), learned, other.train()


def test_free_at_equals_its_authors_update():
    """As in free_adv_train (Shafahi et al., 2019): one backward pass moves weights and attack.

    Two batches, the second smaller: the attack goes on from the first images' place in the batch.
    """
    split, learner, model = free()
    eps, optimiser = 0.06, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    batches = [torch.arange(8), torch.arange(8, 12)]
    noise, wanted = torch.zeros(8, *split.images.shape[1:]), []
    for batch in batches:
        x, y, losses = to_float(split.images[batch]), split.labels[batch], []
        for _ in range(3):
            noise_batch = noise[: len(x)].clone().requires_grad_()
            loss = F.cross_entropy(model((x + noise_batch).clamp(0, 1)), y)
            optimiser.zero_grad()
            loss.backward()
            noise[: len(x)] += eps * noise_batch.grad.sign()
            noise.clamp_(-eps, eps)
            optimiser.step()
            losses.append(loss.detach())
        wanted.append(torch.stack(losses).mean())
    found = [train_step(learner, split.images[b], split.labels[b]) for b in batches]
    torch.testing.assert_close(found, wanted)
    for (key, value), w in zip(learner.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(value, w, atol=1e-5, rtol=1e-4, msg=key)
    torch.testing.assert_close(learner.delta, noise)


def test_free_at_stays_in_the_ball_and_in_the_pixel_range():
    split, learner, _ = free()
    x = torch.randint(256, split.images.shape, dtype=torch.uint8)
    train_step(learner, x, split.labels)
    assert learner.delta.abs().max() == pytest.approx(0.06)
    attacked = to_float(x) + learner.delta
    assert attacked.min() >= -1e-6  # a difference, rounded
    assert attacked.max() <= 1 + 1e-6


@pytest.mark.parametrize("loss", ["cross-entropy", "mart"])
def test_an_average_s_batchnorm_statistics_are_those_of_attacked_training_images(loss):
    """Those of the first layer, whose input is known; MART sees the images themselves, too."""
    e = replace(SMALL, batch_size=12, objective=Objective(loss=loss))
    data = dataset(e)
    model = build(e, data).to(memory_format=torch.channels_last).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = with_statistics(model, data.train, e, "float32")
    generator = torch.Generator().manual_seed(stream(e.seed, "batchnorm"))
    means, variances = [], []
    order = torch.randperm(24, generator=generator)
    for batch in order.split(12):
        x = to_float(data.train.images[batch]).contiguous(memory_format=torch.channels_last)
        adv = pgd(model, x, data.train.labels[batch], e.attack, generator)
        for images in (adv,) if loss == "cross-entropy" else (x, adv):
            maps = model.body[1](model.body[0](images))
            means.append(maps.mean((0, 2, 3)))
            variances.append(maps.var((0, 2, 3)))
    norm = found.body[2]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert norm.momentum == 0.1
    assert not found.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_compiled_gradients_follow_precision_and_mode(monkeypatch):
    """A network may be trained in another way than the first after it was compiled.

    Without compiling, which takes half a minute: what is kept, and under which key, is the same.
    """
    kept = []
    monkeypatch.setattr(torch, "compile", lambda f, **how: kept.append(f) or f)
    data = dataset(SMALL)
    x, y = to_float(data.train.images), data.train.labels
    plain = build(SMALL, data)
    fast = deepcopy(plain)
    compile_network(fast, len(x))
    for training, precision in ((True, "float32"), (True, "bfloat16"), (False, "float32")):
        losses = []
        for model in (plain, fast):
            learner = Learner(
                experiment=SMALL,
                model=model.train(training),
                optimiser=torch.optim.SGD(model.parameters(), 0.1),
                generators={},
                precision=precision,
            )
            losses.append(gradients(learner, x, x, y))
        assert torch.equal(*losses)
        for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
    assert len(kept) == 3  # on CUDA each is recorded, and mode and precision with it


@pytest.mark.parametrize(
    "term", ["push_cas", "push_placebo", "push_contrast", "virtual", "grad_align", "elle"]
)
def test_a_step_with_such_a_term_runs_as_it_is(term, quickly, monkeypatch):
    """Those of attribution ask which classes a batch has, which CUDA cannot record, the others
    are of other noise in each batch. Without an attack.
    """
    data = dataset(SMALL)
    e = replace(SMALL, attack=PGD(eps=0, step_size=0))
    if term == "virtual":
        e = replace(e, virtual=Virtual(kind="vat"))
    else:
        monkeypatch.setattr(Experiment, "check_terms", lambda e: None)  # of a ball that is a point
        e = replace(e, objective=Objective(**{term: 0.1}))
    expected, _ = one_step(e, data)
    found, _ = one_step(e, data, compiled=True)
    assert not quickly
    for a, b in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b)
