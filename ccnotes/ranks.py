"""One run on several processes, each of which takes its part of every batch.

torchrun starts them. All do the same, with the same random numbers, and hold the same network; what
a part of a batch gives is added up over all. There is one such sum for each gradient, and no
wrapper around the network: an attack of many passes precedes each gradient, so that hiding the sum
behind the backward pass, as DistributedDataParallel does, would gain next to nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that share a run."""

    rank: int = 0  # 0 writes
    count: int = 1
    device: str = "cpu"  # on which they add up


_now = Ranks()  # as torch.distributed has it: of the process


def ranks() -> Ranks:
    """The processes that share the run of this moment; one, outside of :func:`joined`.

    >>> ranks().rank, ranks().count
    (0, 1)
    """
    return _now


def launched() -> int:
    """How many processes torchrun has started, this one among them; 1 without it.

    >>> launched()
    1
    """
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


@contextmanager
def joined(device: str | None = None) -> Iterator[str | None]:
    """A block that the processes which torchrun has started run together, on the device it gives.

    Without torchrun that is ``device``. On CUDA each process takes the card of its number on its
    machine, and they talk by NCCL; on processors by gloo. Raises ValueError where there are more
    processes than cards, or ``device`` is one that they would have to share.

    >>> with joined("cpu") as device:
    ...     device, ranks().count
    ('cpu', 1)
    """
    global _now
    if (count := launched()) == 1:
        yield device
        return
    local, cards, where = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count(), "cpu"
    if device in (None, "cuda") and cards:
        if local >= cards:
            raise ValueError(
                f"torchrun starts more processes on this machine than its {cards} cards: give "
                f"--nproc-per-node {cards}, or --device cpu."
            )
        torch.cuda.set_device(local)
        where = f"cuda:{local}"
    elif device not in (None, "cpu"):
        raise ValueError(
            f"{count} processes cannot share device={device!r}: give --device cpu, cuda where each "
            f"has a card, or run without torchrun."
        )
    dist.init_process_group("gloo" if where == "cpu" else "nccl")
    _now = Ranks(rank=dist.get_rank(), count=count, device=where)
    try:
        yield where
    finally:
        _now = Ranks()
        dist.destroy_process_group()


def part(size: int) -> slice:
    """This rank's part of a batch of that size: parts differ by one image at most.

    Of a batch of fewer images than there are ranks each takes all.

    >>> part(10)
    slice(0, 10, None)
    """
    count, rank = _now.count, _now.rank
    if size < count:
        return slice(0, size)
    return slice(size * rank // count, size * (rank + 1) // count)


def share(size: int) -> float:
    """What this rank's part counts in a mean over a batch of that size; 1 in sum.

    >>> share(10)
    1.0
    """
    mine = part(size)
    return 1 / _now.count if size < _now.count else (mine.stop - mine.start) / size


def add(values: Tensor) -> Tensor:
    """The values, replaced by their sums over all ranks: on each the same, to the bit.

    Raises RuntimeError where another rank is there no more.

    >>> add(torch.ones(2))
    tensor([1., 1.])
    """
    if _now.count > 1:
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise RuntimeError(
                f"another of the {_now.count} processes of this run has ended ({error}). What came "
                f"before the last checkpoint is kept; the same command goes on from there."
            ) from error
    return values


def whole(values: Tensor, size: int) -> Tensor:
    """What the ranks have of the parts of a batch of ``size``, in its order.

    >>> whole(torch.tensor([3.0, 4.0]), 2)
    tensor([3., 4.])
    """
    if len(values) == size:
        return values
    all_of_them = values.new_zeros(size, *values.shape[1:])
    all_of_them[part(size)] = values
    return add(all_of_them)


def agreed(number: int) -> int:
    """The number that rank 0 has; until all have asked for it, none goes on.

    >>> agreed(3)
    3
    """
    mine = int(number) if _now.rank == 0 else 0
    return int(add(torch.tensor(mine, device=_now.device)).item())


def average(model: nn.Module, loss: Tensor, weight: float) -> Tensor:
    """The mean over ranks of the loss, which is returned, and of all that a step has changed.

    That is the gradients and BatchNorm's running statistics, each rank's counted by its ``weight``,
    such as its :func:`share` of a batch. A part is normalised by its own statistics; the network
    that attacks and is evaluated has the mean of all parts', as if one process had taken one part
    after the other.

    >>> average(nn.Linear(2, 2), torch.tensor(3.0), 1.0)
    tensor(3.)
    """
    if _now.count == 1:
        return loss
    changed = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            changed += [module.get_buffer("running_mean"), module.get_buffer("running_var")]
    sums = add(weight * torch.cat([value.flatten() for value in (*changed, loss)]))
    with torch.no_grad():
        for value in changed:
            value.copy_(sums[: value.numel()].view_as(value))
            sums = sums[value.numel() :]
    return sums[0]
