"""Where to compute and how precisely."""

import os
import platform
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccnotes.checks import check_choice, whole

PRECISIONS = ("float32", "bfloat16")


def pick_device(name: str | None = None) -> torch.device:
    """The device called ``name``, or the fastest one that there is.

    Raises ValueError for a device that does not compute here, such as "meta".

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name is None:
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        probe = torch.ones(1, device=name)
        probe.item()  # "meta" has tensors, but no numbers
        return probe.device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={name!r} cannot be used here ({str(error).splitlines()[0]}). "
            f"Leave it out to use the fastest device that there is."
        ) from error


def pick_precision(wanted: str, device: torch.device) -> str:
    """``wanted``, or for "auto" bfloat16 where the hardware gains by it, else float32.

    Raises ValueError for any other precision.

    >>> pick_precision("bfloat16", torch.device("cpu"))
    'bfloat16'
    """
    if wanted != "auto":
        check_choice("precision", wanted, PRECISIONS)
        return wanted
    if device.type == "cuda":
        gains = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        gains = device.type == "cpu" and probe() and bfloat16_is_faster()
    return "bfloat16" if gains else "float32"


@cache
def bfloat16_is_faster() -> bool:
    """Whether matrices multiply in less processor time in bfloat16; some have it, and slower.

    >>> bfloat16_is_faster() in (True, False)
    True
    """
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, took = torch.ones(1024, 1024, dtype=dtype), []
        for _ in range(3):  # the best of them, as the first warms up and others may be disturbed
            begun = time.process_time()  # on a busy machine the clock on the wall says little
            for _ in range(4):  # where that clock ticks slowly one product is too short
                a @ a
            took.append(time.process_time() - begun)
        best[dtype] = min(took)
    return best[torch.bfloat16] < best[torch.float32]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Multiply in ``precision``. One block an optimiser step: it keeps copies of the weights.

    From then on float32 on CUDA is float32; see :func:`no_tf32`. Raises ValueError for a precision
    other than "float32" and "bfloat16".

    >>> with autocast(torch.device("cpu"), "bfloat16"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    check_choice("precision", precision, PRECISIONS)
    if device.type == "cuda":
        no_tf32()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def no_tf32() -> None:
    """Let CUDA convolve float32 in TF32, of 10 bits, only where matrices are multiplied so.

    torch does the first by default and the second not. Who wants both asks for the second:
    ``torch.set_float32_matmul_precision("high")``. It holds for the process, as a backward pass
    runs after the block of its forward pass.

    >>> no_tf32()
    >>> torch.backends.cudnn.allow_tf32
    False
    """
    asked = torch.backends.cuda.matmul.fp32_precision == "tf32"
    torch.backends.cudnn.allow_tf32 = asked


def hardware(device: torch.device) -> str:
    """What people call the device.

    >>> "cores" in hardware(torch.device("cpu"))
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


class Compiled:
    """What one network computes, compiled for batches of one size; see :func:`compile_network`."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.functions: dict[Hashable, Callable[..., Any]] = {}

    def __deepcopy__(self, memo: object) -> None:
        """A copy of the network is another network, for which nothing is compiled."""

    def function(self, key: Hashable, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled: the first that came with this ``key``."""
        if key not in self.functions:
            self.functions[key] = torch.compile(function, dynamic=False)
        return self.functions[key]

    def recorded(
        self,
        key: Hashable,
        function: Callable[..., Any],
        *inputs: Tensor,
        learner: nn.Module | None = None,
    ) -> Callable[..., Any]:
        """The function of tensors as a CUDA graph, the first with this ``key``; elsewhere itself.

        Its result stands until the next call. See :class:`Recorded` for ``learner``.
        """
        if inputs[0].device.type != "cuda":
            return function
        precision = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        key = ("recorded", key, precision, *((value.shape, value.dtype) for value in inputs))
        if key not in self.functions:
            self.functions[key] = Recorded(function, *inputs, learner=learner)
        return self.functions[key]


def compile_network(model: nn.Module, batch_size: int) -> None:
    """From now on attacks on this network and steps of its training run compiled.

    Weights may change in place, as by an optimiser or ``load_state_dict``; tensors that take their
    place, as by ``to(memory_format=...)``, would not be seen on CUDA. Attacks on images of any
    number are made in batches of ``batch_size``; a step of training on
    a batch of another size, or with a term of attribution, runs as it is.

    >>> network = nn.Linear(2, 2)
    >>> compile_network(network, batch_size=50)
    >>> compiled(network).batch_size
    50
    """
    # Networks share the code of what is compiled for each, and so a limit that is meant for one.
    torch._dynamo.config.recompile_limit = 1000
    model.compiled = Compiled(whole("batch_size", batch_size, 1))  # type: ignore[assignment]


@cache
def check_compiler(device: torch.device) -> None:
    """RuntimeError where torch cannot compile for the device, tried on one addition.

    That it can is tried once in a process.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=device))
    except Exception as error:  # of whatever kind the system's tools fail with
        raise RuntimeError(
            f"torch.compile does not work here ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}). Install a C++ compiler, such as g++, or leave "
            f"compile out, and it goes without."
        ) from error


def compiled(model: nn.Module) -> Compiled | None:
    """What is compiled of the network, if anything is.

    >>> compiled(nn.Linear(2, 2)) is None
    True
    """
    found = getattr(model, "compiled", None)
    return found if isinstance(found, Compiled) else None


class Recorded:
    """A function of tensors whose kernels CUDA has recorded, so that starting them costs nothing.

    It must neither wait for the device nor draw random numbers. It runs three times first. With a
    ``learner`` the function sets that network's gradients; what it does to the buffers while it is
    tried is undone.
    """

    def __init__(
        self, function: Callable[..., Any], *inputs: Tensor, learner: nn.Module | None = None
    ):
        self.inputs = [value.detach().clone() for value in inputs]
        self.parameters = list(learner.parameters()) if learner else []
        buffers = [(buffer, buffer.clone()) for buffer in (learner.buffers() if learner else ())]
        aside, current = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(3):  # what is compiled or allocated at first must not be recorded
                function(*self.inputs)
        current.wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)
        self.gradients = [parameter.grad for parameter in self.parameters]
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

    def __call__(self, *inputs: Tensor) -> Any:
        """The result, which the next call overwrites, as it does the learner's gradients."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.outputs
