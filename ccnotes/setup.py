"""What a run starts from: network, optimiser, average, seeds; and what could not be trained."""

import math

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from ccnotes.data import Dataset, Split, to_float
from ccnotes.experiments import Experiment
from ccnotes.models import NETWORKS as NETWORKS, Network, network_called
from ccnotes.modes import evaluating
from ccnotes.objectives import OWN_AVERAGE
from ccnotes.types import Pixels


def build(experiment: Experiment, dataset: Dataset) -> Network:
    """The experiment's network; its initial weights depend on the seed alone.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=12, width=4)
    >>> model, same = build(e, dataset(e)), build(e, dataset(e))
    >>> model.head.out_features, torch.equal(model.head.weight, same.head.weight)
    (6, True)
    """
    mean, std = channel_statistics(dataset.train.images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(experiment.seed, "weights"))
        return network_called(
            experiment.model,
            len(dataset.classes),
            experiment.width,
            image_size=dataset.train.images.shape[-1],
            mean=mean,
            std=std,
        )


def channel_statistics(images: Pixels) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], to four digits.

    From counts of the 256 values: exact, and without a float copy of the dataset.

    >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
    ([0.5], [0.7071])
    """
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double().cpu() / counts.sum(1, keepdim=True).cpu()
    mean = share @ values
    count = images.numel() / images.shape[1]
    variance = (share * (values - mean[:, None]) ** 2).sum(1) * count / (count - 1)
    std = variance.sqrt().clamp_min(1e-4)
    return [round(v, 4) for v in mean.tolist()], [round(v, 4) for v in std.tolist()]


def stream(seed: int, use: str) -> int:
    """A seed for one use of randomness in the run, unrelated to those of other uses and runs.

    So no use depends on how much another has drawn, and neighbouring seeds share nothing.

    >>> stream(0, "attack") == stream(0, "attack"), stream(0, "attack") == stream(1, "attack")
    (True, False)
    """
    return int(np.random.SeedSequence([seed, *use.encode()]).generate_state(1)[0])


def sgd(model: nn.Module, experiment: Experiment) -> torch.optim.SGD:
    """SGD with the experiment's learning rate, momentum and weight decay."""
    e = experiment
    return torch.optim.SGD(
        model.parameters(), e.lr, momentum=e.momentum, weight_decay=e.weight_decay, fused=True
    )


def averaged(model: Network, e: Experiment, images: int) -> AveragedModel | None:
    """The average of the weights that the run keeps, if it keeps one.

    >>> model = NETWORKS["convnet"](6, 4)
    >>> averaged(model, Experiment(), images=200) is None
    True
    >>> averaged(model, Experiment(average="ema"), images=200).n_averaged.item()
    0
    """
    if not (e.average or OWN_AVERAGE in e.objective.teachers):
        return None
    decay = e.ema_decay ** (1 / math.ceil(images / e.batch_size))
    # SWA's own multi_avg_fn cannot average BatchNorm's counters, which are integers, on CUDA.
    swa = get_swa_avg_fn() if e.average == "swa" else None
    ema = None if swa else get_ema_multi_avg_fn(decay)
    average = AveragedModel(model, avg_fn=swa, multi_avg_fn=ema, use_buffers=True)
    average.requires_grad_(False)
    return average


def check_last_batch(model: Network, train: Split, e: Experiment) -> None:
    """ValueError where BatchNorm would be left with a single number for each of its maps."""
    left = len(train) % e.batch_size or e.batch_size
    with evaluating(model), torch.no_grad():
        maps = model.body(to_float(train.images[:1]))
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if left == 1 and norms and maps.shape[2:] in ((), (1, 1)):
        raise ValueError(
            f"with batch_size={e.batch_size}, {len(train)} training images leave a last batch of "
            f"one, of whose maps of one pixel BatchNorm has no variance: choose another batch_size."
        )


def check_teacher(name: str, teacher: Network, student: Network) -> None:
    """ValueError unless the teacher knows the student's classes, and images like its own."""
    theirs, ours = teacher.state_dict(), student.state_dict()
    for what, key in (("classes", "head.bias"), ("channels", "body.0.mean")):
        if len(theirs[key]) != len(ours[key]):
            raise ValueError(
                f"teacher {name!r} knows {len(theirs[key])} {what}, the student "
                f"{len(ours[key])}: choose a teacher that was trained on the same data."
            )
    for what in ("mean", "std"):
        far = (theirs[f"body.0.{what}"].cpu() - ours[f"body.0.{what}"].cpu()).abs().max().item()
        if far > 0.02:  # of different parts of one dataset they differ less
            raise ValueError(
                f"teacher {name!r} normalises by a {what} of pixels in [0, 1] that is {far:.3f} "
                f"away from the student's: choose a teacher that was trained on the same data."
            )
