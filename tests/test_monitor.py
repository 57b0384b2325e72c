"""What a run is evaluated on."""

from dataclasses import replace

import pytest
import torch

from ccnotes.data import Split
from ccnotes.monitor import part
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
