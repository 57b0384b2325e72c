"""What several test files share: small experiments, and what equal records are."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ccnotes.attacks import PGD, pgd
from ccnotes.data import to_float
from ccnotes.experiments import Experiment
from ccnotes.objectives import Objective
from ccnotes.planted import planted

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
BEST = CHECKPOINTS / "cifar10-full-at-best.safetensors"
needs_weights = pytest.mark.skipif(
    not BEST.is_file(), reason="the networks of full size are in the repository, not in the wheel"
)
SMALL = Experiment(
    name="small",
    train_size=24,
    validation_size=24,
    test_size=30,
    width=4,
    epochs=4,
    batch_size=10,
    attack=PGD(eps=0.05, step_size=0.02, steps=2),
    eval_steps=2,
    eval_every=2,
    precision="float32",
)
# All that a run carries with it beyond its weights.
CARRYING = replace(
    SMALL,
    name="carrying",
    augment=True,
    cutout=4,
    objective=Objective(
        smoothing=0.1,
        teachers=("own-best", "own-average"),
        teacher_weights=(0.3, 0.4),
        push_cas=-0.1,
        push_placebo=-0.1,
        push_contrast=-0.1,
        awp=0.01,
    ),
    average="ema",
)
SWA = replace(SMALL, name="swa", average="swa")


def numbers(record):
    """All that a record says, less what may differ between equal runs."""
    table = record.table.drop(columns="seconds")
    return table, record.best, record.last, record.arrays


def assert_equal_records(a, b):
    for left, right in zip(numbers(a)[:3], numbers(b)[:3], strict=True):
        assert left.equals(right) if hasattr(left, "equals") else left == right
    assert a.arrays.keys() == b.arrays.keys()
    for name, value in a.arrays.items():  # bit for bit; a NaN equals itself
        assert torch.equal(value.view(torch.uint8), b.arrays[name].view(torch.uint8)), name


def taught(weight=0.5, **settings):
    return replace(
        SMALL, objective=Objective(teachers=("small",), teacher_weights=(weight,), **settings)
    )


def replace_everywhere(monkeypatch, function, other):
    """Let ``other`` stand for a function of ccnotes in every module that has it by its name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("ccnotes") and vars(module).get(function.__name__) is function:
            monkeypatch.setattr(module, function.__name__, other)


def attacked_features(model, split, attack, seed):
    """Features of a split's attacked images, and their labels; all in one batch."""
    x = to_float(split.images).contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    return model.features(pgd(model, x, split.labels, attack, generator)).detach(), split.labels


def folder_of_images(root):
    """Planted images of six classes as files under ``root``, twelve of each for either split."""
    for split in ("train", "test"):
        drawn = planted(72, seed=0, split=split)
        for number, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
            path = root / split / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return f"imagefolder:{root}"
