import itertools
from types import SimpleNamespace

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


@pytest.mark.parametrize("name", ["meta", "nowhere", "cuda:99", ""])
def test_a_device_that_does_not_compute_is_refused(name):
    with pytest.raises(ValueError, match=rf"device='{name}' cannot be used here .* Leave it out"):
        devices.pick_device(name)


def test_the_processor_can_be_named():
    assert devices.pick_device("cpu") == CPU


@pytest.mark.parametrize("wanted", ["float16", "half", "Bfloat16", "float64", ""])
def test_a_precision_that_is_not_ours_is_refused_rather_than_passed_over(wanted):
    for ask in (
        devices.pick_precision,
        lambda precision, device: devices.autocast(device, precision),
    ):
        with pytest.raises(ValueError, match=rf"precision='{wanted}' is not one of 'float32'"):
            ask(wanted, CPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_matrices_multiply_in_the_precision_asked_for(precision):
    with devices.autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)


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


@pytest.fixture
def tf32():
    """Puts back what the process does in TF32."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.mark.parametrize(("products", "allowed"), [("highest", False), ("high", True)])
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_float32_on_cuda_is_no_tf32_unless_products_are_asked_to_be(tf32, products, allowed):
    """By torch's flags, without a card. The backward pass follows when the block has ended."""
    torch.backends.cudnn.allow_tf32 = not allowed
    torch.set_float32_matmul_precision(products)
    with devices.autocast(torch.device("cuda"), "float32"):
        assert torch.backends.cudnn.allow_tf32 == allowed
    assert torch.backends.cudnn.allow_tf32 == allowed
    assert torch.backends.cudnn.conv.fp32_precision == ("tf32" if allowed else "none")


def test_computing_on_the_processor_leaves_cuda_alone(tf32):
    torch.backends.cudnn.allow_tf32 = True
    with devices.autocast(CPU, "float32"):
        assert torch.backends.cudnn.allow_tf32
