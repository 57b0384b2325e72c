"""Cards say what they are given, and no more."""

import re

import numpy as np
import pytest

from ccnotes.cards import EDGE, HEIGHT, WIDTH, Card, cards, chip, counts, measured, rows, sparkline
from ccnotes.verdicts import Claim, Measured, judgements


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
    drawn = sparkline(runs, [10, 20, 30, 50], "up & down", lit=(20, 50), name="CAS")
    inner = WIDTH - 2 * EDGE
    x = [EDGE, EDGE + inner / 4, EDGE + inner / 2, EDGE + inner]
    assert len(points("one", drawn)) == 2
    (mean,), (lit,) = points("mean", drawn), points("lit", drawn)
    y = [HEIGHT * (3 - 2 * value / 3) / 4 for value in (0, 3, 2, 1)]  # in the middle half
    np.testing.assert_allclose(mean, list(zip(x, y, strict=True)), atol=0.051)
    assert lit == mean[1:]
    assert "CAS: 3.0 at epoch 20, 1.0 at epoch 50" in drawn.replace("\u00a0", " ")
    assert 'aria-label="up &amp; down"' in drawn


def test_what_bears_a_claim_out_is_tinted_from_zero_to_the_right_end():
    shown = rows(judgements([Claim("rises", "accuracy", [-1.0, 2.0, 3.0, 3.0])]))
    (zero,) = re.findall(r'class="zero" x1="([\d.]+)%"', shown)
    (tint,) = re.findall(r'class="bears" x="([\d.]+)%" width="([\d.]+)%"', shown)
    assert 0 < float(zero) < 50
    assert tint[0] == zero
    assert float(tint[0]) + float(tint[1]) == pytest.approx(100)


def test_a_level_curve_is_drawn_and_one_that_cannot_be_is_named():
    (mean,) = points("mean", sparkline(np.ones((1, 2)), [1, 2], "level", lit=(1, 2), name="CAS"))
    assert mean[0][1] == mean[1][1] == HEIGHT / 2
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 3 epochs"):
        sparkline(np.ones((1, 2)), [1, 2, 3], "t", lit=(1, 3), name="CAS")
    with pytest.raises(ValueError, match="one finite value per run"):
        sparkline(np.array([[1, np.nan]]), [1, 2], "t", lit=(1, 2), name="CAS")
    with pytest.raises(ValueError, match="fewer than two of the epochs"):
        sparkline(np.ones((1, 2)), [1, 2], "t", lit=(2, 9), name="CAS")


def drawn(shown):
    """Rows as read back: their label, classes, and where the dots and the interval lie, in %."""
    for label, words, kind, svg in re.findall(
        r'role="img" aria-label="(.*?)"><p>(.*?)</p><svg class="dots dots-(\w+)"(.*?)</svg>', shown
    ):
        dots = re.findall(r'<circle r="([\d.]+)" ([^>]*)cx="([\d.]+)%"', svg)
        lines = re.findall(r'<line class="(\w+)" x1="([\d.]+)%" x2="([\d.]+)%"', svg)
        yield label, words, kind, dots, {name: (float(a), float(b)) for name, a, b in lines}


def test_rows_of_one_unit_share_an_axis_on_which_dots_intervals_and_zero_lie():
    """Of runs from 0 to 10 the axis is -0.7 to 10.7: 0 lies at 7/114 of it, 10 at 107/114."""
    spread = [4.0] * 8 + [6.0] * 8  # mean 5, standard error 1 / sqrt(15), t 2.1314: 4.45 to 5.55
    claims = [
        Claim("it falls", "accuracy", spread),
        Claim("loss rises", "nats", [-1.0] * 8),
        Claim("two say", "accuracy", [0.0, 10.0]),
    ]
    shown = rows(judgements(claims))
    first, few, other = drawn(shown)
    assert [found[0].partition(":")[0] for found in (first, few, other)] == [
        "it falls",
        "two say",
        "loss rises",
    ]
    four, five, six = (100 * (value + 0.7) / 11.4 for value in (4, 5, 6))
    at = [float(x) for *_, x in first[3]]
    assert at == pytest.approx([four] * 8 + [six] * 8 + [five], abs=0.005)  # written in 0.01 %
    assert first[4]["zero"] == few[4]["zero"] == pytest.approx([700 / 114] * 2, abs=0.005)
    half = 2.1314 / 15**0.5 / 11.4 * 100
    assert first[4]["interval"] == pytest.approx([five - half, five + half], abs=0.01)
    assert [float(x) for *_, x in few[3]] == pytest.approx([700 / 114, 10700 / 114], abs=0.005)
    assert [float(x) for *_, x in other[3]] == pytest.approx([700 / 114] * 9, abs=0.005)
    axes = re.findall(r'claim-axis"><svg.*?>(<text.*?)</svg><p>(.*?)</p>', shown)
    ticks = [re.findall(r'x="([\d.]+)%"[^>]*>([^<]+)<', texts) for texts, _ in axes]
    assert [unit for _, unit in axes] == ["accuracy", "nats"]
    assert ticks[0] == [("6.14", "0"), ("50.00", "5"), ("93.86", "10")]
    assert ticks[1] == [("6.14", "\u22121"), ("50.00", "\u22120.5"), ("93.86", "0")]


def test_rows_are_filled_where_there_is_a_verdict_and_hollow_where_there_is_none():
    for differences, kind, hollow in (
        ([0.1] * 8, "supported", False),
        ([-0.1] * 8, "contradicted", False),
        ([0.1, -0.1] * 4, "undecided", True),
        ([0.1] * 5, "none", True),
    ):
        ((label, words, found, dots, _),) = drawn(rows(judged(differences)))
        assert found == kind
        (*runs, (size, look, _)) = dots
        assert len(runs) == len(differences)
        assert float(size) > max(float(of) for of, *_ in runs)
        assert ("hollow" in look) == hollow
        assert chip(*judged(differences)) in words
        assert label.endswith("no verdict" if kind == "none" else kind)


@pytest.mark.parametrize(("runs", "means"), [(1, 0), (2, 0), (3, 0), (4, 1)])
def test_below_four_runs_there_are_dots_only_and_the_axis_is_theirs(runs, means):
    differences = [0.0, 1.0, 1.0, 1.0][:runs]
    ((label, _, _, dots, lines),) = drawn(rows(judged(differences)))
    assert len(dots) == runs + means
    assert ("interval" in lines) == bool(means)
    assert (" to " in label) == bool(means)
    if not means:
        assert all("hollow" in look for _, look, _ in dots)
        assert float(dots[-1][2]) == pytest.approx(10700 / 114 if runs > 1 else 50, abs=0.005)


def test_rows_show_claims_letter_by_letter():
    claim = Claim('a < b & "c"', "<i>share</i>", [0.1] * 8)
    shown = rows(judgements([claim]))
    assert 'aria-label="a &lt; b &amp; &quot;c&quot;: ' in shown
    assert "<p>a &lt; b &amp; &quot;c&quot; <b>" in shown
    assert "<p>&lt;i&gt;share&lt;/i&gt;</p>" in shown
    assert "<i>" not in shown


def zones(shown):
    """Of each row: where its zone begins and ends, in %, and what its chip says and looks like."""
    for row in shown.split('<div class="claim-row" ')[1:]:
        zone = re.search(r'class="zone" x="([\d.]+)%" width="([\d.]+)%"', row)
        chips = re.findall(r'chip chip-(\w+)">([^<]+)<', row)
        yield zone and (float(zone[1]), float(zone[1]) + float(zone[2])), chips


def test_what_was_predicted_is_a_zone_that_ends_at_its_limit_and_a_chip_has_the_outcome():
    """Of runs, limits and a run at full size from 0 to 1 the axis is -0.07 to 1.07."""
    runs = [0.4, 0.5, 0.5, 0.6]
    given = [
        Measured("more", "share", runs, predicted="0.2 or more", at_least=0.2, refuted=0.1),
        Measured("less", "share", runs, predicted="0.2 or less", at_most=0.2, full=1.0),
        Measured("far less", "share", runs, 0.0, "0.1 or less", at_most=0.1, refuted=0.3),
        Measured("about", "share", runs, predicted="0.5 or more", at_least=0.5),
        Measured("beside", "share", runs),
    ]
    found = list(zones(measured(given)))
    at = {limit: 100 * (limit + 0.07) / 1.14 for limit in (0.1, 0.2, 0.5)}
    expected = [(at[0.2], 100), (0, at[0.2]), (0, at[0.1]), (at[0.5], 100)]
    for (zone, _), ends in zip(found[:4], expected, strict=True):
        assert zone == pytest.approx(ends, abs=0.011)  # each written in 0.01 %
    assert [chips for _, chips in found] == [
        [("supported", "as predicted")],
        [("contradicted", "not as predicted")],
        [("contradicted", "refuted")],
        [("undecided", "could be either")],
        [],
    ]
    assert found[4][0] is None
    full = re.findall(r'class="full" x="([\d.]+)%"', measured(given))
    assert [float(x) for x in full] == pytest.approx([10700 / 114, 700 / 114], abs=0.005)
    labels = re.findall(r'aria-label="(.*?)"', measured(given))
    assert "predicted 0.2 or less: not as predicted; at full size 1.000" in labels[1]
    assert "predicted" not in labels[4]


def test_what_was_measured_of_other_runs_has_an_axis_of_its_own_that_says_how_many():
    one, two, few = (Measured("CAS", unit, [1.0] * n) for unit, n in (("a", 4), ("b", 4), ("a", 3)))
    shown = measured([one, two, few, one])
    axes = re.findall(r'claim-axis"><svg.*?</svg><p>(.*?)</p>', shown)
    assert axes == [f"{unit}, n\u00a0=\u00a0{n}" for unit, n in (("a", 4), ("b", 4), ("a", 3))]
    assert shown.count('class="interval"') == 3  # none of three runs
    shown = measured([few._replace(predicted="2 or more", at_least=2.0)])
    assert next(iter(zones(shown)))[1] == [("none", "no verdict")]


def test_counts_are_chips_in_one_order_for_the_verdicts_that_there_are():
    family = judged([0.1], [-0.1] * 12, [0.1] * 12, [0.1] * 12)
    found = re.findall(r'chip chip-(\w+)">([^<]+)<', counts(family))
    assert found == [
        ("supported", "2 supported"),
        ("contradicted", "1 contradicted"),
        ("none", "1 no verdict"),
    ]
