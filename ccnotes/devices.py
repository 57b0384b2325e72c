"""Where to compute and how precisely."""

import os
import platform
import time
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import torch

from ccnotes.checks import check_choice

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

    Raises ValueError for a precision other than "float32" and "bfloat16".

    >>> with autocast(torch.device("cpu"), "bfloat16"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    check_choice("precision", precision, PRECISIONS)
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


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
