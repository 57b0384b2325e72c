"""One step of training: what a batch becomes, and what is minimised."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ccnotes.attacks import ascent, random_start, stepped
from ccnotes.data import Split, augment, cutout, to_float
from ccnotes.devices import autocast, compiled
from ccnotes.experiments import Experiment
from ccnotes.groups import Grouped
from ccnotes.models import Network
from ccnotes.modes import evaluating
from ccnotes.objectives import Objective, Outputs, perturbed, soft_labels, total
from ccnotes.onestep import elle, grad_align, noise_in_ball
from ccnotes.ranks import average, part, ranks, share
from ccnotes.setup import stream
from ccnotes.types import Images, Labels, Pixels, Soft
from ccnotes.virtual import smoothness, virtual_images


@dataclass(kw_only=True)
class Learner:
    """A network and all that a step of its training needs.

    >>> from ccnotes.experiments import dataset
    >>> from ccnotes.setup import build, sgd
    >>> e = Experiment(train_size=12, width=4)
    >>> data, generators = dataset(e), {"attack": torch.Generator()}
    >>> model = build(e, data).train()
    >>> learner = Learner(
    ...     experiment=e, model=model, optimiser=sgd(model, e), generators=generators
    ... )
    >>> train_step(learner, data.train.images, data.train.labels).item() > 0
    True
    """

    experiment: Experiment
    model: nn.Module
    optimiser: torch.optim.Optimizer
    generators: dict[str, torch.Generator]  # "attack", "augmentation"; a run's "order" of images
    precision: str = "float32"
    teachers: Sequence[tuple[nn.Module, float]] = ()  # and their weights in the loss
    groups: Int[Tensor, " classes"] | None = None  # the classes' true ones
    unlabelled: Pixels | None = None  # images of which some come to each batch
    lacking: Split | None = None  # training images without a kind of part; labels: their groups
    delta: Tensor = field(default_factory=lambda: torch.empty(0))  # Free AT's, of a batch


def train_step(learner: Learner, x: Pixels, y: Labels) -> Float[Tensor, ""]:
    """Augment, attack and learn from one batch, model in train mode; the mean loss, in nats.

    Where several processes share the run, each is given the whole batch and does its part.
    """
    e, model = learner.experiment, learner.model
    if e.replays > 1:
        return free_steps(learner, x, y)
    with autocast(x.device, learner.precision):
        clean, attacked = augmented_and_attacked(model, x, y, e, learner.generators)
        y = y[part(len(y))]
        soft = taught(learner, attacked, y)
    penalty, weight = penalty_of(learner, clean, y), share(len(x))
    found = gradients(learner, clean, attacked, y, *soft, penalty=penalty)
    loss = average(model, found, weight)
    if e.objective.awp:
        with perturbed(model, e.objective.awp):
            found = gradients(learner, clean, attacked, y, *soft, penalty=penalty)
            average(model, found, weight)
    learner.optimiser.step()
    return loss


def free_steps(learner: Learner, x: Pixels, y: Labels) -> Float[Tensor, ""]:
    """Learn from one batch ``replays`` times; the mean loss, in nats.

    Each backward pass moves the weights and the attack at once: Free AT (Shafahi et al., 2019;
    arXiv:1904.12843). As in its authors' code the attack goes on from batch to batch.
    """
    e, losses = learner.experiment, []
    clean = augmented(x, e, learner.generators)
    if not len(learner.delta):
        learner.delta = torch.zeros_like(clean)
    delta = learner.delta[: len(x)]  # an epoch's last batch may be smaller
    for _ in range(e.replays):
        attacked = (clean + delta).clamp(0, 1).requires_grad_()
        with autocast(x.device, learner.precision):
            soft = taught(learner, attacked, y)
        penalty = penalty_of(learner, clean, y)
        losses.append(gradients(learner, clean, attacked, y, *soft, penalty=penalty))
        learner.optimiser.step()
        assert attacked.grad is not None
        a = e.attack
        moved, _ = stepped(clean, attacked.detach(), attacked.grad, a, a.eps, a.step_size)
        delta.copy_(moved - clean)
    return torch.stack(losses).mean()


@torch.no_grad()
def taught(learner: Learner, attacked: Images, y: Labels) -> list[Soft]:
    """The teachers' labels of attacked images."""
    objective, groups = learner.experiment.objective, learner.groups
    return [soft_labels(teacher(attacked), y, objective, groups) for teacher, _ in learner.teachers]


def penalty_of(learner: Learner, clean: Images, y: Labels) -> Callable[[], Tensor] | None:
    """What the loss has beside :func:`ccnotes.objectives.total`, to be called; None for nothing.

    Its noise is drawn here, and more images are, so that each call is about the same ones.
    """
    e, model, generator = learner.experiment, learner.model, learner.generators["attack"]
    o, terms = e.objective, list[Callable[[], Tensor]]()
    if o.grad_align:
        noise = noise_in_ball(clean, e.attack, generator)
        terms.append(lambda: o.grad_align * grad_align(model, clean, y, noise))
    if o.elle:
        one, other = (noise_in_ball(clean, e.attack, generator) for _ in range(2))
        share = torch.rand(len(clean), generator=generator, device=clean.device)
        terms.append(lambda: o.elle * elle(model, clean, y, (one, other), share))
    if o.group_weight:
        terms.append(group_loss(learner))
    if e.virtual.used:
        x = with_unlabelled(learner, clean)
        nearby = virtual_images(model, x, e.virtual, generator, e.batchnorm)
        terms.append(lambda: smoothness(model, x, nearby, e.virtual))
    return (lambda: torch.stack([term() for term in terms]).sum()) if terms else None


def with_unlabelled(learner: Learner, clean: Images) -> Float[Tensor, "more channels height width"]:
    """The batch's images, and unlabelled ones, drawn with replacement and augmented as these."""
    e, pool = learner.experiment, learner.unlabelled
    if pool is None:
        return clean
    chosen = drawn(learner, e.virtual.batch_size, pool)
    return torch.cat([clean, augmented(pool[chosen], e, learner.generators)])


def group_loss(learner: Learner) -> Callable[[], Tensor]:
    """To be called: the weighted cross-entropy of true groups, in nats, on images lacking parts.

    Half as many as a batch has, drawn with replacement, augmented and attacked so that they are
    taken for another group. BatchNorm takes its running statistics, those of whole images, and
    keeps nothing of these. See :class:`ccnotes.groups.Grouped`.
    """
    e, pool, groups = learner.experiment, learner.lacking, learner.groups
    assert pool is not None  # as experiments with the term have it
    assert groups is not None
    few = pool.take(drawn(learner, max(1, e.batch_size // 2), pool.images))
    x, model = augmented(few.images, e, learner.generators), Grouped(learner.model, groups)
    with autocast(x.device, learner.precision):
        attacked = ascent(model, x, few.labels, e.attack, learner.generators["attack"]).images

    def term() -> Tensor:
        with evaluating(model), autocast(x.device, learner.precision):
            logits = model(attacked)
        return e.objective.group_weight * F.cross_entropy(logits, few.labels)

    return term


def drawn(learner: Learner, count: int, pool: Pixels) -> Int[Tensor, " chosen"]:
    """Indices of ``count`` images of the pool, drawn with replacement."""
    generator = learner.generators["augmentation"]
    chosen = torch.randint(len(pool), (count,), generator=generator, device=generator.device)
    return chosen.to(pool.device)


def gradients(
    learner: Learner,
    clean: Images,
    attacked: Images,
    y: Labels,
    *soft: Soft,
    penalty: Callable[[], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """The batch's mean loss, in nats; its gradients become those of the model's parameters.

    ``soft`` are the teachers' labels; for ``penalty`` see :func:`penalty_of`.
    """
    objective, model, precision = learner.experiment.objective, learner.model, learner.precision
    weights = [weight for _, weight in learner.teachers]

    def loss_of(clean: Images, attacked: Images, y: Labels, *soft: Soft) -> Tensor:
        with autocast(clean.device, precision):
            outputs = forward(model, clean, attacked, objective)
        weighted = list(zip(soft, weights, strict=True))
        loss = total(objective, model, outputs, y, weighted, learner.groups)
        return loss if penalty is None else loss + penalty()

    def learned(*batch: Tensor) -> Tensor:
        model.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        return loss.detach()

    batch, engine = (clean, attacked, y, *soft), compiled(model)
    # Terms of attribution ask the device which classes a batch has; CUDA cannot record that. What
    # a penalty draws is another's in every batch.
    plain = not (objective.needs_features or attacked.requires_grad) and penalty is None
    if engine is None or len(clean) != engine.batch_size or not plain:
        return learned(*batch)
    learning = [p.requires_grad for p in model.parameters()]
    key = "gradients", objective, precision, model.training, *weights, *learning
    loss_of = engine.function(key, loss_of)  # the one that ``learned`` calls from here on
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

    Where several processes share the run, this one's part of both; all draw the same numbers.

    >>> from ccnotes.experiments import dataset
    >>> from ccnotes.setup import build
    >>> e = Experiment(train_size=12, width=4)
    >>> data, generators = dataset(e), {"attack": torch.Generator()}
    >>> x, y = data.train.images, data.train.labels
    >>> clean, attacked = augmented_and_attacked(build(e, data), x, y, e, generators)
    >>> round((attacked - clean).abs().max().item() * 255, 3)
    8.0
    """
    e = experiment
    clean, mine = augmented(x, e, generators), part(len(x))
    if e.attack.eps == 0:
        return clean[mine], clean[mine]
    loss: Literal["kl", "cross-entropy"] = "kl" if e.objective.loss == "trades" else "cross-entropy"
    start = random_start(clean, e.attack, generators["attack"], loss=loss)
    clean, y, start = (values[mine] for values in (clean, y, start))
    found = ascent(model, clean, y, e.attack, None, batchnorm=e.batchnorm, loss=loss, start=start)
    return clean, found.images


def augmented(x: Pixels, e: Experiment, generators: dict[str, torch.Generator]) -> Images:
    """The images as training sees them before an attack."""
    if e.augment:
        x = augment(x, generators["augmentation"])
    if e.cutout:
        x = cutout(x, e.cutout, generators["augmentation"])
    return to_float(x).contiguous(memory_format=torch.channels_last)


def forward(model: Any, clean: Images, attacked: Images, objective: Objective) -> Outputs:
    """What the network gives of the images, and of the attacked ones.

    >>> from ccnotes.models import ConvNet
    >>> model, x = ConvNet(6, 4), torch.rand(2, 3, 16, 16)
    >>> found = forward(model, x, x, Objective(loss="trades"))
    >>> found.attacked.shape, found.clean.shape, found.features
    (torch.Size([2, 6]), torch.Size([2, 6]), None)
    """
    logits = None if objective.loss == "cross-entropy" else model(clean)
    if not objective.needs_features:
        return Outputs(model(attacked), logits)
    features = model.features(attacked)
    return Outputs(model.head(features), logits, features)


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
    average(model, torch.zeros((), device=device), 1 / ranks().count)
    return model
