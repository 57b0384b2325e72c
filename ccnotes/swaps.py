"""Two networks with their heads swapped, or a head trained anew: is the loss in the head?"""

import math
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from ccnotes.attacks import PGD
from ccnotes.data import Split
from ccnotes.evaluation import features_of, measure
from ccnotes.experiments import Experiment
from ccnotes.models import Network
from ccnotes.objectives import Objective
from ccnotes.setup import stream
from ccnotes.steps import Learner, train_step
from ccnotes.types import Labels, Logits

ANEW = 10  # epochs in which a head is trained anew


class Swapped(NamedTuple):
    """What two networks recognise with their own and each other's heads, each attacked itself.

    In the first dimension stand the features of the first and of the second network, in the next
    the head of the first and of the second.
    """

    accuracy: Float[Tensor, "2 2"]  # in [0, 1], under attack
    loss: Float[Tensor, "2 2"]  # in nats
    calibrated_loss: Float[Tensor, "2 2"]  # logits divided by the best temperature, in nats
    cas: Float[Tensor, "2 2"]
    confusion: Int[Tensor, "2 2 classes classes"]


def swapped(
    first: Network, second: Network, split: Split, attack: PGD, *, seed: int = 0, precision: str
) -> Swapped:
    """Both networks and both hybrids, attacked. See :func:`calibrated` for the temperature.

    >>> from ccnotes.models import ConvNet
    >>> split = Split(images=torch.randint(256, (8, 3, 8, 8)).byte(), labels=torch.arange(8) % 2)
    >>> one, other = ConvNet(2, width=2), ConvNet(2, width=2)
    >>> found = swapped(one, other, split, PGD(steps=1), precision="float32")
    >>> found.accuracy.shape, found.confusion.sum().item()
    (torch.Size([2, 2]), 32)
    """
    rows = []
    for body in (first, second):
        for head in (first, second):
            hybrid = deepcopy(body)
            hybrid.head.load_state_dict(head.head.state_dict())
            features = features_of(
                hybrid, split.images, split.labels, attack, seed=seed, precision=precision
            )
            found = measure(features, split.labels, hybrid.head)
            with torch.no_grad():
                loss = calibrated(hybrid.head(features), split.labels)
            rows.append((found.accuracy, found.loss, loss, found.cas, found.confusion))
    stacked = (torch.stack(values).cpu() for values in zip(*rows, strict=True))
    return Swapped(*(values.view(2, 2, *values.shape[1:]) for values in stacked))


def calibrated(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, at the best temperature that divides the logits.

    It is chosen on one half of each class's images for the other half, and the other way round, so
    that no image chooses its own. Guo et al. (2017), arXiv:1706.04599.

    >>> logits, labels = torch.tensor([[9.0, 0.0]] * 4), torch.tensor([0, 0, 1, 1])
    >>> round(calibrated(logits, labels).item(), 1)  # right half of the time: log 2
    0.7
    """
    order = labels.sort(stable=True).indices
    total = 0.0
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):

        def loss(log_t: float, images: Tensor) -> float:
            return F.cross_entropy(logits[images] / math.exp(log_t), labels[images]).item()

        best = minimize_scalar(loss, bounds=(-4, 4), args=(half,), method="bounded").x
        total += loss(best, other) * len(other)
    return torch.tensor(total / len(labels))


def with_head_anew(model: Network, held_out: Split, e: Experiment, precision: str) -> Network:
    """A copy of the network with a head trained adversarially on images it was not trained on.

    All but the head stays as it is, BatchNorm's statistics, too. The head begins at zero and
    learns from labels alone, against the attack of the run's training on the hybrid itself: for
    :data:`ANEW` epochs, with a learning rate that falls evenly to 0 from one over the mean squared
    length of the features, so that their scale makes no difference.

    >>> from ccnotes.models import ConvNet
    >>> images = torch.randint(256, (8, 3, 8, 8)).byte()
    >>> split, e = Split(images=images, labels=torch.arange(8) % 2), Experiment(batch_size=4)
    >>> model = ConvNet(2, width=2)
    >>> anew = with_head_anew(model, split, e, "float32")
    >>> torch.equal(anew.body[1].weight, model.body[1].weight), bool(anew.head.bias.any())
    (True, True)
    """
    model, device = deepcopy(model).eval(), held_out.images.device
    model.requires_grad_(False).head.requires_grad_(True)
    for weight in model.head.parameters():
        torch.nn.init.zeros_(weight)
    clean = features_of(model, held_out.images, held_out.labels, precision=precision)
    first = 1 / clean.square().sum(1).mean().item()
    uses = ("order", "augmentation", "attack")
    generators = {
        use: torch.Generator(device).manual_seed(stream(e.seed, f"head anew, {use}"))
        for use in uses
    }
    learner = Learner(
        experiment=replace(e, objective=Objective()),
        model=model,
        optimiser=torch.optim.SGD(model.head.parameters(), first, momentum=e.momentum),
        generators=generators,
        precision=precision,
    )
    for epoch in range(ANEW):
        learner.optimiser.param_groups[0]["lr"] = first * (1 - epoch / ANEW)
        order = torch.randperm(len(held_out), generator=generators["order"], device=device)
        for batch in order.split(e.batch_size):
            train_step(learner, held_out.images[batch], held_out.labels[batch])
    return model
