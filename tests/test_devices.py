import pytest
import torch

from ccnotes import devices

CPU = torch.device("cpu")


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("faster", [True, False])
def test_auto_takes_bfloat16_where_the_processor_has_it_and_gains_by_it(monkeypatch, has, faster):
    """Some processors multiply it more slowly than float32."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(devices, "bfloat16_is_faster", lambda: faster)
    assert devices.pick_precision("auto", CPU) == ("bfloat16" if has and faster else "float32")


def test_a_given_precision_is_not_questioned(monkeypatch):
    monkeypatch.setattr(devices, "bfloat16_is_faster", lambda: pytest.fail("asked"))
    assert devices.pick_precision("bfloat16", CPU) == "bfloat16"


def test_the_processor_is_asked_once():
    """So that no two runs of one process differ in precision."""
    devices.bfloat16_is_faster.cache_clear()
    first = devices.bfloat16_is_faster()
    assert isinstance(first, bool)
    assert devices.bfloat16_is_faster() is first
    assert devices.bfloat16_is_faster.cache_info().hits == 1
