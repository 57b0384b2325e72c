"""Verdicts in words."""

import pytest

from ccnotes.verdicts import judged


@pytest.mark.parametrize(
    ("size", "text"),
    [
        # Half the interval is 4.303 * 0.1 / sqrt(3) = 0.248 of the mean.
        (1e-2, "0.01 (0.01 to 0.01, "),
        (1e-3, "0.001 (0.001 to 0.001, "),
        (1e-4, "0.0001 (0.0001 to 0.0001, "),
        (1e-5, "0.00001 (0.00001 to 0.00001, "),
        (1e-6, "0.00000 (0.00000 to 0.00000, "),
    ],
)
def test_a_judgement_shows_up_to_three_more_digits_until_its_interval_leaves_zero(size, text):
    assert judged([0.9 * size, 1.0 * size, 1.1 * size], ".2f").startswith(text)
