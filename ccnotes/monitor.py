"""What is kept of a network while it learns, and of the best and the last one."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ccnotes.attacks import PGD
from ccnotes.data import Dataset, Split, balanced
from ccnotes.evaluation import evaluate, features_of, measure, radii, stage_similarity
from ccnotes.experiments import Experiment
from ccnotes.models import Network
from ccnotes.onestep import gradient_alignment

ALIGNED = 200  # images of a split whose gradients' alignment is measured
# Of matrices, those that a chapter or somebody who swaps heads and features may ask for.
KEPT = {
    "test_clean_similarity",
    "test_clean_instance_similarity",
    "test_robust_instance_similarity",
    *(
        f"{name}_robust_{matrix}"
        for name in ("train", "test")
        for matrix in ("similarity", "centred_similarity", "blind_similarity", "class_means")
    ),
    *(f"{name}_robust_confusion" for name in ("train", "validation", "test")),
}


class Examined(NamedTuple):
    """The images that a run is evaluated on.

    >>> from ccnotes.experiments import dataset
    >>> e = Experiment(train_size=12, validation_size=12, test_size=18, eval_size=12)
    >>> splits = examined(dataset(e), e, torch.device("cpu"))
    >>> {name: len(split) for name, split in splits.between_epochs().items()}, len(splits.final)
    ({'train': 12, 'validation': 12, 'test': 12}, 18)
    """

    train: Split  # at most ``eval_size`` of each, used between epochs
    validation: Split
    test: Split
    final: Split  # at most ``final_size`` test images, for the best and the last epoch
    without: dict[str, Split]  # at most ``eval_size`` test images that lack a kind of part

    def between_epochs(self) -> dict[str, Split]:
        """The images used between epochs, by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def examined(dataset: Dataset, e: Experiment, device: torch.device) -> Examined:
    """The images that ``e`` is evaluated on. Raises ValueError where some miss a class."""
    splits = {
        "train": part(dataset.train, e.eval_size),
        "validation": part(dataset.validation, e.eval_size),
        "test": part(dataset.test, e.eval_size),
        "final": final_part(dataset.test, e),
    }
    for name, split in splits.items():
        if len(split.labels.unique()) < len(dataset.classes):
            raise ValueError(
                f"the {len(split)} {name} images to evaluate on miss some of the "
                f"{len(dataset.classes)} classes: raise eval_size={e.eval_size} or "
                f"{name}_size."
            )
    without = {kind: part(split, e.eval_size).to(device) for kind, split in dataset.without.items()}
    return Examined(**{name: split.to(device) for name, split in splits.items()}, without=without)


def part(split: Split, count: int) -> Split:
    """At most ``count`` images, as many of each class as of any other; always the same ones.

    >>> from ccnotes.experiments import dataset
    >>> few = part(dataset(Experiment()).test, 12)
    >>> few.labels.sort().values.tolist()
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    """
    return split.take(balanced(split.labels, min(count, len(split)), seed=0))


def final_part(test: Split, e: Experiment) -> Split:
    """The test images on which the best and the last network are examined."""
    return part(test, e.final_size or len(test))


def evaluate_splits(
    model: Network, splits: Examined, e: Experiment, precision: str
) -> dict[str, Any]:
    """:func:`ccnotes.evaluation.evaluate` of each split, under names such as ``test_robust_cas``.

    And of the test images that lack a kind of part: ``without_own_robust_accuracy``, confusion.
    And :func:`warning_signs` of training and test images.
    Scalars are floats, the rest are tensors; of matrices only those of :data:`KEPT`, and the
    head's own.

    >>> from ccnotes.experiments import dataset
    >>> from ccnotes.models import ConvNet
    >>> e = Experiment(train_size=12, validation_size=12, test_size=12, eval_steps=1)
    >>> splits = examined(dataset(e), e, torch.device("cpu"))
    >>> found = evaluate_splits(ConvNet(6, 4), splits, e, "float32")
    >>> 0 <= found["test_robust_accuracy"] <= 1, found["test_robust_similarity"].shape
    (True, torch.Size([6, 6]))
    """
    results: dict[str, Any] = {}
    for name, split in splits.between_epochs().items():
        found = evaluate(
            model, split.images, split.labels, e.eval_attack, seed=e.seed, precision=precision
        )
        for key, value in found.flat().items():
            if value.ndim == 0:
                results[f"{name}_{key}"] = value.item()
            elif value.ndim == 1 or f"{name}_{key}" in KEPT:
                results[f"{name}_{key}"] = value
    for kind, split in splits.without.items():
        features = features_of(
            model, split.images, split.labels, e.eval_attack, seed=e.seed, precision=precision
        )
        left = measure(features, split.labels, model.head)
        results[f"without_{kind}_robust_accuracy"] = left.accuracy.item()
        results[f"without_{kind}_robust_confusion"] = left.confusion.cpu()
    results |= warning_signs(model, splits.train, e, precision, "train")
    results |= warning_signs(model, splits.test, e, precision, "test")
    results["head_similarity"] = found.robust.head_similarity  # the same for all images
    results |= {f"head_{k}": v.detach().cpu().clone() for k, v in model.head.named_parameters()}
    results["test_sample_attribution"] = sample_attribution(model, splits.test, e, precision)
    return results


def warning_signs(
    model: Network, split: Split, e: Experiment, precision: str, name: str
) -> dict[str, float]:
    """What tells catastrophic overfitting, of at most :data:`ALIGNED` images for the second.

    ``train_fgsm_accuracy``, in [0, 1], which goes up in it while that under PGD falls to nothing,
    and ``train_gradient_alignment`` (see :func:`ccnotes.onestep.gradient_alignment`).

    >>> from ccnotes.experiments import dataset
    >>> from ccnotes.models import ConvNet
    >>> e = Experiment(test_size=12)
    >>> list(warning_signs(ConvNet(6, 4), dataset(e).test, e, "float32", "test"))
    ['test_fgsm_accuracy', 'test_gradient_alignment']
    """
    attack = e.eval_attack
    one_step = replace(attack, step_size=attack.eps, steps=1, random_start=False)
    few = part(split, ALIGNED)
    return {
        f"{name}_fgsm_accuracy": accuracy(model, split, one_step, e, precision),
        f"{name}_gradient_alignment": gradient_alignment(
            model, few.images, few.labels, attack.eps, norm=attack.norm, seed=e.seed
        ),
    }


def accuracy(model: Network, split: Split, attack: PGD, e: Experiment, precision: str) -> float:
    """The share of attacked images that the network recognises."""
    images, labels = split.images, split.labels
    features = features_of(model, images, labels, attack, seed=e.seed, precision=precision)
    with torch.no_grad():
        right = model.head(features).argmax(1) == labels
    return float(right.float().mean())


def examine(model: Network, splits: Examined, e: Experiment, precision: str) -> dict[str, Tensor]:
    """What is kept of the best and of the last epoch.

    :func:`ccnotes.evaluation.evaluate` of the final test images, with bootstrap draws, and
    ``stage_similarity`` and :func:`ccnotes.evaluation.radii` of those used between epochs.

    >>> from ccnotes.experiments import dataset
    >>> from ccnotes.models import ConvNet
    >>> e = Experiment(train_size=12, validation_size=12, test_size=12, eval_steps=1)
    >>> splits = examined(dataset(e), e, torch.device("cpu"))
    >>> found = examine(ConvNet(6, 4), splits, e, "float32")
    >>> found["robust_cas_draws"].shape, found["robust_stage_similarity"].shape
    (torch.Size([1000]), torch.Size([3, 6, 6]))
    """
    few, final, attack, seed = splits.test, splits.final, e.eval_attack, e.seed
    found = evaluate(
        model, final.images, final.labels, attack, draws=1000, seed=seed, precision=precision
    ).flat()
    found["robust_stage_similarity"] = stage_similarity(
        model, few, attack, seed=seed, precision=precision
    )
    return found | radii(model, few, attack, seed=seed, precision=precision).flat()


def sample_attribution(
    model: Network, split: Split, e: Experiment, precision: str
) -> Float[Tensor, "classes features"]:
    """Attribution vectors of the first image of each class, attacked; in logits.

    >>> from ccnotes.experiments import dataset
    >>> from ccnotes.models import ConvNet
    >>> e = Experiment(test_size=12, eval_steps=1)
    >>> sample_attribution(ConvNet(6, 4), dataset(e).test, e, "float32").shape
    torch.Size([6, 16])
    """
    labels = torch.arange(model.head.out_features, device=split.labels.device)
    first = torch.stack([(split.labels == label).nonzero()[0, 0] for label in labels])
    images = split.images[first]
    features = features_of(model, images, labels, e.eval_attack, seed=e.seed, precision=precision)
    return (features * model.head.weight.detach()).cpu()


def validated(model: Network, split: Split, e: Experiment, precision: str) -> tuple[float, float]:
    """Accuracy, in [0, 1], and loss, in nats, on attacked images, as :func:`evaluate_splits`.

    Alone, for epochs that are judged by them and nothing else.
    """
    features = features_of(
        model, split.images, split.labels, e.eval_attack, seed=e.seed, precision=precision
    )
    found = measure(features, split.labels, model.head)
    return found.accuracy.item(), found.loss.item()
