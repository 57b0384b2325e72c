"""The benchmark's steps, counts and arithmetic, on a clock of the test's own."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from ccnotes import benchmark
from ccnotes.attacks import PGD
from ccnotes.benchmark import bench, flops, matmul_peak, reference_step
from ccnotes.experiments import CIFAR10_FULL, EXPERIMENTS
from ccnotes.models import ConvNet, PreActResNet
from ccnotes.objectives import Objective
from ccnotes.steps import Learner, train_step

PIXELS = transforms.ConvertImageDtype(torch.float32)
CPU = torch.device("cpu")


class Double(nn.Module):
    """Float64 inside: in float32, rounding turns the sign of some pixel's gradient."""

    def __init__(self):
        super().__init__()
        self.model = PreActResNet(10, width=4).double()

    def forward(self, x):
        return self.model(x.double()).float()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)


def batch(size):
    return torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (size,))


def our_learner(model, optimiser, e):
    generators = {"attack": torch.Generator()}
    return Learner(experiment=e, model=model, optimiser=optimiser, generators=generators)


def test_our_step_learns_what_the_plain_one_does():
    """Where the two are told to do the same: no chance, and BatchNorm as in published code.

    Within 1e-7: pixels and logits are float32, and the two add them up in another order.
    """
    torch.manual_seed(0)
    model = Double()
    plain = deepcopy(model)
    model = model.to(memory_format=torch.channels_last).train()
    optimiser, plain_optimiser = sgd(model), sgd(plain)
    attack = PGD(steps=2, random_start=False)
    e = replace(CIFAR10_FULL, augment=False, batchnorm="train", attack=attack)
    learner = our_learner(model, optimiser, e)
    for _ in range(3):
        x, y = batch(16)
        loss = train_step(learner, x, y)
        expected = reference_step(plain, plain_optimiser, x, y, attack, PIXELS)
        torch.testing.assert_close(loss, expected)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-7, rtol=1e-7)


def test_operations_are_counted_as_by_hand():
    """Ours does without the weights' gradients in the attack; neither needs the last images'."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 32 * 32, 10))
    x, y = batch(2)
    conv, linear = (2 * 2 * n for n in (4 * 32 * 32 * 3 * 3 * 3, 4 * 32 * 32 * 10))
    attack = PGD(steps=5)
    e = replace(CIFAR10_FULL, augment=False, attack=attack)
    last = 2 * conv + 3 * linear
    learner = our_learner(model, sgd(model), e)
    ours = flops(lambda: train_step(learner, x, y))
    assert ours == 5 * 2 * (conv + linear) + last
    plain = flops(lambda: reference_step(model, sgd(model), x, y, attack, PIXELS))
    assert plain == 5 * 3 * (conv + linear) + last


@pytest.fixture
def clock(monkeypatch):
    """Our step takes 1, 3 and 2 seconds, and the same as it is, not compiled; the plain one 2, 9
    and 10; 10^11 products a second.

    Holds the work that it was asked to time.
    """
    timed = []
    ours, plain = iter([1.0, 1.0, 3.0, 3.0, 2.0, 2.0]), iter([2.0, 9.0, 10.0])

    def seconds(work, device):
        timed.append(work)
        if work.func is torch.matmul:
            return 2 * len(work.args[0]) ** 3 / 1e11
        return next(ours if work.func is train_step else plain)

    monkeypatch.setattr(benchmark, "seconds", seconds)
    return timed


def test_a_row_follows_from_times_and_counts(clock):
    (row,) = bench((16,), batch_size=4, steps=2, device="cpu", precision="float32", compile=False)
    assert (row["ours_ms"], row["reference_ms"]) == (2000, 9000)
    assert row["ratio"] == row["reference_ms"] / row["ours_ms"]
    assert (row["ratio_low"], row["ratio_high"]) == (2, 5)
    assert row["cifar10_epoch_s"] == 2 * 50_000 / 4
    with FlopCounterMode(display=False) as counter:
        PreActResNet(width=16)(torch.rand(4, 3, 32, 32))
    forward, first = counter.get_total_flops(), 2 * 4 * 16 * 32 * 32 * 3 * 3 * 3
    assert row["ours_gflop"] * 1e9 == pytest.approx(7 * forward - first)
    assert row["flop_ratio"] == pytest.approx((9 * forward - first) / (7 * forward - first))
    assert row["ours_gflops"] == pytest.approx(row["ours_gflop"] / 2)
    assert row["reference_gflops"] == pytest.approx(row["ours_gflop"] * row["flop_ratio"] / 9)
    assert row["peak_gflops"] == row["float32_peak_gflops"] == pytest.approx(100)
    for whose in ("ours", "reference"):
        assert row[f"{whose}_peak_share"] == pytest.approx(row[f"{whose}_gflops"] / 100)
    facts = {name: row[name] for name in ("width", "batch_size", "steps", "rounds", "compile")}
    assert facts == {"width": 16, "batch_size": 4, "steps": 2, "rounds": 3, "compile": False}
    assert (row["precision"], row["device"]) == ("float32", "cpu")
    assert row["hardware"] == benchmark.hardware(CPU)
    assert (row["threads"], row["torch"]) == (torch.get_num_threads(), torch.__version__)
    assert json.loads(json.dumps(row)) == row


def test_both_steps_do_the_same_task_in_alternation(clock):
    bench((16,), batch_size=4, steps=2, device="cpu", precision="float32", compile=False)
    steps = [work for work in clock if work.func is not torch.matmul]
    assert [work.func for work in steps] == 3 * [train_step, train_step, reference_step]
    (ours, *batch), plain = steps[0].args, steps[2].args
    settings = [o.param_groups[0] for o in (ours.optimiser, plain[1])]
    for name in ("lr", "momentum", "weight_decay"):
        assert settings[0][name] == settings[1][name] > 0
    assert torch.equal(batch[0], plain[2])
    assert torch.equal(batch[1], plain[3])
    assert ours.experiment.attack == plain[4] == PGD(steps=2)


def test_an_experiment_s_own_network_learns_from_images_like_its_own(clock):
    e = EXPERIMENTS["parts-at-distilled-0.9"]  # whose teacher has no part in it
    settings = {"steps": 2, "device": "cpu", "precision": "float32", "compile": False}
    (row,) = bench((8,), experiment=e, batch_size=4, **settings)
    assert (row["model"], row["width"], row["batch_size"]) == (e.model, 8, 4)
    steps = [work for work in clock if work.func is not torch.matmul]
    (ours, images, labels), plain = steps[0].args, steps[2].args
    assert isinstance(ours.model, ConvNet)
    assert ours.experiment.objective == Objective()
    assert type(ours.model) is type(plain[0])
    assert images.shape == (4, 3, 20, 20)
    assert ours.model.head.out_features == 6
    assert int(labels.max()) < 6
    assert plain[-1](images[0]).equal(images[0] / 255)  # no crops or flips, as in its training


def test_the_peak_is_that_of_the_best_size(monkeypatch):
    times = {512: 0.01, 1024: 0.02, 2048: 0.3}
    monkeypatch.setattr(benchmark, "seconds", lambda work, device: times[len(work.args[0])])
    assert matmul_peak(CPU, "bfloat16") == 2 * 1024**3 / 0.02


def test_a_benchmark_leaves_the_machine_as_it_found_it(monkeypatch):
    monkeypatch.setattr(benchmark, "LONG_ENOUGH", 1e-9)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 2)  # a number that no test before has left behind
    try:
        before = machine()
        rows = bench((16, 32), batch_size=2, steps=1, rounds=1, device="cpu", compile=False)
        assert [row["width"] for row in rows] == [16, 32]
        assert machine() == before
    finally:
        torch.set_num_threads(threads)


def machine():
    settings = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    return *settings, torch.get_rng_state().tolist()


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        bench((16,), batch_size=2, steps=1, rounds=0)


def test_the_plain_step_trains_in_train_mode_whatever_it_is_given():
    """So its BatchNorm counts each step of the attack and the one that learns."""
    torch.manual_seed(0)
    model = PreActResNet(10, width=4).eval()
    reference_step(model, sgd(model), *batch(4), PGD(steps=2), PIXELS)
    assert all(module.training for module in model.modules())
    counted = [n for name, n in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert counted
    assert all(number == 3 for number in counted)


def test_the_plain_step_convolves_as_torch_does_by_default_and_leaves_what_was_set(monkeypatch):
    """On CUDA by TF32, which our own step has forbidden just before; by torch's flag."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, seen = PreActResNet(10, width=4), []
    model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    reference_step(model, sgd(model), *batch(4), PGD(steps=2), PIXELS)
    assert seen == [True] * 3
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_is_that_of_products_in_the_precision_named(monkeypatch, precision):
    multiplied = []

    def seconds(work, device):
        multiplied.extend(matrix.dtype for matrix in work.args)
        return 1.0

    monkeypatch.setattr(benchmark, "seconds", seconds)
    matmul_peak(CPU, precision)
    assert set(multiplied) == {getattr(torch, precision)}
