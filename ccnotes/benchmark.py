"""How fast the training step is, beside a plain one and beside what the machine can multiply."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from tqdm.auto import tqdm

from ccnotes.attacks import PGD
from ccnotes.devices import compile_network, hardware, pick_device, pick_precision
from ccnotes.experiments import CIFAR10_FULL, Experiment
from ccnotes.networks import network_called
from ccnotes.objectives import Objective
from ccnotes.setup import sgd
from ccnotes.steps import Learner, train_step

CIFAR10_IMAGES = 50_000
LONG_ENOUGH = 0.05  # seconds of one product, beside which starting it is nothing
IN_FLOATS = transforms.ConvertImageDtype(torch.float32)
PUBLISHED_AUGMENTATION = transforms.Compose(
    [
        transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
        IN_FLOATS,
    ]
)


def bench(
    widths: Sequence[int] = (16, 64),
    *,
    experiment: Experiment = CIFAR10_FULL,
    batch_size: int = 128,
    steps: int = 10,
    rounds: int = 3,
    device: str | None = None,
    precision: str = "auto",
    compile: bool = True,
) -> list[dict[str, Any]]:
    """One dictionary for each width of a network: our training step against a plain one.

    The network is that of ``experiment``, by default PreActResNet-18. A step learns from one batch
    of made-up images, as large as the experiment's, under PGD of ``steps`` steps, with plain
    cross-entropy whatever the experiment's loss. Every
    round times :func:`ccnotes.steps.train_step`, :func:`reference_step` and the products of
    :func:`matmul_peak` in turn, so that whatever else the machine does meets them alike; figures
    are medians over rounds. ``ours_ms`` and ``reference_ms`` are milliseconds a step, ``ratio``
    is their quotient, ``ratio_low`` and ``ratio_high`` its extremes over rounds, ``flop_ratio``
    the quotient of the operations that the two steps are made of. A ``gflop`` is 10^9 operations
    of convolutions and matrix products, ``gflops`` that many a second; ``peak_share`` sets what
    a step achieves against the matrix products, ours in our precision, the reference's in
    float32. (On CUDA the plain step convolves float32 as TF32, which is torch's default, so that
    its share may exceed 1.)
    ``cifar10_epoch_s`` is the time of our steps for 50,000 images.

    >>> row = bench([1], batch_size=2, steps=1, rounds=1, compile=False)[0]
    >>> row["width"], bool(row["ratio"] > 0)
    (1, True)
    """
    if rounds < 1 or not widths:
        raise ValueError(
            f"rounds={rounds} must be at least 1, and widths={widths} one or more, such as 16 64."
        )
    where = pick_device(device)
    precision = pick_precision(precision, where)
    attack = PGD(steps=steps)
    e = replace(experiment, batch_size=batch_size, attack=attack, objective=Objective())
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(0)
        return [
            measure(replace(e, width=width), rounds, where, precision, compile) for width in widths
        ]


def measure(
    e: Experiment, rounds: int, device: torch.device, precision: str, compile: bool
) -> dict[str, Any]:
    """The row of :func:`bench` for the experiment's width, batch size and attack."""
    size, classes = (e.drawn.image_size, e.drawn.num_classes) if e.drawn else (32, 10)
    images = torch.randint(256, (e.batch_size, 3, size, size), dtype=torch.uint8)
    labels = torch.randint(classes, (e.batch_size,))
    plain = network_called(e.model, classes, e.width, image_size=size).to(device)
    model = deepcopy(plain).to(memory_format=torch.channels_last)
    usual = torch.optim.SGD(
        plain.parameters(), e.lr, momentum=e.momentum, weight_decay=e.weight_decay
    )
    batch = images.to(device), labels.to(device)

    def our_step(model: nn.Module) -> Callable[[], Tensor]:
        generators = {use: torch.Generator(device) for use in ("augmentation", "attack")}
        learner = Learner(
            experiment=e,
            model=model,
            optimiser=sgd(model, e),
            generators=generators,
            precision=precision,
        )
        return partial(train_step, learner, *batch)

    ours = our_step(model)
    reference = partial(
        reference_step,
        plain,
        usual,
        images,
        labels,
        e.attack,
        PUBLISHED_AUGMENTATION if e.augment else IN_FLOATS,
    )
    ours_flop, reference_flop = flops(ours), flops(reference)  # warms both up, too
    eager, compile_s = ours, 0.0
    if compile:
        fast = deepcopy(model)
        compile_network(fast, e.batch_size)
        ours = our_step(fast)
        compile_s = seconds(ours, device)
        ours()
    found = pd.DataFrame(
        {
            "ours": seconds(ours, device),
            "eager": seconds(eager, device),
            "reference": seconds(reference, device),
            **{name: matmul_peak(device, name) for name in {precision, "float32"}},
        }
        for _ in tqdm(range(rounds), desc=f"width {e.width}", unit="round")
    )
    median, ratio = found.median(), found.reference / found.ours
    ours_rate, reference_rate = ours_flop / median.ours, reference_flop / median.reference
    return {
        "model": e.model,
        "width": e.width,
        "batch_size": e.batch_size,
        "steps": e.attack.steps,
        "rounds": rounds,
        "ours_ms": 1e3 * median.ours,
        "eager_ms": 1e3 * median.eager,
        "compile_s": compile_s,
        "reference_ms": 1e3 * median.reference,
        "ratio": median.reference / median.ours,
        "ratio_low": ratio.min(),
        "ratio_high": ratio.max(),
        "flop_ratio": reference_flop / ours_flop,
        "ours_gflop": ours_flop / 1e9,
        "ours_gflops": ours_rate / 1e9,
        "reference_gflops": reference_rate / 1e9,
        "peak_gflops": median[precision] / 1e9,
        "float32_peak_gflops": median["float32"] / 1e9,
        "ours_peak_share": ours_rate / median[precision],
        "reference_peak_share": reference_rate / median["float32"],
        "cifar10_epoch_s": median.ours * CIFAR10_IMAGES / e.batch_size,
        "precision": precision,
        "compile": compile,
        "device": str(device),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def reference_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: UInt8[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    attack: PGD,
    transform: Callable[[Tensor], Tensor],
) -> Float[Tensor, ""]:
    """The step as published code has it (for example that of Rice et al., 2020): plain and slow.

    Float32, images prepared one by one on the processor, the model in train mode throughout, and
    an l-infinity attack whose ``backward`` fills the weights' gradients, too, for nothing. On CUDA
    it convolves in TF32, as such code does without knowing. Returns the mean loss, in nats.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> images, labels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> to_float = transforms.ConvertImageDtype(torch.float32)
    >>> reference_step(model, optimiser, images, labels, PGD(steps=1), to_float).shape
    torch.Size([])
    """
    device = next(model.parameters()).device
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    x = torch.stack([transform(image) for image in images]).to(device)
    y = labels.to(device)
    model.train()
    delta = torch.zeros_like(x)
    if attack.random_start:
        delta.uniform_(-attack.eps, attack.eps)
    delta = (x + delta).clamp(0, 1) - x
    for _ in range(attack.steps):
        delta.requires_grad_()
        F.cross_entropy(model(x + delta), y).backward()
        assert delta.grad is not None
        delta = delta.detach() + attack.step_size * delta.grad.sign()
        delta = (x + delta.clamp(-attack.eps, attack.eps)).clamp(0, 1) - x
    optimiser.zero_grad()
    loss = F.cross_entropy(model(x + delta), y)
    loss.backward()
    optimiser.step()
    torch.backends.cudnn.allow_tf32 = tf32
    return loss.detach()


def flops(step: Callable[[], Any]) -> int:
    """Operations of the convolutions and matrix products in one call, a multiply-add being two.

    >>> flops(lambda: torch.ones(2, 3) @ torch.ones(3, 4))  # 2 * 2 * 3 * 4
    48
    """
    with FlopCounterMode(display=False) as counter:
        counter.mod_tracker.__exit__()  # the count by module cannot bear autograd.grad (#131753)
        step()
    return int(counter.get_total_flops())


def matmul_peak(device: torch.device, precision: str) -> float:
    """Operations a second of the fastest product of two square matrices, of growing size."""
    best, took, size = 0.0, 0.0, 256
    while took < LONG_ENOUGH:
        size *= 2
        a = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
        took = min(seconds(partial(torch.matmul, a, a), device) for _ in range(3))
        best = max(best, 2 * size**3 / took)
    return best


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The time of one call, from an idle device to an idle device.

    >>> seconds(lambda: torch.ones(8, 8) @ torch.ones(8, 8), torch.device("cpu")) > 0
    True
    """
    wait = getattr(torch, device.type).synchronize
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun
