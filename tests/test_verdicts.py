import math

import numpy as np
import pytest
import torch
from scipy import stats

from ccnotes import evaluation, verdicts
from ccnotes.verdicts import (
    FEW,
    Claim,
    bootstrapped,
    described,
    found,
    holm,
    interval,
    judgements,
    mcnemar,
    sign_flip,
)


def test_what_evaluation_had_before_it_still_has():
    for name in ("bootstrapped", "described", "interval", "mcnemar"):
        assert getattr(evaluation, name) is getattr(verdicts, name)


def test_interval_is_students():
    values = [0.31, 0.28, 0.35, 0.30, 0.41]
    expected = stats.t.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / np.sqrt(5))
    assert interval(values) == pytest.approx(expected)


def test_interval_covers_the_truth_as_often_as_it_says():
    """2,000 samples of five normal values: 95 % within five standard errors of a proportion."""
    samples = np.random.default_rng(0).normal(1.0, 2.0, (2000, 5))
    covered = [low < 1.0 < high for low, high in map(interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=5 * (0.95 * 0.05 / 2000) ** 0.5)


@pytest.mark.parametrize("ask", [interval, described])
@pytest.mark.parametrize("values", [[], np.empty(0), [[1.0, 2.0], [3.0, 4.0]], np.array(1.0)])
def test_what_is_no_number_per_run_is_answered_by_one_line(ask, values, unchecked):
    with pytest.raises(ValueError, match=r"values of shape .* one number per run is wanted"):
        ask(values)


def test_draws_that_are_none_are_refused():
    for draws in (torch.empty(0), torch.tensor([1.0, torch.nan])):
        with pytest.raises(
            ValueError, match=rf"{len(draws)} draws, of which {len(draws) // 2} are"
        ):
            bootstrapped(1.0, draws)


def test_models_are_compared_on_the_same_images(unchecked):
    one, two = torch.tensor([1]), torch.tensor([0, 1])
    for first, second in ((one, two), (two[:0], two[:0])):
        with pytest.raises(ValueError, match="answers: give both models' to the same images"):
            mcnemar(first, second)
    with pytest.raises(ValueError, match="answers are 3, where 1 is right"):
        mcnemar(two, torch.tensor([3, 1]))


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="needs two values or more, got 1"):
        interval([0.3])


def test_description_gives_mean_interval_and_number():
    """Of 1, 1, 3, 3: the standard error is 1 / sqrt(3), t 3.182, so the half width 1.837."""
    assert described([1.0, 3.0, 1.0, 3.0], ".1f") == "2.0 (0.2 to 3.8, n\u00a0=\u00a04)"
    assert described([-0.01, 0.006] * 2, ".2f") == "0.00 (-0.02 to 0.01, n\u00a0=\u00a04)"
    assert described([-0.001, 0.001] * 2, "+.1f") == "0.0 (0.0 to 0.0, n\u00a0=\u00a04)"


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_of_fewer_than_four_runs_each_is_named_and_no_interval(runs):
    values = [0.5, -0.25, 0.125, 1.0][:runs]
    for text in (described(values, "+.2f"), found(values)):
        assert text.endswith(f"(n\u00a0=\u00a0{runs})") or runs == FEW
        assert (" to " in text) == (runs == FEW)
        assert all(format(value, "+.2f") in text for value in values) or runs == FEW


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.0, 20.0] * 2, "10 (-8 to 28, n\u00a0=\u00a04)"),  # half widths: 18.4,
        ([0.10, 0.12] * 2, "0.110 (0.092 to 0.128, n\u00a0=\u00a04)"),  # 0.0184,
        ([0.100, 0.101] * 2, "0.10050 (0.09958 to 0.10142, n\u00a0=\u00a04)"),  # 0.000919
        ([3.14159], "3.14 (n\u00a0=\u00a01)"),
        ([-0.0123456], "-0.0123 (n\u00a0=\u00a01)"),
        ([1234.5], "1234 (n\u00a0=\u00a01)"),
        ([0.0], "0.00 (n\u00a0=\u00a01)"),
        ([0.5, -12.345], "0.5, -12.3 (n\u00a0=\u00a02)"),
        ([0.123] * 4, "0.123 (0.123 to 0.123, n\u00a0=\u00a04)"),
        ([0.35 - 0.30, 0.40 - 0.35] * 2, "0.0500 (0.0500 to 0.0500, n\u00a0=\u00a04)"),
        ([math.nan, 1.0] * 2, "nan (nan to nan, n\u00a0=\u00a04)"),
    ],
)
def test_without_digits_a_description_has_two_of_the_intervals_half_width(values, text):
    assert described(values, "") == text


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


def test_the_exact_p_value_is_that_of_scipy_s_permutation_test():
    """Which flips signs, too; all of them where they are fewer than its resamples."""
    for seed in range(5):
        runs = np.random.default_rng(seed).normal(0.5, 1, 4 + seed)
        wanted = stats.permutation_test((runs,), np.sum, permutation_type="samples")
        assert sign_flip(runs) == pytest.approx(wanted.pvalue)


def test_the_exact_p_value_by_hand():
    """Of 1, 1, 1, -3 the sum is 0, as far from 0 as any; of 1, 2, 4 only all + and all -."""
    assert sign_flip([1, 1, 1, -3]) == 1
    assert sign_flip([1, 2, 4]) == 2 / 8
    assert sign_flip([0.1, 0.2, -0.3]) == 1  # not 0 in floating point
    with pytest.raises(ValueError, match="25 runs have too many signs"):
        sign_flip([1.0] * 25)


def test_holm_s_correction_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 and, since it cannot be less, 0.06; nothing above 1."""
    assert holm([0.03, 0.01, 0.02, 0.04]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_a_verdict_must_survive_its_family():
    """Seven runs of one sign have p = 2 / 128 = 0.016: enough for three claims, not for four."""
    clear, small = Claim("a", "x", [1.0] * 7), [Claim("few", "x", [1.0] * 5)] * 9
    assert [j.word for j in judgements([clear] * 3 + small)] == ["supported"] * 3 + [""] * 9
    found = judgements([clear] * 4)
    assert [j.word for j in found] == ["undecided"] * 4
    assert [j.corrected for j in found] == pytest.approx([4 / 64] * 4)


def test_a_verdict_has_the_direction_of_the_claim():
    against, none = Claim("b", "x", [-1.0] * 8), Claim("c", "x", [1, -1, 1, -1, 1, -1, 1, -1])
    assert [j.word for j in judgements([against, none])] == ["contradicted", "undecided"]


@pytest.mark.parametrize("runs", [[], [1.0, float("nan")]])
def test_a_claim_without_numbers_gets_no_verdict(runs, unchecked):
    with pytest.raises(ValueError, match="run"):
        judgements([Claim("d", "x", runs)])
