import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from ccnotes.attacks import PGD, pgd, random_point
from ccnotes.models import ConvNet

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


def test_paper_mode_attacks_the_model_as_it_trains_and_moves_its_statistics():
    torch.manual_seed(3)
    model, x, y = ConvNet(3, width=4).train(), torch.rand(8, 3, 8, 8), torch.arange(8) % 3
    before = model.body[2].running_mean.clone()
    kept = pgd(model, x, y, ATTACKS[0], torch.Generator().manual_seed(0))
    assert torch.equal(model.body[2].running_mean, before)
    moved = pgd(model, x, y, ATTACKS[0], torch.Generator().manual_seed(0), batchnorm="paper")
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
