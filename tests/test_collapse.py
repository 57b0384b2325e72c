"""What is told of runs on one step, and the loss around images."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ccnotes import collapse
from ccnotes.attacks import PGD, pgd
from ccnotes.data import to_float
from ccnotes.experiments import EXPERIMENTS, dataset
from ccnotes.monitor import part
from ccnotes.onestep import fgsm
from ccnotes.records import run
from tests.helpers import SMALL

ONE_STEP = replace(SMALL, name="one", attack=fgsm(0.06), eval_every=1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    )


def test_the_loss_along_the_perturbation_is_that_of_fgsm_of_each_length(network):
    images, labels = torch.randint(256, (9, 1, 4, 4)).byte(), torch.arange(9) % 3
    found = collapse.loss_surface(network, images, labels, 0.2, along=(0, 0.5, 1), across=(0,))
    x = to_float(images)
    for place, share in enumerate((0, 0.5, 1)):
        adv = pgd(network.eval(), x, labels, fgsm(0.2 * share))
        torch.testing.assert_close(found[0, place], F.cross_entropy(network(adv), labels))


def test_across_it_each_pixel_goes_the_whole_radius_up_or_down():
    """Of an image of one pixel: the two losses are those of its two neighbours, in either order."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    images, labels = torch.tensor([[[[100]]]]).byte(), torch.tensor([0])
    found = collapse.loss_surface(model, images, labels, 0.1, along=(0,), across=(-1, 1))[:, 0]
    x = to_float(images)
    wanted = torch.stack([F.cross_entropy(model(x + d), labels) for d in (-0.1, 0.1)])
    torch.testing.assert_close(found.sort().values, wanted.sort().values)
    assert found[0] != found[1]


def test_the_surface_leaves_the_network_as_it_found_it_and_points_stay_images(network):
    images, labels = torch.randint(2, (6, 1, 4, 4)).mul(255).byte(), torch.arange(6) % 3
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    collapse.loss_surface(network, images, labels, 0.5)
    assert network.training
    assert all(torch.equal(value, before[k]) for k, value in network.state_dict().items())
    assert min(x.min() for x in seen) >= 0
    assert max(x.max() for x in seen) <= 1


@pytest.mark.usefixtures("no_published")
def test_a_run_trained_once_more_for_its_surfaces_ends_in_the_same_network():
    record = run(ONE_STEP)
    told = collapse.surfaces(record, images=12)
    assert len(told["loss"]) == ONE_STEP.epochs + 1
    test = part(dataset(ONE_STEP).test, 12)
    for which, place in (("last", -1), ("best", int(record.best["epoch"]))):
        found = collapse.loss_surface(record.model(which), test.images, test.labels, 0.06)
        torch.testing.assert_close(torch.tensor(told["loss"][place]), found, atol=6e-5, rtol=1e-4)


@pytest.mark.usefixtures("no_published")
def test_a_longer_attack_is_run_on_what_the_run_s_own_left(monkeypatch):
    """Half of these are recognised still, says the stand-in."""
    record, asked = run(ONE_STEP), []

    def half(model, split, attack, e, precision):
        asked.append((len(split), attack, precision))
        return 0.5

    monkeypatch.setattr(collapse, "accuracy", half)
    told = collapse.outcome_of(record)
    for which, (count, attack, precision) in zip(("best", "last"), asked, strict=True):
        share = getattr(record, which)["robust_accuracy"]
        assert count == round(30 * share)
        assert told[which]["longer_accuracy"] == pytest.approx(share / 2, abs=1e-4)
        assert (attack.steps, attack.eps, precision) == (50, 0.06, "float32")
        assert told[which]["inside"] == pytest.approx(record.by_group(which)["inside"], abs=1e-4)
    assert told["curves"]["epoch"] == [1, 2, 3, 4]
    assert told["curves"]["inside"] == pytest.approx(record.table.inside.tolist(), abs=1e-4)
    taken = record.arrays["test_robust_confusion"][-1]  # of six classes in pairs
    pairs = sum(taken[i : i + 2, i : i + 2].sum() for i in (0, 2, 4)) / taken.sum()
    assert told["curves"]["group_accuracy"][-1] == pytest.approx(pairs.item(), abs=1e-4)
    wanted = record.table.test_fgsm_accuracy
    assert told["curves"]["test_fgsm_accuracy"] == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.usefixtures("no_published")
def test_of_a_run_without_an_attack_nothing_is_attacked_for_longer():
    e = replace(SMALL, name="bare", attack=PGD(eps=0), eval_eps=0.05, epochs=1, eval_every=1)
    assert "longer_accuracy" not in collapse.outcome_of(run(e))["last"]


@pytest.mark.usefixtures("no_published")
def test_the_command_tells_of_every_run_a_line_each(command):
    folders = [run(replace(ONE_STEP, seed=seed)).folder for seed in (0, 1)]
    printed = command("one-step", *folders)
    assert [row["seed"] for row in json.loads(printed)] == [0, 1]
    assert len(printed.strip().splitlines()) == 4  # and the brackets
    (surface,) = json.loads(command("one-step", folders[0], "--surface"))
    assert (surface["experiment"], surface["eps"]) == ("one", 0.06)


def test_a_collapse_is_where_one_step_is_fooled_twice_as_often_as_many():
    """From then on: what it recovers from is none."""
    curves = {"epoch": [2, 4, 6, 8], "test_robust_accuracy": [0.1, 0.15, 0.1, 0.1]}
    for one, epoch in (
        ([0.25, 0.3, 0.21, 0.25], 6),
        ([0.25, 0.31, 0.21, 0.25], 2),
        ([0.25, 0.3, 0.21, 0.2], None),
    ):
        assert collapse.fell({"curves": curves | {"test_fgsm_accuracy": one}}) == epoch


def test_what_is_published_is_of_named_experiments_each_seed_once():
    runs = [(run["experiment"], run["seed"]) for run in collapse.outcomes()]
    assert len(set(runs)) == len(runs)
    assert {name for name, _ in runs} <= EXPERIMENTS.keys()
    (told,) = json.loads(collapse.SURFACES.read_text())
    assert len(told["loss"]) == EXPERIMENTS[told["experiment"]].epochs + 1


def test_ends_are_of_the_last_network_and_of_its_last_evaluation(monkeypatch):
    def told(name, seed, one, many):
        curves = {"epoch": [1, 2], "test_fgsm_accuracy": one, "test_robust_accuracy": many}
        return {"experiment": name, "seed": seed, "curves": curves, "last": {"robust_cas": 7.0}}

    runs = [told("a", 3, [0.1, 0.6], [0.1, 0.2]), told("b", 3, [0, 0], [0, 0])]
    monkeypatch.setattr(collapse, "outcomes", lambda: runs)
    (row,) = collapse.ends(["a", "missing"]).to_dict("records")
    assert row == {"experiment": "a", "seed": 3, "fooled": pytest.approx(0.4), "robust_cas": 7.0}
    assert len(collapse.ends(["missing"])) == 0
    assert collapse.curves(["a"]).test_fgsm_accuracy.tolist() == [0.1, 0.6]
