"""The one loop: fit an experiment, write a checkpoint after every epoch, go on from it."""

import math
import os
import time
from collections.abc import Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    update_bn,
)
from tqdm.auto import tqdm

from ccnotes import models
from ccnotes.attacks import pgd
from ccnotes.data import Dataset, Split, augment, balanced, cutout, to_float
from ccnotes.devices import autocast
from ccnotes.evaluation import evaluate, features_of, radii, stage_similarity
from ccnotes.experiments import Experiment
from ccnotes.objectives import OWN_AVERAGE, OWN_BEST, Objective, perturbed, soft_labels, total
from ccnotes.types import Features, Images, Logits

NETWORKS = {"convnet": models.ConvNet, "preactresnet": models.PreActResNet}
SPLITS = ("train", "validation", "test")
SAVE_EVERY = 120.0  # seconds between checkpoints, where an epoch takes longer


class OutOfTime(Exception):
    """The time allowed is over; the checkpoint has everything."""


def build(experiment: Experiment, dataset: Dataset) -> models.Network:
    """The experiment's network; its initial weights depend on the seed alone."""
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
    """
    return int(np.random.SeedSequence([seed, *use.encode()]).generate_state(1)[0])


def channel_statistics(images: UInt8[Tensor, "b c h w"]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], to four digits.

    From counts of the 256 values: exact, and without a float copy of the dataset.
    """
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double().cpu() / counts.sum(1, keepdim=True).cpu()
    mean = share @ values
    count = images.numel() / images.shape[1]
    variance = (share * (values - mean[:, None]) ** 2).sum(1) * count / (count - 1)
    std = variance.sqrt().clamp_min(1e-4)
    return [round(v, 4) for v in mean.tolist()], [round(v, 4) for v in std.tolist()]


def fit(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Path,
    *,
    fingerprint: str,
    device: torch.device,
    precision: str,
    teachers: dict[str, models.Network] | None = None,
    facts: dict[str, Any] | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Train, evaluate as it goes, and return the final state, a dictionary.

    Its ``evaluations`` has one dictionary an evaluation (see :func:`evaluate_splits`); ``best``
    and ``last`` hold epoch, weights and the evaluation on the experiment's ``final_size`` test
    images; ``sessions`` the different ``facts`` (provenance) that it was called with. The state
    is written to ``checkpoint`` after every epoch and every few minutes, and read from there
    where it exists. ``teachers`` has the networks of the objective's teachers but the run's own.
    Raises OutOfTime, with everything kept, rather than go on beyond ``minutes``,
    FloatingPointError when the loss stops being finite, and ValueError for an unfit teacher.
    """
    e = experiment
    begun = time.perf_counter()
    model = build(e, dataset).to(device).to(memory_format=torch.channels_last)
    optimiser = sgd(model, e)
    generators = {
        use: torch.Generator("cpu" if use == "order" else device).manual_seed(stream(e.seed, use))
        for use in ("order", "augmentation", "attack")
    }
    train = dataset.train.to(device)
    test = part(dataset.test, e.final_size or len(dataset.test)).to(device)
    parts = {name: part(getattr(dataset, name), e.eval_size).to(device) for name in SPLITS}
    for name, split in (parts | {"final": test}).items():
        if len(split.labels.unique()) < len(dataset.classes):
            raise ValueError(
                f"the {len(split)} {name} images to evaluate on miss some of the "
                f"{len(dataset.classes)} classes: raise eval_size={e.eval_size} or {name}_size."
            )
    groups = torch.tensor(dataset.groups, device=device) if dataset.groups else None
    if e.objective.contrast and len(set(dataset.groups or ())) in (0, 1, len(dataset.classes)):
        raise ValueError(
            f"contrast={e.objective.contrast} needs classes that share a true group and others "
            f"that don't; {dataset.title} have the groups {dataset.groups}: leave it at 0."
        )
    networks: dict[str, models.Network] = dict(teachers or {})
    average: Any = None
    if OWN_BEST in e.objective.teachers:
        networks[OWN_BEST] = deepcopy(model)
    if e.average or OWN_AVERAGE in e.objective.teachers:
        decay = e.ema_decay ** (1 / math.ceil(len(train) / e.batch_size))
        # SWA's own multi_avg_fn cannot average BatchNorm's counters, which are integers, on CUDA.
        swa = get_swa_avg_fn() if e.average == "swa" else None
        ema = None if swa else get_ema_multi_avg_fn(decay)
        average = AveragedModel(model, avg_fn=swa, multi_avg_fn=ema, use_buffers=True)
        average.requires_grad_(False)
        networks[OWN_AVERAGE] = average.module
    for name, network in networks.items():
        check_teacher(name, network, model)
        network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    drops = [round(drop * e.epochs) for drop in e.lr_drops]
    state: dict[str, Any] = {
        "fingerprint": fingerprint,
        "device": device.type,
        "sessions": [],
        "epoch": 0,  # finished
        "batch": 0,  # finished, of the epoch that runs
        "order": torch.empty(0),
        "total": torch.zeros((), device=device),  # there, so that no batch waits for the loss
        "seconds": 0.0,
        "pause": 0.0,  # seconds that an evaluation takes
        "evaluations": [],
        "best": {},
    }
    if checkpoint.exists():
        state = read_state(checkpoint, fingerprint)
        if state["device"] != device.type:
            raise ValueError(
                f"{checkpoint} was written on {state['device']}, so this run cannot go on bit for "
                f"bit on {device.type}: give --device {state['device']}, or start --fresh."
            )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        for name, generator in generators.items():
            generator.set_state(state["generators"][name])
        state["total"] = state["total"].to(device)
        if average:
            average.load_state_dict(state["average"])
    if facts and not any(facts | {"date": s["date"]} == s for s in state["sessions"]):
        state["sessions"].append(facts)
    started, saved, progressed = begun - state["seconds"], begun, False

    def save() -> None:
        nonlocal saved
        mean_loss = state["total"].item() / len(train)
        whole = all(bool(value.isfinite().all()) for value in model.state_dict().values())
        if not (math.isfinite(mean_loss) and whole):
            raise FloatingPointError(
                f"the training loss became {mean_loss if whole else math.nan} in epoch "
                f"{state['epoch'] + 1}. Try a learning rate below "
                f"lr={optimiser.param_groups[0]['lr']:g}. What came before is kept in "
                f"{checkpoint.parent}."
            )
        saved = time.perf_counter()
        state["seconds"] = saved - started
        state["model"], state["optimiser"] = model.state_dict(), optimiser.state_dict()
        state["generators"] = {name: g.get_state() for name, g in generators.items()}
        if average:
            state["average"] = average.state_dict()
        write_state(state, checkpoint)

    def stop_in_time(needed: float = 0.0) -> None:
        # Something is done each time, however little time there is, so that the run ends.
        over = minutes is not None and time.perf_counter() + needed > begun + 60 * minutes
        if over and progressed:
            save()
            raise OutOfTime(f"stopped after epoch {state['epoch']} of {e.epochs}")

    def shown() -> models.Network:
        """The network to evaluate."""
        if e.average and average.n_averaged:
            return with_statistics(average.module, parts["train"], e, precision)
        return model

    bar = tqdm(total=e.epochs, initial=state["epoch"], desc=f"{e.name} seed {e.seed}", unit="epoch")
    with bar:
        for epoch in range(state["epoch"] + 1, e.epochs + 1):
            lr = e.lr * 0.1 ** sum(epoch > drop for drop in drops)
            optimiser.param_groups[0]["lr"] = lr
            if not state["batch"]:
                state["order"] = torch.randperm(len(train), generator=generators["order"])
                state["total"] = torch.zeros((), device=device)
            batches = state["order"].to(device).split(e.batch_size)
            if OWN_BEST in networks and state["best"]:
                networks[OWN_BEST].load_state_dict(state["best"]["weights"])
            guides = [
                (networks[name], weight)
                for name, weight in zip(e.objective.teachers, e.objective.weights, strict=True)
                if name != OWN_BEST or state["best"]
            ]
            model.train()
            for batch in batches[state["batch"] :]:
                x, y = train.images[batch], train.labels[batch]
                loss = train_step(model, optimiser, x, y, e, generators, precision, guides, groups)
                state["total"] += loss * len(batch)
                state["batch"] += 1
                progressed = True
                ends = state["batch"] == len(batches) and epoch > e.swa_start * e.epochs
                if average and (e.average != "swa" or ends):
                    average.update_parameters(model)
                if time.perf_counter() > saved + SAVE_EVERY:
                    save()
                stop_in_time()
            if full := epoch % e.eval_every == 0 or epoch == e.epochs:
                stop_in_time(state["pause"])
                save()
            if full or epoch % (e.validate_every or e.eval_every) == 0:
                evaluated = shown()
                if full:
                    found = evaluate_splits(evaluated, parts, e, precision)
                    progressed = True
                    seconds = time.perf_counter() - started
                    state["pause"] = seconds - state["seconds"]
                    mean_loss = state["total"].item() / len(train)
                    row = {"epoch": epoch, "lr": lr, "seconds": seconds, "running_loss": mean_loss}
                    state["evaluations"].append(row | found)
                    score = found["validation_robust_accuracy"]
                    bar.set_postfix_str(f"test robust {found['test_robust_accuracy']:.1%}")
                else:
                    score = robust_accuracy(evaluated, parts["validation"], e, precision)
                # Before SWA's first average there is nothing of its own to choose.
                candidate = e.average != "swa" or average.n_averaged > 0
                if candidate and score > state["best"].get("validation_robust_accuracy", -1):
                    state["best"] = {"epoch": epoch, "weights": copied(evaluated)}
                    state["best"]["validation_robust_accuracy"] = score
            state |= {"epoch": epoch, "batch": 0}
            save()
            bar.update()
        bar.set_description_str("best and last epoch on the test images")
        if "last" not in state:
            state["last"] = {"epoch": e.epochs, "weights": copied(shown())}
        share = len(test) / sum(len(split) for split in parts.values())
        for chosen in (state["best"], state["last"]):
            if "test" not in chosen:
                stop_in_time((share + 3) * state["pause"])
                model.load_state_dict(chosen["weights"])
                chosen["test"] = examine(model, test, parts["test"], e, precision)
                model.load_state_dict(state["last"]["weights"])
                progressed = True
                save()
    return state


def sgd(model: nn.Module, experiment: Experiment) -> torch.optim.SGD:
    e = experiment
    return torch.optim.SGD(
        model.parameters(), e.lr, momentum=e.momentum, weight_decay=e.weight_decay, fused=True
    )


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: UInt8[Tensor, "batch channels height width"],
    y: Int[Tensor, " batch"],
    experiment: Experiment,
    generators: dict[str, torch.Generator],
    precision: str,
    teachers: Sequence[tuple[models.Network, float]] = (),
    groups: Int[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Augment, attack and learn from one batch, model in train mode; returns the mean loss.

    ``teachers`` are networks and their weights in the loss, ``groups`` the classes' true ones.
    """
    o = experiment.objective
    with autocast(x.device, precision):
        clean, attacked = inputs(model, x, y, experiment, generators)
        with torch.no_grad():
            soft = [(soft_labels(t(attacked), y, o, groups), weight) for t, weight in teachers]
        outputs = forward(model, clean, attacked, o)
    loss = total(o, model, *outputs, y, soft, groups)
    optimiser.zero_grad()
    loss.backward()
    if o.awp:
        with perturbed(model, o.awp):
            # A second block, as autocast would go on with the weights of before.
            with autocast(x.device, precision):
                outputs = forward(model, clean, attacked, o)
            optimiser.zero_grad()
            total(o, model, *outputs, y, soft, groups).backward()
    optimiser.step()
    return loss.detach()


def inputs(
    model: nn.Module,
    x: UInt8[Tensor, "batch channels height width"],
    y: Int[Tensor, " batch"],
    experiment: Experiment,
    generators: dict[str, torch.Generator],
) -> tuple[Images, Images]:
    """What training makes of images: augmented ones, and those attacked."""
    e = experiment
    if e.augment:
        x = augment(x, generators["augmentation"])
    if e.cutout:
        x = cutout(x, e.cutout, generators["augmentation"])
    clean = to_float(x).contiguous(memory_format=torch.channels_last)
    if e.attack.eps == 0:
        return clean, clean
    how: dict[str, Any] = {"batchnorm": "train" if e.batchnorm == "paper" else e.batchnorm}
    if e.objective.loss == "trades":
        how["loss"] = "kl"
    return clean, pgd(model, clean, y, e.attack, generators["attack"], **how)


def forward(
    model: Any, clean: Images, attacked: Images, objective: Objective
) -> tuple[Logits | None, Features | None, Logits]:
    """Clean logits and attacked features, each where the objective needs it; attacked logits."""
    logits = None if objective.loss == "cross-entropy" else model(clean)
    if not (objective.cas or objective.placebo or objective.contrast):
        return logits, None, model(attacked)
    features = model.features(attacked)
    return logits, features, model.head(features)


def with_statistics(
    model: models.Network, train: Split, experiment: Experiment, precision: str
) -> models.Network:
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
        pairs = [
            inputs(model, train.images[batch], train.labels[batch], experiment, generators)
            for batch in order.split(experiment.batch_size)
        ]
        plain = experiment.objective.loss == "cross-entropy"
        update_bn(chain.from_iterable(pair[plain:] for pair in pairs), model)
    return model


def evaluate_splits(
    model: models.Network, splits: dict[str, Split], e: Experiment, precision: str
) -> dict[str, Any]:
    """:func:`ccnotes.evaluation.evaluate` of each split, under names such as ``test_robust_cas``.

    Scalars are floats, the rest are tensors; of matrices only those of the test images.
    """
    results: dict[str, Any] = {}
    for name, split in splits.items():
        found = evaluate(
            model, split.images, split.labels, e.eval_attack, seed=e.seed, precision=precision
        )
        for key, value in found.flat().items():
            if value.ndim == 0:
                results[f"{name}_{key}"] = value.item()
            elif value.ndim == 1 or (name == "test" and key.endswith("_similarity")):
                results[f"{name}_{key}"] = value
    results["test_sample_attribution"] = samples_attribution(model, splits["test"], e, precision)
    return results


def examine(
    model: models.Network, test: Split, few: Split, e: Experiment, precision: str
) -> dict[str, Tensor]:
    """What is kept of the best and of the last epoch.

    :func:`ccnotes.evaluation.evaluate` of the test images, with bootstrap draws, and
    ``stage_similarity`` and :func:`ccnotes.evaluation.radii` of a few.
    """
    attack = e.eval_attack
    how: dict[str, Any] = {"seed": e.seed, "precision": precision}
    found = evaluate(model, test.images, test.labels, attack, draws=1000, **how).flat()
    found["robust_stage_similarity"] = stage_similarity(model, few, attack, **how)
    return found | radii(model, few, attack, **how).flat()


def samples_attribution(
    model: models.Network, split: Split, e: Experiment, precision: str
) -> Float[Tensor, "classes features"]:
    """Attribution vectors of the first image of each class, attacked."""
    labels = torch.arange(model.head.out_features, device=split.labels.device)
    first = torch.stack([(split.labels == label).nonzero()[0, 0] for label in labels])
    images = split.images[first]
    features = features_of(model, images, labels, e.eval_attack, seed=e.seed, precision=precision)
    return (features * model.head.weight.detach()).cpu()


def robust_accuracy(model: models.Network, split: Split, e: Experiment, precision: str) -> float:
    """The accuracy that :func:`evaluate_splits` finds on attacked images, alone."""
    how: dict[str, Any] = {"seed": e.seed, "precision": precision}
    features = features_of(model, split.images, split.labels, e.eval_attack, **how)
    return (model.head(features).argmax(1) == split.labels).float().mean().item()


def check_teacher(name: str, teacher: models.Network, student: models.Network) -> None:
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


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in model.state_dict().items()}


def part(split: Split, count: int) -> Split:
    """At most ``count`` images, as many of each class as of any other; always the same ones."""
    return split.take(balanced(split.labels, min(count, len(split)), seed=0))


def write_state(state: dict[str, Any], checkpoint: Path) -> None:
    """Replace the checkpoint in one step: at any moment the old or the new one is whole."""
    fresh = checkpoint.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, checkpoint)
    except (OSError, RuntimeError) as error:
        fresh.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {checkpoint}: {error}. Free some space or choose another folder by "
            f"$CCNOTES_RUNS; the checkpoint before stands."
        ) from error


def read_state(checkpoint: Path, fingerprint: str) -> dict[str, Any]:
    """A checkpoint's state. Raises ValueError where it is damaged or another run's."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        found = state["fingerprint"]
    except Exception as error:
        raise ValueError(
            f"{checkpoint} cannot be read as a checkpoint ({type(error).__name__}). "
            f"Delete it to start this run from its first epoch."
        ) from error
    if found != fingerprint:
        raise ValueError(
            f"{checkpoint} belongs to run {found}, not to {fingerprint}. Move it away."
        )
    if missing := {"total", "sessions", "pause"} - state.keys():
        raise ValueError(
            f"{checkpoint} lacks {', '.join(sorted(missing))}: another version of ccnotes wrote "
            f"it. Delete it to start this run from its first epoch."
        )
    return state
