"""Our attack beside other libraries': the same task for each, and what rows say of it."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from ccnotes import peers
from ccnotes.attacks import PGD
from ccnotes.peers import attacks_page, bench_attacks, ours, same_loss, seeded
from ccnotes.records import PUBLISHED

LIBRARIES = {
    "torchattacks": peers.torchattacks,
    "foolbox": peers.foolbox,
    "art": peers.art,
}


def build(name, *task):
    """The library's attack; the test is skipped where it is not installed."""
    if name == "ours":
        return ours(*task, precision="float32", compile=False)[name]
    pytest.importorskip(name, exc_type=ImportError)
    return LIBRARIES[name](*task)


@pytest.fixture
def linear():
    """Two classes whose worst case is known: every pixel goes by the sign of the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).eval()
    model[1].weight.data[2:] = 0
    model[1].bias.data[2:] = -100.0  # the other eight count for nothing
    x = torch.rand(6, 3, 2, 2)
    return model, x, torch.arange(6) % 2


@pytest.mark.parametrize("name", ["ours", *LIBRARIES])
def test_each_attacker_ends_at_the_known_worst_case(name, linear):
    """5 steps of a half of the radius reach the far side from any start; to float32 rounding."""
    model, x, y = linear
    weight = model[1].weight.detach()
    away = torch.where(y == 0, 1, -1)[:, None] * (weight[1] - weight[0]).sign()
    found = build(name, model, x, y, PGD(eps=0.1, step_size=0.05, steps=5))()
    expected = (x + 0.1 * away.view_as(x)).clamp(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ours", *LIBRARIES])
def test_each_attacker_starts_at_random_and_steps_as_far_as_it_is_told(name, linear):
    """With one step of a hundredth of the radius, images stay near where they started.

    Uniform within 1.01 times the radius: 0.1 / sqrt(3) is the standard deviation; of 72 pixels,
    the standard error of that is 5 % or so, so 25 % off is five of them.
    """
    model, x, y = linear
    x = x / 2 + 0.25  # so that no pixel is cut off
    attacker = build(name, model, x, y, PGD(eps=0.1, step_size=0.001, steps=1))
    moved = attacker() - x
    assert moved.abs().max() <= 0.1 + 1e-6
    assert moved.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.25)
    assert not torch.equal(attacker() - x, moved)


@pytest.fixture
def clock(monkeypatch):
    """Ours takes 1, 3 and 2 seconds, Foolbox 10, 30 and 24; 7 at first. Holds who was timed.

    Foolbox is made of our attack, and the other libraries are missing.
    """
    timed = []
    times = {"ours": iter([1.0, 3.0, 2.0]), "foolbox": iter([10.0, 30.0, 24.0])}

    def seconds(work, device):
        work()
        if work.func.__name__ != "keep":
            return 7.0
        timed.append(work.args[0])
        return next(times[work.args[0]])

    def missing(*task):
        raise ImportError("No module named 'it'")

    monkeypatch.setattr(peers, "seconds", seconds)
    monkeypatch.setattr(peers, "version", lambda package: f"that of {package}")
    monkeypatch.setattr(peers, "foolbox", lambda *task: ours(*task, "float32", False)["ours"])
    monkeypatch.setattr(peers, "torchattacks", missing)
    monkeypatch.setattr(peers, "art", missing)
    return timed


def test_rows_are_medians_of_times_in_alternation_and_missing_libraries_have_a_word(clock):
    settings = {"batch_size": 8, "steps": 2, "device": "cpu", "precision": "float32"}
    rows = bench_attacks([1], **settings, compile=False)
    assert clock == 3 * ["ours", "foolbox"]
    us, them, *absent = rows
    assert (us["attacker"], us["ms"], us["ratio"], us["ratio_best"]) == ("ours", 2000, 1, 1)
    assert (them["attacker"], them["ms"], them["ratio"]) == ("foolbox", 24_000, 12)
    assert (us["version"], them["version"]) == ("that of ccnotes", "that of foolbox")
    assert us["first_s"] == them["first_s"] == 7
    for row in (us, them):
        assert row["loss"] > row["clean_loss"] > 0
        assert row["skipped"] is None
    assert [row["attacker"] for row in absent] == ["torchattacks", "art"]
    for row in absent:
        assert row["skipped"].startswith("not installed (No module named 'it'): pip install")
        assert row["width"] == 1
        assert "ms" not in row
    assert json.loads(json.dumps(rows)) == rows


def test_ours_has_a_row_for_each_precision_and_for_compiled_code(monkeypatch, linear):
    """Compiled is a stand-in here, as compiling takes half a minute; the model stays as it is."""
    model, x, y = linear
    compiled = []
    monkeypatch.setattr(peers, "compile_network", lambda *task: compiled.append(task))
    attackers = ours(model, x, y, PGD(steps=1), precision="bfloat16", compile=True)
    names = ["ours", "ours, compiled", "ours, bfloat16", "ours, compiled, bfloat16"]
    assert list(attackers) == names
    ((network, size),) = compiled
    assert size == len(x)
    used = []
    for module in (model, network):
        module.register_forward_hook(lambda m, _, logits: used.append((m, logits.dtype)))
    for attacker in attackers.values():
        attacker()
    precisions = torch.float32, torch.bfloat16
    assert used == [(m, dtype) for dtype in precisions for m in (model, network)]
    assert network is not model


def test_losses_that_differ_stop_the_benchmark(monkeypatch):
    """A library that makes half the steps."""

    def lazy(model, x, y, attack):
        return ours(model, x, y, PGD(steps=1), "float32", False)["ours"]

    monkeypatch.setattr(peers, "foolbox", lazy)
    monkeypatch.setattr(peers, "version", lambda package: "1")
    with pytest.raises(RuntimeError, match=r"foolbox reaches a mean loss of .* not the same"):
        bench_attacks([4], batch_size=64, rounds=1, compile=False, precision="float32")


@pytest.mark.parametrize("loss", [4.9, 5.1, float("nan"), 2.0])
def test_a_loss_beside_ours_is_refused_on_either_side(loss):
    clean = torch.full((128,), 2.0)
    with pytest.raises(RuntimeError, match=f"theirs reaches a mean loss of {loss:.4g} from 2 "):
        same_loss({"ours": clean + 3, "theirs": clean - 2 + loss}, clean)


def test_losses_apart_by_chance_pass_and_those_apart_by_rule_do_not():
    """Differences of 1 around 0.2 with 100 images: four standard errors are 0.4; around 0.6."""
    clean, chance = torch.zeros(100), torch.tensor([1.0, -1.0]).repeat(50)
    same_loss({"ours": clean + 3, "theirs": clean + 3.2 + chance}, clean)
    with pytest.raises(RuntimeError, match="not the same attack"):
        same_loss({"ours": clean + 3, "theirs": clean + 3.6 + chance}, clean)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="batch_size=7 must be at least 8"):
        bench_attacks([1], batch_size=7)


def test_random_numbers_are_seeded_for_all_libraries_and_put_back():
    """The block alone, as what checks annotations in tests draws from Python's own numbers."""

    def drawn():
        return torch.rand(1).item(), np.random.rand(), random.random()

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    within = []
    for _ in range(2):
        with seeded(torch.device("cpu")):
            within.append(drawn())
    assert within[0] == within[1] != expected
    assert drawn() == expected


@pytest.mark.parametrize(("widths", "rounds"), [([], 1), ([1], 0)])
def test_nothing_to_do_is_refused(widths, rounds):
    with pytest.raises(ValueError, match="one or more, such as 16 64"):
        bench_attacks(widths, rounds=rounds)


def test_the_published_comparison_has_every_library_and_us_ahead_of_each():
    """Of what the chapter and the README show."""
    rows = json.loads((PUBLISHED / "attacks.json").read_text())
    assert {row["attacker"] for row in rows} >= {"ours", *LIBRARIES}
    assert not any(row["skipped"] for row in rows)
    assert all(row["ratio_best"] > 1 for row in rows if row["attacker"] in LIBRARIES)
    assert len({row["commit"] for row in rows}) == 1
    page = attacks_page(rows)
    for row in rows:
        assert f"{row['ms']:,.0f} ms ({row['ratio_best']:.1f})" in page
