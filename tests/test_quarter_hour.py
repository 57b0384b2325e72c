"""`.ci/quarter-hour`, which runs by hand on a lent card and must not fail there."""

import functools
import importlib.machinery
import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from ccnotes.experiments import CIFAR10_FULL, named
from ccnotes.networks import PreActResNet
from ccnotes.records import load_model
from tests.helpers import BEST, SMALL, needs_weights

SCRIPT = Path(__file__).parents[1] / ".ci" / "quarter-hour"
# Else what checks the annotations is traced, too, which takes most of the time.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    loader = importlib.machinery.SourceFileLoader("quarter_hour", str(SCRIPT))
    spec = importlib.util.spec_from_loader("quarter_hour", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.setattr(module, "CACHE", tmp_path)
    return module


def test_its_steps_agree_and_are_timed(script, quickly, monkeypatch, capsys):
    """On one block of each kind, and timed on a small network: compiling is most of the work."""
    few = functools.partial(PreActResNet, blocks=(1, 1, 1, 1))
    monkeypatch.setitem(script.NETWORKS, "preactresnet", few)
    script.agree(torch.device("cpu"), width=1)
    assert "NOT THE SAME" not in capsys.readouterr().out
    e = replace(CIFAR10_FULL, model="convnet", width=1, batch_size=4)
    assert script.epoch_seconds(e, torch.device("cpu"), images=40) > script.EVALUATION


@needs_weights
def test_it_learns_from_the_networks_that_the_repository_gives_away(script):
    e = named("cifar10-full-at-distilled-0.9")
    (teacher,), x = script.teachers(e).values(), torch.rand(2, 3, 32, 32)
    assert torch.equal(teacher(x), load_model(BEST)(x))
    learner = script.made(e, torch.nn.Linear(1, 1), torch.device("cpu"), "float32")
    assert [weight for _, weight in learner.teachers] == [0.9]


@pytest.mark.parametrize("seconds", [600, 1e-9])
def test_it_leaves_state_and_weights_whether_or_not_the_time_was_enough(
    script, quickly, monkeypatch, tmp_path, seconds
):
    monkeypatch.setenv("CCNOTES_COMMIT", "abc")
    script.trained(SMALL, tmp_path, torch.device("cpu"), seconds)
    state = torch.load(tmp_path / "small-state.pt", weights_only=True)
    assert state["sessions"][0]["commit"] == "abc"
    assert (state["epoch"] == 4) == (seconds == 600)
    last = load((tmp_path / "small-last.0").read_bytes())
    assert last["head.weight"].dtype == torch.float16
