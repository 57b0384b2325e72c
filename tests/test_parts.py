"""Images of parts: what is drawn is what the truth says, and one ingredient moves no other."""

import itertools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.linalg import norm

from ccnotes.parts import Kind, Parts, mislabelled, parts

TRUTH = {
    kind: (f"{kind}_parts", f"{kind}_corners", f"{kind}_amplitudes") for kind in get_args(Kind)
}
QUIET = Parts(noise=0.0, image_size=12)


def layer(data, i, kind, size):
    """What one part adds to image ``i``, by loops over its pixels."""
    drawn, corners, amplitudes = (getattr(data, name) for name in TRUTH[kind])
    label = int(data.true_labels[i])
    part = drawn[{"own": label, "shared": int(data.groups[label]), "clutter": i}[kind]]
    top, left = corners[i].tolist()
    added = torch.zeros(3, size, size, dtype=torch.float64)
    for channel, row, column in itertools.product(range(3), range(8), range(8)):
        pixel = amplitudes[i] * part[channel, row, column]
        added[channel, top + row, left + column] = pixel
    return added


@pytest.mark.parametrize("without", [None, *get_args(Kind)])
def test_the_truth_explains_every_pixel(without):
    """Without noise an image is 0.5 plus its parts where the truth says, to rounding."""
    data = parts(12, QUIET, seed=3, without=without)
    for i in range(12):
        expected = 0.5 + sum(layer(data, i, kind, 12) for kind in get_args(Kind))
        found = data.images[i].double() / 255
        assert (found - expected.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-9


@pytest.mark.parametrize("without", get_args(Kind))
@pytest.mark.parametrize("split", ["train", "test"])
def test_without_one_kind_all_else_is_the_same(without, split):
    """To the bit: in what is drawn, and in every pixel that the part would not have covered."""
    whole, bare = (parts(60, seed=5, split=split, without=w) for w in (None, without))
    assert (whole.without, bare.without) == (None, without)
    missing = f"{without}_amplitudes"
    assert (getattr(whole, missing) > 0).any()
    assert not getattr(bare, missing).any()
    for name, value in vars(whole).items():
        if isinstance(value, torch.Tensor) and name not in ("images", missing):
            assert torch.equal(value, getattr(bare, name)), name
    corners = getattr(whole, f"{without}_corners")
    differing = (whole.images != bare.images).any(1)
    assert differing.any()
    for changed, (top, left) in zip(differing, corners.tolist(), strict=True):
        changed[top : top + 8, left : left + 8] = False
    assert not differing.any()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_an_amplitude_scales_its_own_part_and_moves_nothing_else(kind):
    """As graded truth needs it: twice the amplitude, half of it, none."""
    plain = parts(12, seed=2)
    once = getattr(plain, f"{kind}_amplitudes")
    for factor in (0.0, 0.5, 2.0):
        name = f"{kind}_amplitude"
        other = parts(12, replace(Parts(), **{name: factor * getattr(Parts(), name)}), seed=2)
        assert torch.allclose(getattr(other, f"{kind}_amplitudes"), factor * once)
        for same in set(vars(plain)) - {"images", f"{kind}_amplitudes"}:
            a, b = getattr(plain, same), getattr(other, same)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, same
    none = parts(12, replace(Parts(), **{f"{kind}_amplitude": 0}), seed=2)
    assert torch.equal(none.images, parts(12, seed=2, without=kind).images)


def test_fewer_images_are_the_first_of_more():
    few, more = parts(30, seed=4), parts(50, seed=4)
    assert torch.equal(few.images, more.images[:30])
    assert torch.equal(few.clutter_parts, more.clutter_parts[:30])


WHEELS = """
........
oooooooo
oooooooo
.##..##.
#oo##oo#
#oo##oo#
.##..##.
........"""
BONE = """
........
oo####oo
oo####oo
.oooooo.
.oooooo.
oo####oo
oo####oo
........"""


def test_drawn_parts_are_their_masks_in_their_colours():
    """Light pixels in proportion to the colour, dark ones grey and below 0, others 0."""
    data = parts(6, seed=9)
    wheels = data.shared_parts[data.groups[data.classes.index("car")]]
    bone = data.own_parts[data.classes.index("dog")]
    for part, rows, colour in ((wheels, WHEELS, (1, 1, 1)), (bone, BONE, (-0.6, 1, 0.1))):
        marks = np.array([list(row) for row in rows.split()])
        light, dark = part.numpy()[:, marks == "o"], part.numpy()[:, marks == "#"]
        scale = light[1, 0]
        assert scale > 0
        assert np.allclose(light, scale * np.array(colour)[:, None])
        assert np.allclose(dark, dark[0, 0])
        assert dark[0, 0] < 0
        assert not part.numpy()[:, marks == "."].any()


def test_drawn_parts_have_names_and_are_the_same_for_every_seed():
    data, other = parts(6, seed=9), parts(6, seed=1, split="test")
    assert data.classes == ("car", "truck", "bird", "plane", "cat", "dog")
    assert data.own_names == ("cabin", "crate", "beak", "propeller", "fish", "bone")
    assert data.shared_names == ("wheels", "wings", "ears")
    assert torch.equal(data.own_parts, other.own_parts)
    assert torch.equal(data.shared_parts, other.shared_parts)


def test_parts_have_mean_zero_and_root_mean_square_one():
    data = parts(40, Parts(num_classes=20, group_size=4))
    for drawn in (data.own_parts, data.shared_parts, data.clutter_parts):
        torch.testing.assert_close(drawn.mean((1, 2, 3)), torch.zeros(len(drawn)).double())
        torch.testing.assert_close(drawn.square().mean((1, 2, 3)), torch.ones(len(drawn)).double())


def test_parts_by_the_rule_and_clutter_are_symmetric_two_in_five_dark():
    """Dark pixels are grey, light ones have a colour; shared parts are white."""
    data = parts(60, Parts(num_classes=60))
    ruled = torch.cat([data.own_parts[6:], data.shared_parts[3:], data.clutter_parts])
    assert torch.equal(ruled, ruled.flip(3))
    there = (ruled != 0).any(1)
    assert (there.sum((1, 2)) == 40).all()
    dark = (ruled < 0).all(1)
    assert (dark.sum((1, 2)) == 20).all()
    white = data.shared_parts
    assert torch.equal(white, white[:, :1].expand_as(white))


def test_colours_by_the_rule_go_round_by_the_golden_section():
    """Of classes by their number; of clutter at random, so that no hue is missing."""
    data = parts(300, Parts(num_classes=12))
    for label in range(6, 12):
        part = data.own_parts[label].numpy()
        light = part[:, (part > 0).any(0)]
        turn = label * 0.6180339887498949 % 1
        colour = 2 * hsv_to_rgb([turn, 0.85, 0.95]) - 0.7
        assert np.allclose(light / norm(light[:, 0]), colour[:, None] / norm(colour))
    shades = data.clutter_parts.flatten(2).numpy()
    light = [s[:, (s > 0).any(0)][:, 0] for s in shades]
    turns = rgb_to_hsv([(c - c.min()) / (c.max() - c.min()) for c in light])[:, 0]
    # Of ten bins each has 30 of 300, give or take 5.2: five of these are 26.
    assert abs(np.histogram(turns, bins=10, range=(0, 1))[0] - 30).max() < 26


def test_no_two_parts_are_alike():
    """Of 60 classes and 30 groups; a correlation of 0.8 would make two hard to tell apart."""
    data = parts(60, Parts(num_classes=60))
    for drawn in (data.own_parts, data.shared_parts):
        flat = drawn.flatten(1)
        alike = flat @ flat.T / flat.shape[1] - torch.eye(len(flat))
        assert alike.max() < 0.8


@pytest.mark.parametrize(
    ("settings", "classes", "shared", "groups"),
    [
        (
            {"num_classes": 9, "group_size": 3},
            ("car", "truck", "class 2", "bird", "plane", "class 5", "cat", "dog", "class 8"),
            ("wheels", "wings", "ears"),
            [0, 0, 0, 1, 1, 1, 2, 2, 2],
        ),
        (
            {"num_classes": 8},
            ("car", "truck", "bird", "plane", "cat", "dog", "class 6", "class 7"),
            ("wheels", "wings", "ears", "shared 3"),
            [0, 0, 1, 1, 2, 2, 3, 3],
        ),
        (
            {"num_classes": 4, "group_size": 1},
            ("car", "bird", "cat", "class 3"),
            ("wheels", "wings", "ears", "shared 3"),
            [0, 1, 2, 3],
        ),
        ({"num_classes": 3, "group_size": 3}, ("car", "truck", "class 2"), ("wheels",), [0, 0, 0]),
    ],
)
def test_other_numbers_of_classes_and_sizes_of_groups_are_drawn(settings, classes, shared, groups):
    """A bird has no wheels: what is drawn stays with its group, the rule fills up."""
    data = parts(18, Parts(**settings))
    assert (data.classes, data.shared_names, data.groups.tolist()) == (classes, shared, groups)
    assert (len(data.own_parts), len(data.shared_parts)) == (len(classes), len(shared))
    assert data.labels.unique().tolist() == list(range(len(classes)))
    plain = parts(6)
    for name, part in zip(classes, data.own_parts, strict=True):
        if name in plain.classes:
            assert torch.equal(part, plain.own_parts[plain.classes.index(name)])


def test_exactly_the_share_of_training_labels_is_wrong_and_no_other_label():
    for seed in range(3):
        train = parts(960, Parts(label_noise=0.05), seed=seed)
        assert (train.labels != train.true_labels).sum() == 48
        for split in ("validation", "test"):
            held_out = parts(300, Parts(label_noise=0.05), seed=seed, split=split)
            assert torch.equal(held_out.labels, held_out.true_labels)
    assert torch.equal(train.true_labels, torch.arange(960) % 6)
    clean = parts(960, seed=2)
    assert torch.equal(clean.labels, clean.true_labels)
    assert torch.equal(clean.images, train.images)


def test_wrong_labels_are_uniform_over_the_other_classes():
    """Of 60,000 each of 30 pairs has 2,000, give or take 40: five of these are 200."""
    labels = np.arange(60_000) % 6
    given = mislabelled(labels, 6, 1.0, np.random.default_rng(0))
    pairs = np.bincount(6 * labels + given, minlength=36).reshape(6, 6)
    assert not pairs.diagonal().any()
    assert abs(pairs[~np.eye(6, dtype=bool)] - 2000).max() < 200


def test_wrong_labels_fall_on_every_class_and_differ_between_seeds():
    drawn = [parts(960, Parts(label_noise=0.05), seed=seed) for seed in (0, 1)]
    wrong = [(d.labels != d.true_labels).nonzero() for d in drawn]
    assert not torch.equal(*wrong)
    assert (wrong[0] % 6).unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_amplitudes_have_the_mean_and_spread_asked_for_and_are_never_negative():
    """Of 6,000: a mean is known to 0.5 %; at a spread of 0.4 clipping moves it by 0.1 %."""
    data = parts(6000, Parts(image_size=8))
    for kind, amplitude in (("own", 0.22), ("shared", 0.35), ("clutter", 0.25)):
        found = getattr(data, f"{kind}_amplitudes")
        assert found.min() == 0
        assert found.mean().item() == pytest.approx(amplitude, rel=0.03)
        assert found.std().item() == pytest.approx(0.4 * amplitude, rel=0.05)


def test_every_place_in_the_image_is_taken_alike():
    """Of 3 x 3 places each has 333 of 3,000, give or take 17: five of these are 86."""
    data = parts(3000, Parts(image_size=10), seed=1)
    for kind in get_args(Kind):
        top, left = getattr(data, f"{kind}_corners").T
        counts = torch.bincount(3 * top + left, minlength=9)
        assert len(counts) == 9
        assert (counts - 3000 / 9).abs().max() < 86


def test_background_noise_has_the_standard_deviation_asked_for():
    """1.4 million pixels of smooth noise, of which a ninth are free, know it to 0.2 %."""
    bare = {f"{kind}_amplitude": 0.0 for kind in get_args(Kind)}
    images = parts(1200, Parts(noise=0.1, **bare)).images
    assert (images.double() / 255).std().item() == pytest.approx(0.1, rel=0.01)


def test_splits_and_seeds_share_no_image_and_no_ingredient():
    first, *others = (
        parts(50, seed=seed, split=split)
        for seed, split in ((1, "train"), (1, "test"), (1, "validation"), (2, "train"))
    )
    for other in others:
        assert not any(torch.equal(x, y) for x in first.images for y in other.images)
        for name in (*itertools.chain(*TRUTH.values()),):
            if name not in ("own_parts", "shared_parts"):
                assert not torch.equal(getattr(first, name), getattr(other, name)), name
    kinds = [getattr(first, f"{kind}_corners") for kind in get_args(Kind)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(kinds, 2))


def test_same_seed_same_images():
    assert torch.equal(parts(20, seed=5).images, parts(20, seed=5).images)


def test_images_are_pinned_so_that_published_records_keep_their_meaning():
    """Mean pixels of the first images, written down once: other images need another identity."""
    data = parts(6, Parts(**RECIPE), seed=0)
    assert data.images.double().mean((1, 2, 3)).tolist() == pytest.approx(PINNED, abs=0.01)
    train = parts(120, Parts(**RECIPE), seed=0)
    wrong = (train.labels != train.true_labels).nonzero().flatten()
    assert {int(i): int(train.labels[i]) for i in wrong} == WRONG


RECIPE = {
    "own_amplitude": 0.3,
    "shared_amplitude": 0.4,
    "clutter_amplitude": 0.2,
    "amplitude_spread": 0.4,
    "noise": 0.1,
    "label_noise": 0.05,
}
PINNED = [127.26, 130.97, 125.64, 126.61, 123.27, 125.6]
WRONG = {26: 3, 67: 0, 82: 0, 83: 1, 93: 2, 102: 5}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_classes": 5}, "num_classes=5 must be a multiple of group_size=2"),
        ({"num_classes": 2, "group_size": 4}, "num_classes=2 must be a multiple of group_size=4"),
        ({"num_classes": 1, "group_size": 1}, "num_classes=1 must be at least 2"),
        ({"group_size": 0}, "group_size=0 must be at least 1"),
        ({"image_size": 7}, "image_size=7 must be at least 8"),
        ({"num_classes": 6.5}, "num_classes=6.5 must be a whole number"),
        ({"noise": -0.1}, "noise=-0.1 must be a finite number >= 0"),
        ({"own_amplitude": float("nan")}, "own_amplitude=nan must be a finite number >= 0"),
        ({"clutter_amplitude": "0.2"}, "clutter_amplitude='0.2' must be a number"),
        ({"amplitude_spread": float("inf")}, "amplitude_spread=inf must be a finite number >= 0"),
        ({"label_noise": 5}, "at most 1. Did you mean label_noise=5 / 100"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Parts(**setting)


@pytest.mark.parametrize(
    ("count", "settings", "named", "message"),
    [
        (5, {}, {}, "num_images=5 leaves a class without an image: .* num_classes=6"),
        (10**12, {}, {}, "num_images=1000000000000 of image_size=20 take 9,600,000 GB"),
        (60, {"image_size": 100_000}, {}, "num_images=60 of image_size=100000 take 14,400 GB"),
        (6, {}, {"split": "dev"}, "split='dev' is not one of 'train', 'validation', 'test'"),
        (6, {}, {"without": "wheels"}, "without='wheels' is not one of 'own', 'shared', 'clutter'"),
        (6, {}, {"seed": -1}, "seed=-1 must be at least 0"),
        (6.5, {}, {}, "num_images=6.5 must be a whole number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_that_cannot_be_drawn_are_refused_before_any_is(count, settings, named, message):
    with pytest.raises(ValueError, match=message):
        parts(count, Parts(**settings), **named)


def test_an_image_names_only_what_is_drawn_in_it():
    assert parts(6).named(2) == "beak: bird's own; wings: bird and plane; the rest is clutter"
    assert parts(6, without="own").named(2) == "wings: bird and plane; the rest is clutter"
    bare = parts(6, Parts(clutter_amplitude=0, group_size=1))
    assert bare.named(1) == "beak: bird's own; wings: bird"
