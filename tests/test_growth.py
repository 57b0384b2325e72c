"""What analysis takes as it grows: blocks change no result, and nothing needs copies of all."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ccnotes import attribution, growth
from ccnotes.attribution import cas_draws, class_means, instance_similarity
from ccnotes.evaluation import neural_collapse

CLASSES, IMAGES, FEATURES = 4, 120, 32


def draws(features, labels, head):
    return cas_draws(features, labels, head, draws=60)


def collapse(features, labels, head):
    return torch.stack(neural_collapse(features, labels, len(head)))


def means(features, labels, head):
    return class_means(features, labels, len(head), torch.float64)


STEPS = [instance_similarity, draws, collapse, means]


@pytest.fixture
def sample():
    torch.manual_seed(0)
    labels = (torch.arange(IMAGES) % CLASSES)[torch.randperm(IMAGES)]
    return torch.randn(IMAGES, FEATURES).relu(), labels, torch.randn(CLASSES, FEATURES)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("block", [1, 7 * FEATURES, 1000])
def test_blocks_of_any_size_give_the_same_results(step, block, sample, monkeypatch):
    """To rounding of float32: products of few rows may add up in another order."""
    expected = step(*sample)
    monkeypatch.setattr(attribution, "BLOCK", block)
    torch.testing.assert_close(step(*sample), expected, atol=1e-6, rtol=1e-5)


class Sizes(TorchDispatchMode):
    """Notes how many numbers the largest new tensor has that a function makes."""

    def __init__(self, given):
        super().__init__()
        self.given, self.largest = {tensor.untyped_storage().data_ptr() for tensor in given}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.given:
                    self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("step", STEPS)
def test_no_step_makes_a_copy_of_all_features_or_of_all_draws(step, sample, monkeypatch):
    """By far: blocks have 10 images here. A class has 30, and 60 draws count them."""
    monkeypatch.setattr(attribution, "BLOCK", 10 * FEATURES)
    with Sizes(sample) as sizes:
        step(*sample)
    assert 0 < sizes.largest <= 60 * IMAGES / CLASSES < IMAGES * FEATURES


def test_a_row_says_what_its_process_held_and_took():
    few, many = growth.growth([(2, 10, 4), (2, 50_000, 1000)], ["attribution"], threads=1)
    assert (few["step"], few["classes"], few["images"], few["features"]) == (
        "attribution",
        2,
        10,
        4,
    )
    assert (many["images"], many["features"], many["threads"]) == (50_000, 1000, 1)
    for row in (few, many):
        assert row["peak_mib"] >= row["before_mib"] > 10
        assert 0 < row["seconds"] < math.inf
    # The features alone, less a tenth: memory that Python held free may take some of them.
    assert many["before_mib"] - few["before_mib"] > 0.9 * 50_000 * 1000 * 4 / 2**20


def test_each_step_of_each_size_has_a_process_of_its_own(monkeypatch):
    """Which would take the test seconds: a stand-in notes what it is asked to run."""
    made = []

    class Processes(ThreadPoolExecutor):
        def __init__(self, workers, context, max_tasks_per_child):
            super().__init__(workers)
            made.append((workers, context.get_start_method(), max_tasks_per_child))

    monkeypatch.setattr(growth, "ProcessPoolExecutor", Processes)
    monkeypatch.setattr(growth, "cost", lambda *case: {"case": case})
    sizes = [(2, 10, 4), (3, 10, 4)]
    found = growth.growth(sizes, ["measure", "attribution"], threads=3)
    cases = [(step, size, 3) for step in ("measure", "attribution") for size in sizes]
    assert found == [{"case": case} for case in cases]
    assert made == [(1, "forkserver", 1)]


def test_the_peak_counts_what_was_freed_again():
    before = growth.memory("VmHWM")
    held = growth.memory("VmRSS")
    block = torch.ones(int(before - held + 100) * 2**18)  # MiB of float32
    del block
    assert growth.memory("VmHWM") > before + 90


@pytest.mark.parametrize("step", growth.STEPS)
def test_each_step_runs(step):
    torch.manual_seed(0)
    growth.STEPS[step](torch.rand(8, 4), torch.arange(8) % 2, nn.Linear(4, 2))


def test_where_linux_is_not_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "STATUS", tmp_path / "status")
    with pytest.raises(RuntimeError, match="run this on Linux"):
        growth.growth([(2, 10, 4)], ["attribution"])
