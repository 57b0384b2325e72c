"""Words of the command line."""

from dataclasses import replace

import pytest

from ccnotes import arguments
from ccnotes.arguments import check_run, fraction
from ccnotes.experiments import EXPERIMENTS


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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_named_experiments_are_small_enough_for_four_gigabytes(name, monkeypatch):
    monkeypatch.setattr(arguments, "main_memory", lambda: 4e9)
    check_run(EXPERIMENTS[name], 1.0)


@pytest.mark.parametrize("name", ["planted-at", "parts-at"])
def test_drawn_images_that_no_memory_holds_are_refused(name, monkeypatch):
    monkeypatch.setattr(arguments, "main_memory", lambda: 4e9)
    with pytest.raises(ValueError, match=r"train_size=10000000 of images of this size takes"):
        check_run(replace(EXPERIMENTS[name], train_size=10**7), None)


def test_weights_count_with_their_gradient_and_momentum(monkeypatch):
    """By hand: of 11.17 million weights of PreActResNet-18, 3 x 4 bytes each: 134 MB."""
    monkeypatch.setattr(arguments, "main_memory", lambda: 135e6)
    arguments.check_width("preactresnet", 64)
    monkeypatch.setattr(arguments, "main_memory", lambda: 134e6)
    with pytest.raises(ValueError, match=r"width=64 takes 0\.1 GB at least"):
        arguments.check_width("preactresnet", 64)
