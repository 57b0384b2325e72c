"""Evaluation, on a trained network."""

import pytest
import torch

from ccnotes.attacks import pgd
from ccnotes.evaluation import evaluate
from ccnotes.experiments import dataset
from ccnotes.records import run
from tests.helpers import SMALL


def test_evaluation_counts_right_answers_per_class():
    found, data = run(SMALL), dataset(SMALL).test
    model = found.model("last")
    x = pgd(
        model, data.images / 255, data.labels, SMALL.eval_attack, torch.Generator().manual_seed(0)
    )
    right = (model(x).argmax(1) == data.labels).float()
    result = evaluate(model, data.images, data.labels, SMALL.eval_attack)
    assert result.robust.accuracy.item() == pytest.approx(right.mean().item())
    for label in range(6):
        mean = right[data.labels == label].mean().item()
        assert result.robust.class_accuracy[label].item() == pytest.approx(mean)
