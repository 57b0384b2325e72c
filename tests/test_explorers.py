"""What an explorer shows of a choice, from its data and from the picture that Vega draws of it."""

import itertools
import math
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import vl_convert

import ccnotes
from ccnotes import claims, explorers, moving
from ccnotes.data import to_float
from ccnotes.models import ConvNet
from ccnotes.parts import Parts, parts
from ccnotes.tables import visible
from tests.test_moving import NAMES
from tests.test_moving_drawn import marks

sys.path.append(str(Path(__file__).parents[1] / "book" / "_ext"))

import dark


def svg(chart, **chosen):
    """The chart as drawn once these parameters are chosen."""
    spec = chart.to_dict()
    for param in spec["params"]:
        param["value"] = chosen.pop(param["name"], param.get("value"))
    assert not chosen
    return vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)


def rows_of(chart, field):
    (rows,) = [data for data in chart.to_dict()["datasets"].values() if field in data[0]]
    return rows


@pytest.fixture(scope="module")
def builder():
    torch.manual_seed(0)
    model = ConvNet(6, width=2).eval()
    return model, explorers.builder(model, "text", first=2)


def colours(image):
    """Row by row, as a page writes them."""
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in image.permute(1, 2, 0).flatten(0, 1).tolist()]


@pytest.mark.parametrize("kind", ["own", "shared", "clutter"])
def test_what_is_switched_off_is_left_out_of_the_very_same_image(builder, kind):
    there = dict.fromkeys(explorers.INGREDIENTS, True) | {kind: False}
    expected = parts(6, seed=0, split="test", without=kind).images
    for row in rows_of(builder[1], "picture"):
        if all(row[name] == there[name] for name in there):
            assert row["picture"] == colours(expected[row["y"]])


def test_without_noise_the_parts_stand_on_grey_and_without_all_it_is_grey(builder):
    bare = parts(6, Parts(noise=0), seed=0, split="test").images
    rows = {
        (row["y"], *(row[kind] for kind in explorers.INGREDIENTS)): row["picture"]
        for row in rows_of(builder[1], "picture")
    }
    assert len(rows) == 6 * 16
    assert rows[4, True, True, True, False] == colours(bare[4])
    assert set(rows[4, False, False, False, False]) == {"#808080"}


def test_the_builder_shows_what_the_network_says_of_the_image_that_is_built(builder):
    model, chart = builder
    drawn = svg(chart, image=3, own=False)
    without = parts(6, seed=0, split="test", without="own")
    with torch.no_grad():
        p = model(to_float(without.images[3:4])).softmax(1)[0]
    texts = re.findall(r">(\d+)%</text>", drawn)
    assert [int(text) for text in texts] == [round(100 * value) for value in p.tolist()]
    fills = re.findall(r'fill="(#[0-9a-f]{6})"', drawn)
    expected = colours(without.images[3])
    assert [fill for fill in fills if fill in expected] == expected


@pytest.mark.parametrize(
    ("turned", "cosines", "cas"),
    [
        ({"angleA": 0, "angleB": 60, "angleC": 180}, {"AB": 0.5, "AC": -1, "BC": -0.5}, 1.0),
        ({"angleA": -45, "angleB": 45, "angleC": 0}, {"AB": 0, "AC": 0.5**0.5}, 4 * 0.5**0.5),
    ],
)
def test_cas_adds_what_is_positive_off_the_diagonal_for_both_orders(turned, cosines, cas):
    drawn = svg(explorers.angles("text"), **turned)
    pattern = r"column: ([ABC]); row: ([ABC]); value: (\S+)"
    found = {a + b: float(value) for a, b, value in marks(drawn, pattern)}
    assert len(found) == 9
    for pair, value in cosines.items():
        assert found[pair] == found[pair[::-1]] == pytest.approx(value, abs=0.005)  # as written
    assert f">{cas:.2f}</text>" in drawn


@pytest.mark.parametrize("turned", [(0, 0, 0), (0, 5, 10), (90, 90, -90), (170, -175, -180)])
def test_no_letter_of_an_arrow_stands_on_another(turned):
    angles = dict(zip(("angleA", "angleB", "angleC"), turned, strict=True))
    drawn = svg(explorers.angles("text"), **angles)
    letter = r"name: [ABC]\"[^>]*text mark[^>]*translate\((\S+),(\S+)\)"
    places = [(float(x), float(y)) for x, y in re.findall(letter, drawn)]
    assert len(places) == 3
    for one, other in itertools.combinations(places, 2):
        assert math.dist(one, other) > 12  # pixels; a letter of this size is 10 wide and 10 high


def test_the_largest_cas_is_written_inside_the_picture():
    drawn = svg(explorers.angles("text"), angleA=0, angleB=0, angleC=0)
    (start,) = re.findall(r"text mark[^>]*translate\(([\d.]+),[^>]*>6\.00<", drawn)
    assert float(start) + 36 <= 240  # the panel's width; four letters of 14 pixels


ATTRIBUTION = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -1.0], [-1.0, 0.0, 2.0]])


def test_what_two_classes_share_is_the_smaller_contribution_and_only_where_both_are_positive():
    chart = explorers.shared(
        {"best": ATTRIBUTION, "last": 2 * ATTRIBUTION.flip(0)}, list("abc"), "text"
    )
    drawn = svg(chart, above=0, below=1)
    pattern = r"feature, from .*: (\d); contribution to the own logit: (\S+); kind: (.*)"
    heights = {}
    for feature, height, kind in marks(drawn, pattern):
        heights.setdefault(kind, {}).setdefault(int(feature), []).append(float(height))
    # Of a feature a has 2, -1 and 1 more than b, so the last feature stands in the middle.
    assert heights["above"] == {1: [3], 2: [0], 3: [1]}
    assert heights["below"] == {1: [-1], 2: [1], 3: [-2]}
    assert heights["what they share"] == {1: [1, -1], 2: [0, 0], 3: [1, -1]}
    assert f"cosine {F.cosine_similarity(*ATTRIBUTION[:2], dim=0):.2f}" in drawn
    other = svg(chart, above=2, below=0)
    assert "cosine \N{MINUS SIGN}0.42" in other  # -3 / (sqrt 5 * sqrt 10)
    # Of what is above 0 in each, 4, 3 and 2, both a and b have 2; a and c nothing.
    assert ", shared 67%" in drawn
    assert ", shared 0%" in other
    same = svg(chart, above=1, below=1)
    assert "choose two classes" in same
    assert "cosine" not in same
    last = svg(chart, of=1, above=2, below=1)  # where c is what a was, and all is twice as much
    found = {int(f): float(h) for f, h, kind in marks(last, pattern) if kind == "above"}
    assert found == {1: 0, 2: 6, 3: 2}
    assert f"cosine {F.cosine_similarity(*ATTRIBUTION[:2], dim=0):.2f}" in last


def test_the_scale_of_two_classes_is_that_of_the_network_with_their_largest_contribution():
    """So that the bars of two networks are compared by eye, and fill their room."""
    chart = explorers.shared({"a": ATTRIBUTION, "b": 2 * ATTRIBUTION}, list("abc"), "text")
    ticks = [re.findall(r"(\d\.?\d*)</text>", svg(chart, of=of, above=0, below=2)) for of in (0, 1)]
    assert ticks[0] == ticks[1]
    assert max(map(float, ticks[0])) == 6  # of 3 in the first
    of_others = re.findall(r"(\d\.?\d*)</text>", svg(chart, above=1, below=2))
    assert max(map(float, of_others)) == 4


def test_features_shown_are_those_that_contribute_most_to_one_of_the_two_classes():
    """In the first network, whichever is chosen; against a class counts as much as for it."""
    first = torch.linspace(0.01, 1, 60).repeat(3, 1) * torch.eye(3).repeat_interleave(20, dim=1)
    first[0, 5] = -2
    second = torch.rand(3, 60, generator=torch.manual_seed(0))
    chart = explorers.shared({"a": first, "b": second}, list("abc"), "text")
    pattern = r"feature, from .*: (\d+); contribution to the own logit: (\S+); kind: above"
    for above, below in itertools.permutations(range(3), 2):
        size = first[[above, below]].abs().amax(0)
        most = size.argsort(descending=True)[: explorers.TOP]
        order = most[(first[below] - first[above])[most].argsort()]
        for of, network in enumerate((first, second)):
            drawn = svg(chart, of=of, above=above, below=below)
            shown = {int(place): float(height) for place, height in marks(drawn, pattern)}
            found = [shown[place] for place in range(1, explorers.TOP + 1)]
            assert found == pytest.approx(network[above, order].tolist(), abs=1e-6)
            assert len(shown) == explorers.TOP


def test_classes_for_which_nothing_speaks_share_nothing():
    shares = explorers.shares_of(torch.tensor([[-1.0, -2.0], [1.0, 2.0]]))
    assert shares.tolist() == [[0, 0], [0, 1]]


def test_pale_bars_have_colours_of_their_own_in_the_dark():
    """Brighter than the page's ground, which pale colours with some opacity are not."""
    assert {*dark.PALES} == {moving.PALE_BLUE, moving.PALE_ORANGE, moving.GREY, moving.PURPLE}
    bar = f'<svg xmlns="http://www.w3.org/2000/svg"><path style="fill: {moving.PALE_BLUE}"/></svg>'
    assert f"fill: {dark.PALES[moving.PALE_BLUE]}" in dark.darkened(bar)


def test_names_of_classes_stand_in_the_list_letter_by_letter():
    spec = explorers.shared({"best": torch.eye(6)}, NAMES, "text").to_dict()
    (labels, _) = [p["bind"]["labels"] for p in spec["params"] if "bind" in p]
    assert labels == [visible(name) for name in NAMES]


def test_what_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match="3 classes, of which number 1 is shown first, called a, b"
    ):
        explorers.shared({"best": ATTRIBUTION}, ["a", "b"], "text")
    with pytest.raises(ValueError, match="1 classes, of which number 1"):
        explorers.shared({"best": ATTRIBUTION[:1]}, ["a"], "text")
    with pytest.raises(ValueError, match="4 classes, of which number 0 is shown first, called car"):
        explorers.builder(ConvNet(4, width=2), "text")
    with pytest.raises(ValueError, match="6 classes, of which number 6"):
        explorers.builder(ConvNet(6, width=2), "text", first=6)


def test_swapped_networks_have_the_cas_and_the_accuracy_of_the_record():
    record = ccnotes.runs("parts-at")[0]
    chart = explorers.swaps(record, "text")
    rows = {(row["features"], row["head"]): row for row in rows_of(chart, "matrix")}
    for kept, ends in {"neither": ("last", "last"), "features": ("last", "best")}.items():
        expected = claims.cas_kept_by(record, kept) * record.best["robust_cas"]
        assert rows[ends]["CAS"] == pytest.approx(expected)
    assert rows["best", "last"]["robust accuracy"] == record.swaps["accuracy"][0, 1]
    assert rows["last", "best"]["robust accuracy"] == record.swaps["accuracy"][1, 0]
    best = torch.tensor(rows["best", "best"]["matrix"]).view(6, 6) / 100
    # Hundredths, of vectors that the record keeps in half precision.
    assert (best - record.arrays["best_robust_similarity"]).abs().max() <= 0.01
    drawn = svg(chart, features="last", head="best")
    pattern = r"column: 1; row: car; cosine: (\S+); .*"
    ((shown,),) = set(marks(drawn, pattern))
    assert float(shown) == rows["last", "best"]["matrix"][1] / 100
    assert rows["last", "best"]["network"] == "last features, best head"


@pytest.mark.parametrize("least", [0, 0.1])
def test_a_matrix_prints_no_number_that_rounding_would_make_another(least):
    """With one decimal minus 0.05 would be read as minus 0.1; with two all are printed."""
    rows = pd.DataFrame({"epoch": [0], "matrix": [[100, -5, 9, 10]]})
    heat = moving.cells(rows, "true", "matrix", ["a", "b"], 2, "cosine")
    chart = moving.numbered(heat, ["a", "b"], ".2f", "false", least)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=moving.VEGA_LITE)
    written = re.findall(r"text mark[^>]*>(\S+)</text>", drawn)
    assert sorted(written) == sorted(
        ["1.00", "0.10", *(["\N{MINUS SIGN}0.05", "0.09"] * (not least))]
    )


def test_in_the_matrix_of_swapped_networks_stand_only_numbers_that_one_decimal_can_tell():
    chart = explorers.swaps(ccnotes.runs("parts-at")[0], "text")
    (row,) = [r for r in rows_of(chart, "matrix") if r["network"] == "last features, best head"]
    drawn = svg(chart, features="last", head="best")
    written = re.findall(
        r"text mark[^>]*>\N{MINUS SIGN}?\d\.\d</text>", drawn
    )  # CAS has two decimals
    assert 6 < len(written) == sum(abs(value) >= 10 for value in row["matrix"]) < 36


def test_bars_stand_before_the_matrix_so_that_phones_show_them_below_the_controls():
    spec = explorers.swaps(ccnotes.runs("parts-at")[0], "text").to_dict()
    bars, matrix = spec["concat"]
    titles = [of["layer"][0]["encoding"]["x"]["title"] for of in bars["vconcat"]]
    assert titles == ["CAS", "robust accuracy"]
    assert matrix["layer"][0]["encoding"]["color"]["title"] == "cosine"
    names = [param["bind"]["name"] for param in spec["params"] if "bind" in param]
    assert names == ["Features ", "Head "]  # each on one line with its buttons
