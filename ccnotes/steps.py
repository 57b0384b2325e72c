"""One step of training: what a batch becomes, what is minimised, which average is kept."""

import math
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    update_bn,
)

from ccnotes.attacks import ascent
from ccnotes.data import Dataset, Split, augment, cutout, to_float
from ccnotes.devices import autocast, compiled
from ccnotes.experiments import Experiment
from ccnotes.models import NETWORKS, Network
from ccnotes.objectives import OWN_AVERAGE, Objective, perturbed, soft_labels, total
from ccnotes.types import Features, Images, Labels, Logits, Pixels, Soft


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
        return NETWORKS[experiment.model](
            len(dataset.classes),
            experiment.width,
            mean=mean,
            std=std,
        )


def stream(seed: int, use: str) -> int:
    """A seed for one use of randomness in the run, unrelated to those of other uses and runs.

    So no use depends on how much another has drawn, and neighbouring seeds share nothing.

    >>> stream(0, "attack") == stream(0, "attack"), stream(0, "attack") == stream(1, "attack")
    (True, False)
    """
    return int(np.random.SeedSequence([seed, *use.encode()]).generate_state(1)[0])


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


def sgd(model: nn.Module, experiment: Experiment) -> torch.optim.SGD:
    """SGD with the experiment's learning rate, momentum and weight decay."""
    e = experiment
    return torch.optim.SGD(
        model.parameters(), e.lr, momentum=e.momentum, weight_decay=e.weight_decay, fused=True
    )


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Pixels,
    y: Labels,
    experiment: Experiment,
    generators: dict[str, torch.Generator],
    precision: str,
    teachers: Sequence[tuple[Network, float]] = (),
    groups: Int[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Augment, attack and learn from one batch, model in train mode.

    Returns the mean loss, in nats. ``teachers`` are networks and their weights in the loss,
    ``groups`` the classes' true ones.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=12, width=4)
    >>> data, generators = dataset(e), {"attack": torch.Generator()}
    >>> model, (x, y) = build(e, data), (data.train.images, data.train.labels)
    >>> loss = train_step(model, sgd(model, e), x, y, e, generators, "float32")
    >>> loss.item() > 0
    True
    """
    o = experiment.objective
    with autocast(x.device, precision):
        clean, attacked = augmented_and_attacked(model, x, y, experiment, generators)
        with torch.no_grad():
            soft = [soft_labels(teacher(attacked), y, o, groups) for teacher, _ in teachers]
    weights = [weight for _, weight in teachers]
    learned = partial(gradients, model, o, weights, groups, precision)
    loss = learned(clean, attacked, y, *soft)
    if o.awp:
        with perturbed(model, o.awp):
            learned(clean, attacked, y, *soft)
    optimiser.step()
    return loss


def gradients(
    model: nn.Module,
    objective: Objective,
    weights: Sequence[float],
    groups: Int[Tensor, " classes"] | None,
    precision: str,
    clean: Images,
    attacked: Images,
    y: Labels,
    *soft: Soft,
) -> Float[Tensor, ""]:
    """The batch's mean loss, in nats; its gradients become those of the model's parameters.

    ``soft`` are the labels of teachers that have these ``weights`` in the loss.
    """

    def loss_of(clean: Images, attacked: Images, y: Labels, *soft: Soft) -> Tensor:
        with autocast(clean.device, precision):
            outputs = forward(model, clean, attacked, objective)
        taught = list(zip(soft, weights, strict=True))
        return total(objective, model, *outputs, y, taught, groups)

    def learned(*batch: Tensor) -> Tensor:
        model.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        return loss.detach()

    batch, engine = (clean, attacked, y, *soft), compiled(model)
    if engine is None or len(clean) != engine.batch_size:
        return learned(*batch)
    key = "gradients", objective, *weights
    loss_of = engine.function(key, loss_of)
    result: Tensor = engine.recorded(key, learned, *batch, learner=model)(*batch)
    return result.clone()


def augmented_and_attacked(
    model: nn.Module,
    x: Pixels,
    y: Labels,
    experiment: Experiment,
    generators: dict[str, torch.Generator],
) -> tuple[Images, Images]:
    """What training makes of images: augmented ones, and those attacked.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=12, width=4)
    >>> data, generators = dataset(e), {"attack": torch.Generator()}
    >>> x, y = data.train.images, data.train.labels
    >>> clean, attacked = augmented_and_attacked(build(e, data), x, y, e, generators)
    >>> round((attacked - clean).abs().max().item() * 255, 3)
    8.0
    """
    e = experiment
    if e.augment:
        x = augment(x, generators["augmentation"])
    if e.cutout:
        x = cutout(x, e.cutout, generators["augmentation"])
    clean = to_float(x).contiguous(memory_format=torch.channels_last)
    if e.attack.eps == 0:
        return clean, clean
    loss: Literal["kl", "cross-entropy"] = "kl" if e.objective.loss == "trades" else "cross-entropy"
    generator = generators["attack"]
    found = ascent(model, clean, y, e.attack, generator, batchnorm=e.batchnorm, loss=loss)
    return clean, found.images


def forward(
    model: Any, clean: Images, attacked: Images, objective: Objective
) -> tuple[Logits | None, Features | None, Logits]:
    """Clean logits and attacked features, each where the objective needs it; attacked logits.

    >>> model, x = NETWORKS["convnet"](6, 4), torch.rand(2, 3, 16, 16)
    >>> clean, features, attacked = forward(model, x, x, Objective(loss="trades"))
    >>> clean.shape, features, attacked.shape
    (torch.Size([2, 6]), None, torch.Size([2, 6]))
    """
    logits = None if objective.loss == "cross-entropy" else model(clean)
    if not (objective.push_cas or objective.push_placebo or objective.push_contrast):
        return logits, None, model(attacked)
    features = model.features(attacked)
    return logits, features, model.head(features)


def with_statistics(
    model: Network, train: Split, experiment: Experiment, precision: str
) -> Network:
    """A copy of a network of averaged weights, with BatchNorm statistics of its own.

    They are the means over batches of training images as training sees them, augmented and
    attacked (TRADES and MART: before the attack, too). Only then do they belong to such weights
    (Izmailov et al., 2018; arXiv:1803.05407) and to what AT learns from.
    """
    model, device = deepcopy(model), train.images.device
    generator = torch.Generator(device).manual_seed(stream(experiment.seed, "batchnorm"))
    generators = {"augmentation": generator, "attack": generator}
    order = torch.randperm(len(train), generator=generator, device=device)
    with autocast(device, precision):
        # All attacks come first, as each needs whole statistics: those averaged as weights are.
        seen: list[Images] = []
        for batch in order.split(experiment.batch_size):
            x, y = train.images[batch], train.labels[batch]
            clean, attacked = augmented_and_attacked(model, x, y, experiment, generators)
            plain = experiment.objective.loss == "cross-entropy"
            seen += [attacked] if plain else [clean, attacked]
        update_bn(seen, model)
    return model


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
