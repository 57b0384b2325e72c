import pytest
import torch

from ccnotes.planted import Planted, footprint, planted


def test_the_truth_explains_every_pixel():
    """Without noise an image is 0.5 plus its two patterns where the truth says, to rounding."""
    data = planted(12, Planted(noise=0.0, num_classes=4, image_size=12, pattern_size=5), seed=3)
    for i, label in enumerate(data.labels):
        expected = torch.full((3, 12, 12), 0.5, dtype=torch.float64)
        for corners, amplitudes, pattern in (
            (data.class_corners, data.class_amplitudes, data.class_patterns[label]),
            (data.group_corners, data.group_amplitudes, data.group_patterns[data.groups[label]]),
        ):
            top, left = corners[i]
            expected[:, top : top + 5, left : left + 5] += amplitudes[i] * pattern
        found = data.images[i].double() / 255
        assert (found - expected.clip(0, 1)).abs().max() <= 0.5 / 255 + 1e-9


def test_a_footprint_is_where_the_pattern_changes_the_image():
    changed = {"noise": 0.0, "class_amplitude": 0.0, "image_size": 12, "pattern_size": 5}
    data = planted(30, Planted(**changed))
    where = footprint(data.group_corners, Planted(**changed))
    assert (where.sum((1, 2)) == 25).all()
    touched = (data.images != 128).any(1)
    assert not (touched & ~where).any()
    # A smooth pattern is nowhere 0 in all three channels; rounding hides few pixels.
    assert (touched & where).sum() > 0.95 * where.sum()


def test_classes_of_a_group_share_its_pattern_and_no_other():
    data = planted(60, Planted(num_classes=6, group_size=3))
    assert data.groups.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(data.group_patterns) == 2
    assert len(data.class_patterns) == 6
    assert torch.bincount(data.labels).tolist() == [10] * 6


def test_patterns_have_mean_zero_and_root_mean_square_one_in_every_channel():
    data = planted(6)
    for patterns in (data.class_patterns, data.group_patterns):
        torch.testing.assert_close(patterns.mean((2, 3)), torch.zeros(len(patterns), 3).double())
        torch.testing.assert_close(
            patterns.square().mean((2, 3)), torch.ones(len(patterns), 3).double()
        )


def test_background_noise_has_the_standard_deviation_asked_for():
    """900,000 pixels of smooth noise know it to 0.3 %; 3 x 3 means leave 100,000 free ones."""
    images = planted(1200, Planted(class_amplitude=0.0, group_amplitude=0.0, noise=0.1)).images
    assert (images.double() / 255).std().item() == pytest.approx(0.1, rel=0.01)


def test_splits_share_patterns_but_no_image_and_seeds_share_nothing():
    train, test = planted(50, seed=1), planted(50, seed=1, split="test")
    other = planted(50, seed=2)
    assert torch.equal(train.class_patterns, test.class_patterns)
    assert not torch.equal(train.class_patterns, other.class_patterns)
    for a, b in ((train, test), (train, other)):
        assert not any(torch.equal(x, y) for x in a.images for y in b.images)


def test_same_seed_same_images():
    assert torch.equal(planted(20, seed=5).images, planted(20, seed=5).images)


def test_images_are_pinned_so_that_published_records_keep_their_meaning():
    """Mean pixels of the first images, written down once: other images need another identity."""
    means = planted(6, Planted(**RECIPE), seed=0).images.double().mean((1, 2, 3))
    assert means.tolist() == pytest.approx(PINNED, abs=0.01)


RECIPE = {"class_amplitude": 0.1, "group_amplitude": 0.1, "noise": 0.1}
PINNED = [124.82, 126.06, 130.16, 131.24, 128.18, 126.40]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_classes": 5}, "num_classes=5 must be .* multiple of group_size=2"),
        ({"num_classes": 1, "group_size": 1}, "num_classes=1 must be at least 2"),
        ({"pattern_size": 17}, "pattern_size=17 must lie between 4 and image_size=16"),
        ({"noise": -0.1}, r"noise=-0.1 must be a finite number >= 0"),
        ({"class_amplitude": float("nan")}, "class_amplitude=nan"),
    ],
)
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Planted(**setting)


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (5, {}, "num_images=5 leaves a class without an image"),
        (
            10**12,
            {},
            "num_images=1000000000000 of image_size=16 take 6,144,000 GB",
        ),
        (60, {"image_size": 100_000}, "num_images=60 of image_size=100000 take 14,400 GB"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused_before_any_is(count, settings, message):
    with pytest.raises(ValueError, match=message):
        planted(count, Planted(**settings))


def test_a_split_is_one_of_three():
    with pytest.raises(ValueError, match="split='dev' is not one of 'train', 'validation', 'test'"):
        planted.__wrapped__(6, split="dev")  # past the types, which tests check
