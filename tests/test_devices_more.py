"""Choices that the machine at hand may not offer."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from ccnotes import devices


@pytest.mark.parametrize(
    ("cuda", "mps", "picked"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_is_cuda_then_mps_then_the_processor(monkeypatch, cuda, mps, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    def probe(size, device):
        return SimpleNamespace(device=torch.device(device), item=lambda: 1.0)

    monkeypatch.setattr(torch, "ones", probe)
    assert devices.pick_device().type == picked
    assert devices.pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_a_gpu_multiplies_in_bfloat16_from_compute_capability_8_on(
    monkeypatch, capability, precision
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.pick_precision("auto", torch.device("cuda")) == precision


@pytest.mark.parametrize(
    ("float32", "bfloat16", "faster"),
    [((9, 3, 5), (8, 2, 9), True), ((9, 2, 9), (8, 3, 5), False), ((2, 9, 9), (2, 3, 5), False)],
)
def test_bfloat16_is_faster_where_the_best_of_three_takes_less(
    monkeypatch, float32, bfloat16, faster
):
    """By a clock of the test's own: each time is read before and after its products."""
    ticks = itertools.accumulate(itertools.chain(*((0, took) for took in (*float32, *bfloat16))))
    monkeypatch.setattr(devices.time, "process_time", lambda: next(ticks))
    devices.bfloat16_is_faster.cache_clear()
    assert devices.bfloat16_is_faster() is faster
    devices.bfloat16_is_faster.cache_clear()  # what the machine has is found anew
