"""Cards say what they are given, and no more."""

import re

import numpy as np
import pytest

from ccnotes.cards import EDGE, HEIGHT, WIDTH, Card, cards, chip, sparkline
from ccnotes.verdicts import Claim, judgements


def judged(*differences):
    return judgements([Claim("it falls", "accuracy", d) for d in differences])


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.1] * 8, "supported"),
        ([-0.1] * 8, "contradicted"),
        ([0.1, -0.1] * 4, "undecided"),
        ([0.1], "no verdict"),
    ],
)
def test_a_chip_has_the_verdict_and_the_number_of_runs(differences, words):
    (judgement,) = judged(differences)
    shown = chip(judgement)
    assert f">{words}, n\u00a0=\u00a0{len(differences)}<" in shown
    assert f"chip-{'none' if words == 'no verdict' else words}" in shown


def test_a_card_shows_its_own_words_for_each_verdict_letter_by_letter():
    first, second = judged([0.1] * 8, [-0.1] * 8)
    page = cards([Card("Rise & <fall>", "a < b", "<svg/>", {"so it <is>": first, "not": second})])
    assert "<b>Rise &amp; &lt;fall&gt;</b> a &lt; b" in page
    assert "<svg/>" in page
    assert re.findall(r"<li>(.*?) <span class=\"chip chip-(\w+)", page) == [
        ("so it &lt;is&gt;", "supported"),
        ("not", "contradicted"),
    ]


def points(kind, drawn):
    return [
        [tuple(map(float, point.split(","))) for point in line.split()]
        for line in re.findall(rf'class="{kind}" points="([^"]*)"', drawn)
    ]


def test_a_sparkline_spans_its_box_and_lights_the_part_that_is_asked_for():
    runs = np.array([[0.0, 2.0, 1.0, 1.0], [0.0, 4.0, 3.0, 1.0]])
    drawn = sparkline(runs, [10, 20, 30, 50], "up & down", lit=(20, 50), form=".1f")
    inner = WIDTH - 2 * EDGE
    x = [EDGE, EDGE + inner / 4, EDGE + inner / 2, EDGE + inner]
    assert len(points("one", drawn)) == 2
    (mean,), (lit,) = points("mean", drawn), points("lit", drawn)
    y = [HEIGHT * (3 - 2 * value / 3) / 4 for value in (0, 3, 2, 1)]  # in the middle half
    np.testing.assert_allclose(mean, list(zip(x, y, strict=True)), atol=0.051)
    assert lit == mean[1:]
    assert "epoch 20: 3.0, epoch 50: 1.0" in drawn
    assert 'aria-label="up &amp; down"' in drawn


def test_a_level_curve_is_drawn_and_one_that_cannot_be_is_named():
    (mean,) = points("mean", sparkline(np.ones((1, 2)), [1, 2], "level", lit=(1, 2)))
    assert mean[0][1] == mean[1][1] == HEIGHT / 2
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 3 epochs"):
        sparkline(np.ones((1, 2)), [1, 2, 3], "t", lit=(1, 3))
    with pytest.raises(ValueError, match="one finite value per run"):
        sparkline(np.array([[1, np.nan]]), [1, 2], "t", lit=(1, 2))
    with pytest.raises(ValueError, match="fewer than two of the epochs"):
        sparkline(np.ones((1, 2)), [1, 2], "t", lit=(2, 9))
