"""What a run is evaluated on."""

from dataclasses import replace

import pytest
import torch

from ccnotes.attacks import PGD
from ccnotes.attribution import class_similarity
from ccnotes.data import Split
from ccnotes.evaluation import evaluate
from ccnotes.experiments import dataset
from ccnotes.models import ConvNet
from ccnotes.monitor import examined, part, warning_signs
from ccnotes.onestep import gradient_alignment
from ccnotes.records import run
from tests.helpers import (
    SMALL,
    folder_of_images,
)


def test_a_part_has_as_many_images_of_each_class_and_always_the_same():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1)
    split = Split(images=images, labels=labels)
    found = part(split, 30)
    assert torch.bincount(found.labels).tolist() == [10, 10, 10]
    chosen = found.images.flatten().long()
    assert len(chosen.unique()) == 30
    assert torch.equal(labels[chosen], found.labels)
    assert torch.equal(part(split, 30).images, found.images)
    assert len(part(split, 1000)) == 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_size": 3}, "the 3 train images .* raise eval_size=3"),
        ({"final_size": 3}, "the 3 final images .* or final_size"),
    ],
)
def test_parts_that_miss_a_class_are_refused_before_training(settings, message, tmp_path):
    """Of photographs; of planted images the number of classes is known before they are drawn."""
    photos = replace(SMALL, data=folder_of_images(tmp_path / "images"), **settings)
    with pytest.raises(ValueError, match=message):
        run(photos)


def test_of_parts_what_is_left_without_a_kind_of_part_is_kept():
    """As evaluated by itself: the network that was last, on test images that lack that part."""
    e = replace(SMALL, data="parts", eval_size=18)
    found = run(e)
    for kind, images in dataset(e).without.items():
        few = part(images, 18)
        expected = evaluate(found.model("last"), few.images, few.labels, e.eval_attack, seed=e.seed)
        kept = found.table[f"without_{kind}_robust_accuracy"].iloc[-1]
        assert kept == pytest.approx(expected.robust.accuracy.item(), 1e-5)
        confusion = found.arrays[f"without_{kind}_robust_confusion"]
        assert confusion.shape == (2, 6, 6)
        assert torch.equal(confusion[-1], expected.robust.confusion)


def test_class_means_and_heads_of_every_evaluation_give_its_similarity():
    """To the three digits that they are kept with."""
    found = run(SMALL)
    for split in ("train", "test"):
        means = found.vectors[f"{split}_robust_class_means"].float()
        for epoch, head in enumerate(found.vectors["head_weight"].float()):
            similarity = class_similarity(means[epoch] * head)
            kept = found.arrays[f"{split}_robust_similarity"][epoch].float()
            torch.testing.assert_close(similarity, kept, atol=5e-3, rtol=0)


def test_every_evaluation_keeps_the_warning_signs_of_a_collapse():
    """Accuracy under one full step from the image, and alignment, on training and test images."""
    found = run(SMALL)
    model, data = found.model("last"), dataset(SMALL)
    attack = PGD(eps=0.05, step_size=0.05, steps=1, random_start=False)
    for name in ("train", "test"):
        split = getattr(data, name)
        hit = evaluate(model, split.images, split.labels, attack).robust.accuracy.item()
        assert found.table[f"{name}_fgsm_accuracy"].iloc[-1] == pytest.approx(hit, abs=1e-6)
        cosine = gradient_alignment(model, split.images, split.labels, 0.05)
        kept = found.table[f"{name}_gradient_alignment"].iloc[-1]
        assert kept == pytest.approx(cosine, abs=1e-5)
        assert 0 < kept < 1


def test_alignment_is_measured_on_two_hundred_images_at_most():
    e = replace(SMALL, test_size=240)
    test = examined(dataset(e), e, torch.device("cpu")).test
    model, few = ConvNet(6, width=4), part(test, 200)
    found = warning_signs(model, test, e, "float32", "test")["test_gradient_alignment"]
    assert found == gradient_alignment(model, few.images, few.labels, 0.05)
