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

from ccnotes.experiments import CIFAR10_FULL
from ccnotes.networks import PreActResNet
from tests.helpers import SMALL

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


@pytest.mark.parametrize("seconds", [600, 1e-9])
def test_it_leaves_state_and_weights_whether_or_not_the_time_was_enough(
    script, quickly, tmp_path, seconds
):
    script.trained(SMALL, tmp_path, torch.device("cpu"), seconds, commit="abc")
    state = torch.load(tmp_path / "small-state.pt", weights_only=True)
    assert state["sessions"][0]["commit"] == "abc"
    assert (state["epoch"] == 4) == (seconds == 600)
    last = load((tmp_path / "small-last.0").read_bytes())
    assert last["head.weight"].dtype == torch.float16
