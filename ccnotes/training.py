"""The one loop: fit an experiment, write a checkpoint after every epoch, go on from it."""

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from ccnotes import models
from ccnotes.attacks import pgd
from ccnotes.data import Dataset, Split, augment, balanced, to_float
from ccnotes.devices import autocast
from ccnotes.evaluation import evaluate
from ccnotes.experiments import Experiment
from ccnotes.objectives import cross_entropy

NETWORKS = {"convnet": models.ConvNet, "preactresnet": models.PreActResNet}
SPLITS = ("train", "validation", "test")


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
) -> dict[str, Any]:
    """Train, evaluate as it goes, and return the final state, a dictionary.

    Its ``evaluations`` has one dictionary an evaluation (see :func:`evaluate_splits`); ``best``
    and ``last`` hold epoch, weights and the evaluation on all test images. The state is written
    to ``checkpoint`` after every epoch, and read from there where it exists. Raises
    FloatingPointError when the loss stops being finite.
    """
    e = experiment
    model = build(e, dataset).to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        model.parameters(), e.lr, momentum=e.momentum, weight_decay=e.weight_decay
    )
    generators = {
        use: torch.Generator("cpu" if use == "order" else device).manual_seed(stream(e.seed, use))
        for use in ("order", "augmentation", "attack")
    }
    state: dict[str, Any] = {"epoch": 0, "seconds": 0.0, "evaluations": [], "best": {}}
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
    train, test = dataset.train.to(device), dataset.test.to(device)
    parts = {name: part(getattr(dataset, name), e.eval_size).to(device) for name in SPLITS}
    for name, split in parts.items():
        if len(split.labels.unique()) < len(dataset.classes):
            raise ValueError(
                f"the {len(split)} {name} images to evaluate on miss some of the "
                f"{len(dataset.classes)} classes: raise eval_size={e.eval_size} or {name}_size."
            )
    drops = [round(drop * e.epochs) for drop in e.lr_drops]
    started = time.perf_counter() - state["seconds"]

    bar = tqdm(total=e.epochs, initial=state["epoch"], desc=f"{e.name} seed {e.seed}", unit="epoch")
    with bar:
        for epoch in range(state["epoch"] + 1, e.epochs + 1):
            lr = e.lr * 0.1 ** sum(epoch > drop for drop in drops)
            optimiser.param_groups[0]["lr"] = lr
            loss = train_epoch(model, optimiser, train, e, generators, precision)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the training loss became {loss} in epoch {epoch}. Try a learning rate "
                    f"below lr={lr:g}. The {state['epoch']} epochs before are kept in "
                    f"{checkpoint.parent}."
                )
            if epoch % e.eval_every == 0 or epoch == e.epochs:
                found = evaluate_splits(model, parts, e, precision)
                seconds = time.perf_counter() - started
                row = {"epoch": epoch, "lr": lr, "seconds": seconds, "running_loss": loss}
                state["evaluations"].append(row | found)
                score = found["validation_robust_accuracy"]
                if score > state["best"].get("validation_robust_accuracy", -1):
                    weights = {k: v.cpu().clone() for k, v in model.state_dict().items()}
                    state["best"] = {"epoch": epoch, "weights": weights}
                    state["best"]["validation_robust_accuracy"] = score
                bar.set_postfix_str(f"test robust {found['test_robust_accuracy']:.1%}")
            state |= {
                "fingerprint": fingerprint,
                "device": device.type,
                "epoch": epoch,
                "seconds": time.perf_counter() - started,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generators": {name: g.get_state() for name, g in generators.items()},
            }
            write_state(state, checkpoint)
            bar.update()
        bar.set_description_str("best and last epoch on all test images")
        weights = {k: v.cpu().clone() for k, v in model.state_dict().items()}
        state["last"] = {"epoch": e.epochs, "weights": weights}
        for chosen in (state["best"], state["last"]):
            model.load_state_dict(chosen["weights"])
            chosen["test"] = evaluate(
                model, test.images, test.labels, e.eval_attack, seed=e.seed, precision=precision
            )
    return state


def train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    split: Split,
    experiment: Experiment,
    generators: dict[str, torch.Generator],
    precision: str,
) -> float:
    """One pass over the split; returns the mean training loss in nats."""
    e, device = experiment, split.images.device
    model.train()
    total = torch.zeros((), device=device)  # stays there, so that no batch waits for it
    order = torch.randperm(len(split), generator=generators["order"]).to(device)
    for batch in order.split(e.batch_size):
        x, y = split.images[batch], split.labels[batch]
        if e.augment:
            x = augment(x, generators["augmentation"])
        x = to_float(x).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            if e.attack.eps > 0:
                x = pgd(model, x, y, e.attack, generators["attack"], batchnorm=e.batchnorm)
            loss = cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.detach() * len(batch)
    return total.item() / len(split)


def evaluate_splits(
    model: models.Network, splits: dict[str, Split], e: Experiment, precision: str
) -> dict[str, Any]:
    """:func:`ccnotes.evaluation.evaluate` of each split, under names such as ``test_robust_cas``.

    Scalars are floats, the rest are tensors.
    """
    results: dict[str, Any] = {}
    for name, split in splits.items():
        found = evaluate(
            model, split.images, split.labels, e.eval_attack, seed=e.seed, precision=precision
        )
        for key, value in found.items():
            if not key.endswith("class_means"):  # the largest part, kept for best and last only
                results[f"{name}_{key}"] = value if value.ndim else value.item()
    return results


def part(split: Split, count: int) -> Split:
    """At most ``count`` images, as many of each class as of any other; always the same ones."""
    return split.take(balanced(split.labels, min(count, len(split)), seed=0))


def write_state(state: dict[str, Any], checkpoint: Path) -> None:
    """Replace the checkpoint in one step: at any moment the old or the new one is whole."""
    fresh = checkpoint.with_suffix(".new")
    try:
        torch.save(state, fresh)
        os.replace(fresh, checkpoint)
    except (OSError, RuntimeError) as error:
        fresh.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {checkpoint}: {error}. Free some space or choose another folder by "
            f"$CCNOTES_RUNS; the checkpoint of the epoch before stands."
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
    return state
