"""What a run starts from: network, optimiser, average, seeds; and what could not be trained."""

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from ccnotes.data import Dataset, Split, to_float
from ccnotes.devices import check_compiler
from ccnotes.experiments import Experiment
from ccnotes.models import NETWORKS as NETWORKS, Network, network_called
from ccnotes.modes import evaluating
from ccnotes.objectives import OWN_AVERAGE
from ccnotes.ranks import ranks
from ccnotes.types import Pixels

LONG = 1e14  # operations of a run, an hour of one core or so; compiling takes a minute or two


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
        model = network_called(
            experiment.model,
            len(dataset.classes),
            experiment.width,
            image_size=dataset.train.images.shape[-1],
            mean=mean,
            std=std,
        )
        if experiment.head in ("simplex", "groups"):
            groups = dataset.groups if experiment.head == "groups" else None
            if experiment.head == "groups" and not groups:
                raise ValueError(
                    f"head='groups' needs classes with true groups, which {dataset.title} have "
                    f"not: choose head='simplex'."
                )
            fix_head(model.head, experiment.head_norm, groups)
        return model


@torch.no_grad()
def fix_head(head: nn.Linear, norm: float, groups: Sequence[int] | None = None) -> None:
    """Make the head's rows a simplex: as far from each other as they can be; biases 0.

    With ``groups`` those of one group are drawn towards each other instead: before the mean of all
    is taken off, their cosine is 1 / 2. All have the length ``norm``. Their place in the space of
    features is random. Zhu et al. (2021), arXiv:2105.02375, fix a simplex from the start.
    Raises ValueError for fewer features than classes.

    >>> head = nn.Linear(8, 3)
    >>> fix_head(head, norm=2.0)
    >>> (head.weight @ head.weight.T).round(decimals=4).tolist()[0]
    [4.0, -2.0, -2.0]
    """
    classes, features = head.weight.shape
    needed = classes + (max(groups) + 1 if groups else 0)
    if features < needed:
        raise ValueError(
            f"{features} features are too few for a head of {classes} classes that is fixed by "
            f"hand, which needs {needed}: raise width."
        )
    frame = torch.linalg.qr(torch.randn(features, needed)).Q.T
    rows = frame[:classes] + (frame[classes:][list(groups)] if groups else 0)
    rows = rows - rows.mean(0)
    head.weight.copy_(norm * rows / rows.norm(dim=1, keepdim=True))
    head.bias.zero_()


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
    left, count = len(train) % e.batch_size or e.batch_size, ranks().count
    with evaluating(model), torch.no_grad():
        maps = model.body(to_float(train.images[:1]))
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if (left // count or left) == 1 and norms and maps.shape[2:] in ((), (1, 1)):
        raise ValueError(
            f"with batch_size={e.batch_size}, {len(train)} training images leave a last batch of "
            f"one{f' for one of {count} processes' * (count > 1)}, of whose maps of one pixel "
            f"BatchNorm has no variance: choose another batch_size."
        )


def check_ranks(e: Experiment) -> None:
    """ValueError for a run that the processes of this moment cannot share.

    >>> check_ranks(Experiment(batch_size=50))  # one process
    """
    count = ranks().count
    if e.batch_size % count:
        raise ValueError(
            f"batch_size={e.batch_size} images cannot be shared evenly by {count} processes: start "
            f"as many as divide it, or choose another batch_size."
        )
    o = e.objective
    whole = o.needs_features or o.grad_align or o.elle or o.group_weight or e.virtual.used
    if count > 1 and (whole or e.replays > 1):
        raise ValueError(
            f"push_cas, push_placebo, push_contrast, group_weight, grad_align, elle, virtual and "
            f"replays are about a whole batch, of which {count} processes see a part each: run "
            f"this without torchrun."
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


def convolutions(e: Experiment, dataset: Dataset) -> list[tuple[nn.Conv2d, torch.Size, int]]:
    """Those of the experiment's network, the shape that each is given of an image, its operations.

    On a device that computes nothing. A multiply-add is two operations.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=12, width=4)
    >>> [tuple(given[1:]) for _, given, _ in convolutions(e, dataset(e))]
    [(3, 16, 16), (4, 8, 8), (8, 4, 4)]
    """
    found = []

    def look(layer: nn.Conv2d, given: tuple[torch.Tensor], maps: torch.Tensor) -> None:
        found.append((layer, given[0].shape, 2 * maps.numel() * layer.weight[0].numel()))

    image = dataset.train.images[:1]
    with torch.device("meta"):
        grey, side = [0.5] * image.shape[1], image.shape[-1]
        model = network_called(
            e.model, len(dataset.classes), e.width, image_size=side, mean=grey, std=grey
        ).eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(look)
        model(torch.empty(image.shape))
    return found


def bfloat16_is_sound(e: Experiment, dataset: Dataset, device: torch.device) -> bool:
    """Whether the network's gradients can be trusted in bfloat16 there.

    On processors oneDNN reads memory that nobody wrote for the weights' gradient of a convolution
    with a stride that is given a single pixel: other numbers in each run, and now and then NaN.

    >>> from ccnotes.experiments import dataset
    >>> bfloat16_is_sound(Experiment(), dataset(Experiment()), torch.device("cpu"))
    True
    """
    if device.type != "cpu":
        return True
    found = convolutions(e, dataset)
    return not any(max(layer.stride) > 1 and given[2:].numel() == 1 for layer, given, _ in found)


def operations(e: Experiment, dataset: Dataset) -> float:
    """Those of the convolutions in the passes that train.

    By the experiment alone, so that what follows from them is the same in each of its runs. A
    step of the attack takes a pass forward and one back, learning one forward and two back.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=12, width=4, epochs=1)  # 4 maps of 8 x 8 pixels and so on
    >>> forward = 2 * (64 * 4 * 27 + 16 * 8 * 36 + 16 * 16 * 72)
    >>> operations(e, dataset(e)) == 12 * forward * (2 * e.attack.steps + 3)
    True
    """
    per_image = sum(count for *_, count in convolutions(e, dataset))
    passes = 3 + (2 * e.attack.steps if e.attack.eps else 0)
    return float(per_image * passes * len(dataset.train) * e.epochs)


def compiling_pays(e: Experiment, dataset: Dataset, device: torch.device) -> bool:
    """Whether a run saves more by compiled passes than compiling takes: on CUDA, and where long.

    It follows from the experiment and from what can be compiled here, and from no clock, which
    would say another thing whenever the machine is busy, and so give other bits. Where torch cannot
    compile, a line says what is missed.

    >>> from ccnotes.experiments import dataset
    >>> compiling_pays(Experiment(), dataset(Experiment()), torch.device("cpu"))
    False
    """
    long = device.type == "cpu" and operations(e, dataset) / ranks().count >= LONG
    if not (long or device.type == "cuda"):
        return False
    try:
        check_compiler(device)
    except RuntimeError as error:
        gain = "a quarter" if device.type == "cpu" else "three quarters"
        print(f"{error} Compiled it would take up to {gain} less time.", file=sys.stderr)
        return False
    return True
