"""What analysis takes, in memory and time, as images and classes grow."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ccnotes.attacks import PGD
from ccnotes.attribution import cas_draws, class_attribution, class_similarity, instance_similarity
from ccnotes.devices import hardware
from ccnotes.evaluation import evaluate, measure
from ccnotes.models import Headed
from ccnotes.tables import tabulated
from ccnotes.types import Features, Labels

Size = tuple[int, int, int]  # classes, images, features
SIZES = [(k, n, 512) for k in (10, 100, 1000) for n in (1_000, 10_000, 60_000)]
SIZES += [(1000, 50_000, 2048)]  # ImageNet's validation images in a ResNet-50
STATUS = Path("/proc/self/status")


def attribution(features: Features, labels: Labels, head: nn.Linear) -> object:
    return class_similarity(class_attribution(features, labels, head.weight.detach()))


def instances(features: Features, labels: Labels, head: nn.Linear) -> object:
    return instance_similarity(features, labels, head.weight.detach())


def bootstrap(features: Features, labels: Labels, head: nn.Linear) -> object:
    return cas_draws(features, labels, head.weight.detach(), draws=1000)


def evaluation(features: Features, labels: Labels, head: nn.Linear) -> object:
    """Of images of 2 x 2 pixels and a network of next to no work, attacked with one step."""
    images = torch.randint(256, (len(labels), 3, 2, 2), dtype=torch.uint8)
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, head.in_features), nn.ReLU())
    return evaluate(Headed(nn.Sequential(body, head)), images, labels, PGD(steps=1))


STEPS: dict[str, Callable[[Features, Labels, nn.Linear], object]] = {
    "attribution": attribution,
    "instance similarity": instances,
    "bootstrap": bootstrap,
    "measure": measure,
    "evaluate": evaluation,
}


def growth(
    sizes: Sequence[Size] = SIZES, steps: Sequence[str] = tuple(STEPS), threads: int | None = None
) -> list[dict[str, Any]]:
    """One dictionary for each step and size: memory and time on made-up features, on the CPU.

    A size is classes, images and features. Each runs in a process of its own. ``peak_mib`` is the
    most main memory that the process held, Python, torch and input with it, ``before_mib`` what it
    held before the step, ``seconds`` the processor time that the step took: of all threads, so
    that it says the same on a busy machine. Steps are ``attribution`` (class attribution and its
    similarity), ``instance similarity``, ``bootstrap`` (CAS of 1,000 draws), ``measure``, which
    holds the first two, and ``evaluate``: the measures twice, and what an evaluation does beside
    the network. Raises RuntimeError where the system is not Linux.

    >>> growth([], ["attribution"])  # as a process takes seconds to start
    []
    """
    if not STATUS.exists():
        raise RuntimeError(f"a process's memory is read from Linux's {STATUS}: run this on Linux.")
    cases = [(step, size) for step in steps for size in sizes]
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])  # so that torch is loaded once
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        rows = [processes.submit(cost, step, size, threads) for step, size in cases]
        return [row.result() for row in tqdm(rows, unit="process")]


def growth_page(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of :func:`growth` as Markdown: a table, and what it says of growth and memory.

    >>> row = {"step": "measure", "classes": 10, "images": 10_000, "features": 512, "seconds": 2.0}
    >>> row |= {"peak_mib": 900.0, "hardware": "a machine", "threads": 1, "torch": "2"}
    >>> rows = [row, row | {"images": 60_000, "seconds": 9.0, "peak_mib": 2048.0}]
    >>> print(growth_page(rows).splitlines()[-3])  # doctest: +ELLIPSIS
    Six times as many images, 60,000 for 10,000, take at most 4.5 times as long (of what takes ...
    """
    cells = {(r["step"], r["classes"], r["images"], r["features"]): r for r in rows}
    steps = list(dict.fromkeys(r["step"] for r in rows))
    sizes = list(dict.fromkeys(key[1:] for key in cells))
    table = [
        [
            "{:,} x {:,} x {:,}".format(*size),
            *(f"{r['peak_mib']:,.0f} MiB, {r['seconds']:.1f} s" for r in in_a_row),
        ]
        for size in sizes
        for in_a_row in [[cells[step, *size] for step in steps]]
    ]
    longer = max(
        r["seconds"] / cells[r["step"], r["classes"], 10_000, r["features"]]["seconds"]
        for r in rows
        if r["images"] == 60_000 and r["seconds"] > 1
    )
    most = max(r["peak_mib"] for r in rows) / 1024
    return (
        f"{tabulated(' | '.join(['classes x images x features', *steps]), table)}\n\n"
        f"Six times as many images, 60,000 for 10,000, take at most {longer:.1f} times as long (of "
        f"what takes more than a second), and nothing here takes more than {most:.1f} GiB.\n\n"
        f"*{rows[0]['hardware']}, threads: {rows[0]['threads']}, torch {rows[0]['torch']}*"
    )


def cost(step: str, size: Size, threads: int | None) -> dict[str, Any]:
    """The row of :func:`growth` for one step and size, in this process.

    >>> row = cost("attribution", (2, 10, 4), threads=None)
    >>> row["images"], row["peak_mib"] >= row["before_mib"] > 0
    (10, True)
    """
    if threads is not None:
        torch.set_num_threads(threads)
    classes, images, features = size
    torch.manual_seed(0)
    values = torch.randn(images, features).relu_()
    labels = torch.arange(images) % classes
    head = nn.Linear(features, classes)
    before, begun = memory("VmRSS"), time.process_time()
    STEPS[step](values, labels, head)
    return {
        "step": step,
        "classes": classes,
        "images": images,
        "features": features,
        "seconds": time.process_time() - begun,
        "peak_mib": memory("VmHWM"),
        "before_mib": before,
        "hardware": hardware(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def memory(field: str) -> float:
    """What Linux says of this process, in MiB: VmRSS now, VmHWM at most until now.

    >>> 0 < memory("VmRSS") <= memory("VmHWM")
    True
    """
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
