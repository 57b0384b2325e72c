import numpy as np
import pytest
from scipy import stats

from ccnotes.evaluation import described, interval


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
    assert described([1.0, 3.0], ".1f") == "2.0 (-10.7 to 14.7, n = 2)"
