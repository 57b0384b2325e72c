"""The modes that a block is run in: autograd's, and a network's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def recording() -> Iterator[None]:
    """A block in which autograd records, under torch.no_grad() and inference_mode(), too.

    >>> with torch.inference_mode(), recording():
    ...     (2 * torch.ones(1, requires_grad=True)).requires_grad
    True
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def usable(values: Tensor) -> Tensor:
    """The values, detached, such that autograd can use them if they come from inference mode."""
    return values.clone() if values.is_inference() else values.detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode, then put every submodule's mode back.

    By ``train`` where a class has its own, which may do more than to set the mode (LoRA's layers
    merge their weights), by the mode alone elsewhere.

    >>> model = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.Dropout())
    >>> with evaluating(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [False, True]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # from the outside in, as ``train`` reaches inside
            if type(module).train is not nn.Module.train:
                module.train(training)
        for module, training in modes:
            module.training = training


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """A block whose passes leave BatchNorm's running statistics as they are, in train mode, too.

    It normalises as it would; only what it keeps of a batch is nothing.

    >>> norm = nn.BatchNorm1d(1)
    >>> with statistics_kept(norm):
    ...     _ = norm(torch.tensor([[1.0], [3.0]]))
    >>> norm.running_mean.item(), norm.num_batches_tracked.item(), norm.momentum
    (0.0, 0, 0.1)
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in kept:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
