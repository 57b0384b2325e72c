"""Words of the command line."""

import pytest

from ccnotes.arguments import fraction


@pytest.mark.parametrize(
    ("word", "value"),
    [("8/255", 8 / 255), ("0.1", 0.1), ("1e-3", 0.001), ("1e99999999", float("inf"))],
)
def test_a_fraction_is_a_number(word, value):
    assert fraction(word) == value


@pytest.mark.parametrize("word", ["1/0", "eight", "1/2/3", ""])
def test_what_is_no_number_is_refused(word):
    with pytest.raises(ValueError, match=r"divides by zero|could not convert"):
        fraction(word)
