import pytest
import torch

from ccnotes.data import Split, balanced, split, to_float


@pytest.fixture
def photos():
    """Three classes of eight images each, one pixel large and no two alike."""
    images = torch.arange(24, dtype=torch.uint8).view(24, 1, 1, 1)
    return Split(images=images, labels=torch.arange(3).repeat_interleave(8))


def pixels(part):
    return set(part.images.flatten().tolist())


def test_validation_is_the_same_for_every_seed_balanced_and_not_trained_on(photos):
    parts = [split(photos, size, 6, seed) for size, seed in ((9, 0), (9, 1), (None, 2))]
    (a, validation), (b, _), _ = parts
    assert validation.labels.bincount().tolist() == [2, 2, 2]
    assert pixels(a) != pixels(b)
    for train, held_out in parts:
        assert pixels(held_out) == pixels(validation)
        assert not pixels(train) & pixels(held_out)


def test_the_training_subset_is_balanced_and_the_same_for_a_seed(photos):
    (a, _), (b, _), (whole, _) = (split(photos, size, 6, 3) for size in (11, 11, None))
    assert torch.equal(a.images, b.images)
    assert sorted(a.labels.bincount().tolist()) == [3, 4, 4]
    assert pixels(a) < pixels(whole)


def test_labels_go_with_their_images(photos):
    for part in split(photos, 11, 6, 0):
        assert torch.equal(part.labels, part.images.flatten().long() // 8)


def test_by_default_all_the_rest_is_trained_on_in_the_given_order(photos):
    train, validation = split(photos, None, 6, 0)
    assert train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert pixels(train) | pixels(validation) == set(range(24))


def test_a_split_does_not_depend_on_the_global_generator(photos):
    torch.manual_seed(0)
    a, _ = split(photos, 9, 6, 0)
    torch.manual_seed(1)
    assert torch.equal(a.images, split(photos, 9, 6, 0)[0].images)


def test_small_classes_give_what_they_have():
    labels = torch.tensor([0] * 10 + [1] * 2)
    chosen = balanced(labels, 8, 0)
    assert labels[chosen].bincount().tolist() == [6, 2]
    assert chosen.tolist() == sorted(set(chosen.tolist()))


@pytest.mark.parametrize(
    ("train_size", "validation_size", "message"),
    [
        (None, 22, r"validation_size=22 must lie in 0\.\.21.*smallest has 8\)\. Try 2\."),
        (None, -1, r"validation_size=-1 must lie in 0\.\.21"),
        (19, 6, r"train_size=19 must lie in 3\.\.18.*Set it to 18 or None to train on all"),
        (10**12, 6, r"train_size=1000000000000 must lie in 3\.\.18"),
        (2, 6, r"train_size=2 must lie in 3\.\.18: at least one image of each class"),
    ],
)
def test_sizes_out_of_range(train_size, validation_size, message, photos):
    with pytest.raises(ValueError, match=message):
        split(photos, train_size, validation_size, 0)


@pytest.mark.parametrize(
    ("train_size", "validation_size"), [(None, 2), (18, 6), (None, 6), (3, 21)]
)
def test_sizes_that_the_messages_name_work(train_size, validation_size, photos):
    train, validation = split(photos, train_size, validation_size, 0)
    assert len(validation) == validation_size
    assert len(train) == train_size or len(train) + validation_size == 24
    assert set(train.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("labels", "counts"), [([0, 2, 2], r"\[1, 0, 2\]"), ([], r"\[\]")])
def test_a_class_without_images_will_not_do(labels, counts):
    images = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    photos = Split(images=images, labels=torch.tensor(labels, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"{counts} images .* each class needs one"):
        split(photos, None, 0, 0)


def test_no_validation_images_can_be_had(photos):
    train, validation = split(photos, None, 0, 0)
    assert (len(train), len(validation)) == (24, 0)


def test_a_split_moves_between_devices(photos):
    moved = photos.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert len(moved) == 24


def test_to_float_spans_the_unit_interval():
    pixels = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3))
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels.flatten(), torch.tensor([0, 0.2, 1]))
