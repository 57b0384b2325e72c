from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from jaxtyping import TypeCheckError
from torch import nn

from ccnotes.attacks import PGD, log_odds_against, pgd, random_point
from ccnotes.devices import compile_network
from ccnotes.models import ConvNet
from ccnotes.modes import evaluating

ATTACKS = [PGD(norm="linf", eps=0.1, step_size=0.04), PGD(norm="l2", eps=0.5, step_size=0.2)]


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(64, 3, 2, 2), torch.randint(3, (64,))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.norm)
def test_stays_in_the_ball_and_in_the_pixel_range(attack, linear, batch):
    x, y = batch
    adv = pgd(linear, x, y, attack)
    order = float("inf") if attack.norm == "linf" else 2
    assert (adv - x).flatten(1).norm(p=order, dim=1).max() <= attack.eps + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1


def test_one_full_step_on_a_two_class_linear_model_is_optimal():
    """For two classes the worst case is known: every pixel moves eps * sign(w_other - w_y)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    w = model[1].weight.detach()
    x, y = torch.full((8, 3, 2, 2), 0.5), torch.zeros(8, dtype=torch.long)
    adv = pgd(model, x, y, PGD(eps=0.1, step_size=0.1, steps=1, random_start=False))
    expected = x + 0.1 * (w[1] - w[0]).sign().view(3, 2, 2)
    torch.testing.assert_close(adv, expected)


def test_leaves_the_model_as_it_found_it(linear, batch):
    linear.train()
    before = {k: v.clone() for k, v in linear.state_dict().items()}
    pgd(linear, *batch, ATTACKS[0])
    assert linear.training
    assert all(p.grad is None for p in linear.parameters())
    assert all(torch.equal(v, before[k]) for k, v in linear.state_dict().items())


def test_same_generator_same_images(linear, batch):
    runs = [
        pgd(linear, *batch, ATTACKS[0], generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    ]
    assert torch.equal(*runs)


def test_result_does_not_depend_on_batch_mates(linear, batch):
    x, y = batch
    attack = PGD(norm="l2", eps=0.5, step_size=0.2, random_start=False)
    together = pgd(linear, x, y, attack)
    alone = pgd(linear, x[:1], y[:1], attack)
    torch.testing.assert_close(together[:1], alone)


def test_eps_in_255ths_is_caught():
    with pytest.raises(ValueError, match=r"Did you mean eps=8 / 255\?"):
        PGD(eps=8.0)


def test_shapes_are_checked(linear, batch):
    x, y = batch
    with pytest.raises(TypeCheckError):
        pgd(linear, x, y[:3], ATTACKS[0])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.norm)
def test_agrees_with_torchattacks_step_for_step(attack, batch):
    """Same model, same start, same steps: the same images to 1e-6, with and without a start."""
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    torch.manual_seed(2)
    model = ConvNet(3, width=4).eval()
    x, y = torch.rand(16, 3, 12, 12), batch[1][:16]
    theirs = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[attack.norm]
    settings = {"eps": attack.eps, "alpha": attack.step_size, "steps": attack.steps}
    plain = PGD(**vars(attack) | {"random_start": False})
    expected = theirs(model, **settings, random_start=False)(x, y)
    torch.testing.assert_close(pgd(model, x, y, plain), expected, atol=1e-6, rtol=0)
    assert (expected - x).abs().max() > 0.01


def test_the_attack_on_probabilities_agrees_with_torchattacks_step_for_step(batch):
    """The attack of TRADES, from the same start: the same images to 1e-6."""
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    torch.manual_seed(2)
    model = ConvNet(3, width=4).eval()
    x, y = torch.rand(16, 3, 12, 12), batch[1][:16]
    attack = ATTACKS[0]
    theirs = torchattacks.TPGD(model, eps=attack.eps, alpha=attack.step_size, steps=attack.steps)
    torch.manual_seed(5)
    expected = theirs(x, y)
    found = pgd(model, x, y, attack, torch.Generator().manual_seed(5), loss="kl")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (expected - x).abs().max() > 0.01


def test_starts_fill_the_l2_ball_uniformly():
    """In d dimensions the share of a uniform ball within radius r is r^d."""
    x = torch.zeros(4000, 1, 1, 2)
    radii = random_point(x, PGD(norm="l2", eps=0.5), torch.Generator().manual_seed(0))
    inside = (radii.flatten(1).norm(dim=1) < 0.25).float().mean().item()
    assert inside == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 4000) ** 0.5)


def test_in_train_mode_an_attack_moves_the_model_s_statistics():
    torch.manual_seed(3)
    model, x, y = ConvNet(3, width=4).train(), torch.rand(8, 3, 8, 8), torch.arange(8) % 3
    before = model.body[2].running_mean.clone()
    kept = pgd(model, x, y, ATTACKS[0], torch.Generator().manual_seed(0))
    assert torch.equal(model.body[2].running_mean, before)
    moved = pgd(model, x, y, ATTACKS[0], torch.Generator().manual_seed(0), batchnorm="train")
    assert model.training
    assert not torch.equal(model.body[2].running_mean, before)
    assert model.body[2].num_batches_tracked == ATTACKS[0].steps
    assert not torch.equal(kept, moved)


def test_attacks_work_where_gradients_are_off(linear, batch):
    with torch.no_grad():
        adv = pgd(linear, *batch, ATTACKS[0])
    assert (adv - batch[0]).abs().max() > 0.01
    assert not adv.requires_grad


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"eps": -0.1}, "eps=-0.1 must be a finite number >= 0"),
        ({"step_size": 2.0}, r"Did you mean step_size=2 / 255\?"),
        ({"steps": 0}, "steps=0 must be at least 1"),
    ],
)
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        PGD(**setting)


def test_a_frozen_batchnorm_survives_an_attack(batch):
    """In eval mode inside a network that trains; afterwards every part is as it was."""
    model = ConvNet(3, width=4).train()
    frozen = model.body[2].eval()
    modes = [module.training for module in model.modules()]
    pgd(model, *batch, ATTACKS[0])
    assert not frozen.training
    assert [module.training for module in model.modules()] == modes
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_width_give_the_same_attack(linear, batch, dtype):
    x, y = batch
    found, expected = (
        pgd(linear, x, labels, ATTACKS[0], torch.Generator().manual_seed(0))
        for labels in (y.to(dtype), y)
    )
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "label"),
    [
        (lambda y: y + 1, "3"),
        (lambda y: y - 1, "-1"),
        (lambda y: y - 100, "-100"),
        (lambda y: y / 1, "0.0"),
    ],
)
def test_labels_without_a_logit_are_named(linear, batch, change, label):
    """-100 would pass for a label to be ignored, and the image for a robust one."""
    with pytest.raises(ValueError, match=rf"label {label} is not one of the 3 classes"):
        pgd(linear, batch[0], change(batch[1]), ATTACKS[0])


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda x: 4 * x - 2, r"from -2 to 2 .*let the model normalise them"),
        (lambda x: 2 * x, r"from 0 to 2 .*let the model normalise them"),
        (lambda x: 255 * x, r"from 0 to 255 .*give images / 255"),
        (lambda x: 8 * x - 3, r"from -3 to 5 .*let the model normalise them"),
        (lambda x: x / 0, r"nan .*not pixels in \[0, 1\]"),
    ],
)
def test_images_that_are_no_pixels_are_refused(linear, batch, change, remedy):
    x, y = batch
    x[0, 0, 0] = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match=remedy):
        pgd(linear, change(x), y, ATTACKS[0])


def test_images_that_resizing_rounded_are_pixels_still(linear, batch):
    x, y = batch
    x[0, 0, 0] = torch.tensor([-5e-7, 1 + 5e-7])
    assert pgd(linear, x, y, ATTACKS[0]).max() <= 1


@pytest.mark.usefixtures("unchecked")
def test_bytes_are_no_pixels_in_0_to_1(linear, batch):
    with pytest.raises(ValueError, match=r"torch.uint8 are not pixels.* give images / 255"):
        pgd(linear, batch[0].byte(), batch[1], ATTACKS[0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("setting", [{"batchnorm": "paper"}, {"loss": "margin"}])
def test_unknown_ways_to_attack_are_named(linear, batch, setting):
    (name,) = setting
    with pytest.raises(ValueError, match=rf"{name}='{setting[name]}' is not one of '"):
        pgd(linear, *batch, ATTACKS[0], **setting)


class Given(nn.Module):
    """A linear network after something that is done with its input."""

    def __init__(self, prepare):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.prepare = nn.Linear(12, 3), prepare

    def forward(self, x):
        return self.linear(self.prepare(x).flatten(1))


@pytest.mark.parametrize("prepare", [lambda x: x.detach(), lambda x: (255 * x).byte() / 255])
def test_a_network_that_lets_no_gradient_through_is_refused(batch, prepare):
    for model in (Given(prepare), Given(prepare).requires_grad_(False)):
        with pytest.raises(ValueError, match="no gradient reaches the images"):
            pgd(model, *batch, ATTACKS[0])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.norm)
def test_images_that_an_attack_cannot_move_are_counted(batch, attack):
    """Where the first pixel is light the input is rounded, which has no gradient."""
    x, y = batch
    light = x[:, :1, :1, :1] > 0.5
    model = Given(lambda x: torch.where(light, (255 * x).round() / 255, x))
    stuck = []
    adv = pgd(model, x, y, replace(attack, random_start=False), stuck=stuck)
    assert torch.equal(stuck[0], light.flatten())
    assert torch.equal((adv == x).flatten(1).all(1), light.flatten())


def test_an_attack_works_in_inference_mode(linear, batch):
    x, y = batch
    for loss in ("cross-entropy", "kl"):
        expected = pgd(linear, x, y, ATTACKS[0], torch.Generator().manual_seed(0), loss=loss)
        with torch.inference_mode():
            images, labels = x + 0, y + 0
            generator = torch.Generator().manual_seed(0)
            found = pgd(linear, images, labels, ATTACKS[0], generator, loss=loss)
        assert torch.equal(found, expected)
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"made under torch.inference_mode"),
    ):
        pgd(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), x, y, ATTACKS[0])


def test_outputs_that_name_their_logits_can_be_attacked(linear, batch):
    class Named(nn.Module):
        def forward(self, x):
            return {"logits": linear(x)}

    found, expected = (
        pgd(model, *batch, ATTACKS[0], torch.Generator().manual_seed(0))
        for model in (Named(), linear)
    )
    assert torch.equal(found, expected)


def certain(margin):
    """A linear network of three classes on images of 48 pixels, sure of class 0 by ``margin``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    x = torch.rand(64, 3, 4, 4) * 0.8 + 0.1
    with torch.no_grad():
        logits = model(x)
        model[1].bias[0] += margin + (logits[:, 1:].logsumexp(1) - logits[:, 0]).max()
    return model, x, torch.zeros(64, dtype=torch.long)


@pytest.mark.parametrize("margin", [0.0, 16.0, 30.0, 80.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_s_direction_holds_however_certain_the_network_is(margin, norm):
    """In closed form: the mean of the rivals' rows, weighted by p, less the label's own row.

    From 16 nats on, 1 - p is below 1e-7, and float32's cross-entropy has noise for a gradient.
    """
    model, x, y = certain(margin)
    attack = PGD(norm=norm, eps=0.01, step_size=0.01, steps=1, random_start=False)
    found = ((pgd(model, x, y, attack) - x) / 0.01).flatten(1).double()
    logits, rows = model(x).detach().double(), model[1].weight.detach().double()
    wanted = logits[:, 1:].softmax(1) @ rows[1:] - rows[0]
    cosines = torch.nn.functional.cosine_similarity(found, wanted)
    if norm == "l2":
        # x + 0.01 d - x keeps some four digits of d in float32.
        assert cosines.min() > 0.99999
    else:
        clear = wanted.abs() > 1e-3 * wanted.abs().max()
        assert (found.sign() == wanted.sign())[clear].all()


def test_odds_against_a_label_give_back_the_cross_entropy():
    logits, labels = torch.randn(50, 7) * 5, torch.arange(50) % 7
    found = torch.nn.functional.softplus(log_odds_against(logits, labels))
    wanted = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(found, wanted)


def test_a_network_of_one_logit_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    with pytest.raises(ValueError, match=r"gives 1 logit, .* two classes or more"):
        pgd(model, torch.rand(2, 3, 2, 2), torch.zeros(2, dtype=torch.long), PGD())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("loss", ["cross-entropy", "kl"])
def test_an_attack_wants_one_label_per_image(linear, batch, loss):
    x, y = batch
    for wrong in (y[:1], y[:3], y[:, None], y[0]):
        with pytest.raises(ValueError, match=r"64 images and labels of shape .* one label per im"):
            pgd(linear, x, wrong, ATTACKS[0], loss=loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_refused(linear, batch, dtype):
    """In bfloat16 0.5 + 0.05 is 0.5508, outside of a ball of 0.05."""
    x, y = batch
    with pytest.raises(ValueError, match=rf"images of {dtype} .* leave its ball: give x.float\(\)"):
        pgd(linear.to(dtype), x.to(dtype), y, ATTACKS[0])


@pytest.mark.parametrize("name", ["eps", "step_size"])
def test_lengths_whose_squares_overflow_are_refused(name, linear, batch):
    with pytest.raises(ValueError, match=rf"{name}=1e\+20 is longer .* give at most 1e\+06"):
        PGD(norm="l2", **{name: 1e20})
    x, y = batch
    wide = replace(PGD(norm="l2", steps=2), **{name: 1e6})
    assert pgd(linear, x, y, wide).isfinite().all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"eps": "8/255"}, "eps='8/255' must be a number"),
        ({"random_start": "no"}, "random_start='no' must be True or False"),
    ],
)
def test_settings_of_other_types_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_are_those_of_python():
    found = PGD(eps=np.float32(0.5), step_size=np.float64(0.25), steps=np.int64(3))
    assert [type(value) for value in (found.eps, found.steps)] == [float, int]
    assert found == PGD(eps=0.5, step_size=0.25, steps=3)


@pytest.mark.parametrize("kind", ["cross-entropy", "kl"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.norm)
def test_a_compiled_attack_finds_what_the_plain_one_does(attack, kind, quickly):
    """On more images than are compiled for, and on fewer; the starts are the same."""
    torch.manual_seed(0)
    model, y = ConvNet(3, width=4).train(), torch.arange(7) % 3
    model(torch.rand(9, 3, 8, 8))  # for statistics of its own
    x = torch.rand(7, 3, 8, 8)
    fast = deepcopy(model)
    compile_network(fast, batch_size=4)
    for images in (slice(7), slice(2)):
        found, expected = (
            pgd(m, x[images], y[images], attack, torch.Generator().manual_seed(5), loss=kind)
            for m in (fast, model)
        )
        torch.testing.assert_close(found, expected)
    assert fast.training
    assert all(p.grad is None for p in fast.parameters())
    assert torch.equal(fast.body[2].running_mean, model.body[2].running_mean)


@pytest.mark.usefixtures("unchecked")
def test_what_is_compiled_serves_every_radius_and_number_of_steps(monkeypatch):
    """So that six radii, the attack of training and that of evaluation compile once."""
    model = ConvNet(3, width=4).eval()
    compile_network(model, batch_size=4)
    x, y, whole = torch.rand(4, 3, 8, 8), torch.arange(4) % 3, torch.compile
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", lambda f, **how: whole(f, backend=counter, **how))
    compiled = []
    for eps in (0.01, 0.02, 0.3):
        for steps in (1, 3):
            attack = PGD(eps=eps, step_size=eps / 4, steps=steps)
            adv = pgd(model, x, y, attack)
            assert 0 < (adv - x).abs().max() <= eps + 1e-6
            compiled.append(counter.frame_count)
    assert compiled == 6 * compiled[:1]


def test_a_copy_of_a_compiled_network_is_attacked_itself(quickly):
    """Not the network that it was copied from, whose code it would share."""
    torch.manual_seed(0)
    model, y = ConvNet(3, width=4).eval(), torch.arange(4) % 3
    compile_network(model, batch_size=4)
    x, attack = torch.rand(4, 3, 8, 8), PGD(eps=0.1, step_size=0.1, steps=1, random_start=False)
    pgd(model, x, y, attack)
    other = deepcopy(model)
    with torch.no_grad():
        other.head.weight.neg_()
    plain = ConvNet(3, width=4).eval()
    plain.load_state_dict(other.state_dict())
    assert torch.equal(pgd(other, x, y, attack), pgd(plain, x, y, attack))


class Detached(ConvNet):
    def forward(self, x):
        return super().forward(x.detach())


class Described(ConvNet):
    def forward(self, x):
        return {"logits": super().forward(x)}


def test_a_compiled_network_without_gradients_is_refused(quickly):
    """Compiled code gives zeros for them, so the images would be returned as they started."""
    model = Detached(3, width=4).eval()
    compile_network(model, batch_size=4)
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        pgd(model, torch.rand(4, 3, 8, 8), torch.arange(4) % 3, PGD())


def test_a_compiled_network_may_give_its_logits_by_name(quickly):
    torch.manual_seed(0)
    model, x, y = Described(3, width=4).eval(), torch.rand(4, 3, 8, 8), torch.arange(4) % 3
    attack = PGD(eps=0.1, step_size=0.1, steps=1, random_start=False)
    expected = pgd(model, x, y, attack)
    compile_network(model, batch_size=4)
    assert torch.equal(pgd(model, x, y, attack), expected)


def test_a_compiled_network_says_of_every_label_that_it_has_no_logit_for_it(quickly):
    """After the first call, too; and of no images it makes none."""
    model, attack = ConvNet(3, width=4).eval(), PGD(steps=1)
    compile_network(model, batch_size=4)
    x = torch.rand(4, 3, 8, 8)
    pgd(model, x, torch.arange(4) % 3, attack)
    for wrong in (7, -1):
        with pytest.raises(ValueError, match=f"label.*{wrong}|{wrong}.*label"):
            pgd(model, x, torch.full((4,), wrong), attack)
    assert pgd(model, x[:0], torch.arange(0), attack).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("size", [0, -1])
def test_a_network_is_compiled_for_one_image_or_more(size):
    with pytest.raises(ValueError, match=f"batch_size={size} must be at least 1"):
        compile_network(ConvNet(3, width=4), size)
