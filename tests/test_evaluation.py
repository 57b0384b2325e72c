import math

import numpy as np
import pytest
import torch
from scipy import stats

from ccnotes.attacks import PGD
from ccnotes.attribution import class_attribution, class_similarity
from ccnotes.data import Split
from ccnotes.evaluation import (
    bootstrapped,
    described,
    evaluate,
    features_of,
    interval,
    judged,
    mcnemar,
    neural_collapse,
    radii,
    stage_similarity,
    verdict,
)
from ccnotes.models import ConvNet

ATTACK = PGD(eps=0.05, step_size=0.0125, steps=3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ConvNet(4, width=4).eval()


@pytest.fixture
def photos():
    torch.manual_seed(1)
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    return Split(images=images, labels=torch.arange(40) % 4)


def test_neural_collapse_agrees_with_its_definition():
    """With the two covariance matrices, a pseudo-inverse and a loop over pairs of classes."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = random.normal(size=(3, 7))[labels] + 0.5 * random.normal(size=(90, 7))
    means = np.stack([features[labels == c].mean(0) for c in range(3)])
    within = (features - means[labels]).T @ (features - means[labels]) / 90
    centred = means - means.mean(0)
    between = centred.T @ centred / 3
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    nc2 = np.mean([abs(unit[i] @ unit[j] + 1 / 2) for i in range(3) for j in range(3) if i != j])
    found = neural_collapse(torch.tensor(features).float(), torch.tensor(labels), 3)
    assert found[0].item() == pytest.approx(nc1, rel=1e-4)
    assert found[1].item() == pytest.approx(nc2, abs=1e-5)


def test_neural_collapse_is_zero_where_it_is_complete():
    labels = torch.arange(20) % 4
    nc1, nc2 = neural_collapse(3 * torch.eye(4)[labels] + 1, labels, 4)
    assert nc1.item() == pytest.approx(0, abs=1e-10)
    assert nc2.item() == pytest.approx(0, abs=1e-6)


def test_radii_run_from_the_clean_images_through_the_attack_to_twice_its_radius(network, photos):
    found = radii(network, photos, ATTACK)
    usual = evaluate(network, photos.images, photos.labels, ATTACK)
    assert found["radius"].tolist() == pytest.approx([0, 0.0125, 0.025, 0.05, 0.075, 0.1])
    for index, kind in ((0, "clean"), (3, "robust")):
        assert found["radius_cas"][index] == pytest.approx(usual[f"{kind}_cas"].item(), abs=1e-5)
        accuracy = usual[f"{kind}_accuracy"].item()
        assert found["radius_accuracy"][index].item() == pytest.approx(accuracy)


def test_the_last_stage_gives_the_usual_similarity_and_earlier_ones_another(network, photos):
    found = stage_similarity(network, photos, ATTACK, seed=3)
    features = features_of(network, photos.images, photos.labels, ATTACK, seed=3)
    usual = class_attribution(features, photos.labels, network.head.weight.detach())
    torch.testing.assert_close(found[-1], class_similarity(usual), atol=1e-5, rtol=0)
    assert found.shape == (3, 4, 4)
    assert (found[0] - found[-1]).abs().max() > 0.01


def test_draws_and_right_answers_come_where_they_are_wanted(network, photos):
    few = evaluate(network, photos.images, photos.labels, ATTACK)
    all_ = evaluate(network, photos.images, photos.labels, ATTACK, draws=200)
    assert all_.keys() - few.keys() == {
        f"{kind}_{name}" for kind in ("clean", "robust") for name in ("correct", "cas_draws")
    }
    right = all_["robust_correct"].float().mean()
    assert right.item() == pytest.approx(few["robust_accuracy"].item())
    low, high = all_["robust_cas_draws"].quantile(torch.tensor([0.001, 0.999])).tolist()
    assert low < few["robust_cas"].item() < high


def test_interval_is_students():
    values = [0.31, 0.28, 0.35, 0.30, 0.41]
    expected = stats.t.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / np.sqrt(5))
    assert interval(values) == pytest.approx(expected)


def test_interval_covers_the_truth_as_often_as_it_says():
    """2,000 samples of five normal values: 95 % within five standard errors of a proportion."""
    samples = np.random.default_rng(0).normal(1.0, 2.0, (2000, 5))
    covered = [low < 1.0 < high for low, high in map(interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=5 * (0.95 * 0.05 / 2000) ** 0.5)


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="needs two values or more, got 1"):
        interval([0.3])


def test_description_gives_mean_interval_and_number():
    assert described([1.0, 3.0], ".1f") == "2.0 (-10.7 to 14.7, n\u00a0=\u00a02)"
    assert described([2.0], "+.1f") == "+2.0 (n\u00a0=\u00a01)"
    assert described([-0.01, 0.006], ".2f").startswith("0.00 (-0.10 to 0.10")
    assert described([-0.001, 0.001], "+.1f") == "0.0 (0.0 to 0.0, n\u00a0=\u00a02)"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 3.0], "2 (-11 to 15, n\u00a0=\u00a02)"),  # half widths: 12.7,
        ([0.10, 0.12], "0.11 (-0.02 to 0.24, n\u00a0=\u00a02)"),  # 0.127,
        ([0.100, 0.101], "0.1005 (0.0941 to 0.1069, n\u00a0=\u00a02)"),  # 0.00635
        ([3.14159], "3.14 (n\u00a0=\u00a01)"),
        ([-0.0123456], "-0.0123 (n\u00a0=\u00a01)"),
        ([1234.5], "1234 (n\u00a0=\u00a01)"),
        ([0.0], "0.00 (n\u00a0=\u00a01)"),
        ([0.123, 0.123], "0.123 (0.123 to 0.123, n\u00a0=\u00a02)"),
        ([0.35 - 0.30, 0.40 - 0.35], "0.0500 (0.0500 to 0.0500, n\u00a0=\u00a02)"),
        ([math.nan, 1.0], "nan (nan to nan, n\u00a0=\u00a02)"),
    ],
)
def test_without_digits_a_description_has_two_of_the_intervals_half_width(values, text):
    assert described(values, "") == text


def test_a_judgement_is_the_description_and_the_verdict():
    for values in ([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [0.3]):
        word = verdict(values).split(" (")[0]
        assert judged(values, "+.1f") == f"{described(values, '+.1f')}: **{word}**"
    assert judged([0.0010, 0.0012, 0.0011], ".2f").startswith("0.001 (0.001 to 0.001, ")
    assert judged([0.0, 0.0], ".2f").startswith("0.00 (0.00 to 0.00")


def test_a_verdict_follows_the_interval_and_marks_a_single_run():
    assert verdict([1.0, 1.1, 0.9]) == "agree (n\u00a0=\u00a03)"
    assert verdict([-1.0, -1.1, -0.9]) == "disagree (n\u00a0=\u00a03)"
    assert verdict([1.0, -1.0, 0.5]) == "cannot tell (n\u00a0=\u00a03)"
    assert verdict([0.3]) == "agree (n\u00a0=\u00a01)"


def test_mcnemar_counts_the_images_that_one_model_alone_has_right():
    """By hand: of six such images all six for one model is 2 / 2^6 on both sides."""
    first = torch.tensor([1, 1, 1, 1, 1, 1, 1, 0], dtype=torch.uint8)
    second = torch.tensor([0, 0, 0, 0, 0, 0, 1, 0], dtype=torch.uint8)
    assert mcnemar(first, second) == pytest.approx(2 / 64)
    assert mcnemar(second, first) == pytest.approx(2 / 64)
    assert mcnemar(first, first) == 1


def test_draws_are_described_by_their_middle_95_percent():
    draws = torch.arange(1001.0) / 100  # 0 to 10
    assert bootstrapped(4.0, draws) == "4.0 (0.2 to 9.8)"
    assert bootstrapped(-4.0, draws - 5, "+.2f") == "-4.00 (-4.75 to +4.75)"
