"""Moving figures hold what they are given, whatever it is called; checked on published records."""

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch
import vl_convert

import ccnotes
from ccnotes import moving
from ccnotes.objectives import Objective
from ccnotes.tables import visible

# Each would break a formula, a page, a script, an expression or a picture, were it taken for more
# than letters.
NAMES = ["a$b$c", "<b>&amp;", "_a_b", "\x1b[31mred\n", 'it\'s "so" \\n', "</script><!--<script>"]


@pytest.fixture(scope="module")
def records():
    return ccnotes.runs("planted-at", seeds=range(5))


def svg(spec):
    return ET.fromstring(vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)).iter()


def test_the_scrubber_holds_every_epoch_and_every_matrix(records):
    spec = moving.scrubber(records[0], "what it shows").to_dict()
    assert spec["description"] == "what it shows"
    (rows,) = [data for data in spec["datasets"].values() if "matrix" in data[0]]
    assert [row["epoch"] for row in rows] == records[0].table.epoch.tolist()
    shown = torch.tensor([row["matrix"] for row in rows]).view(-1, 6, 6) / 100
    assert (shown - records[0].arrays["test_robust_similarity"]).abs().max() <= 0.005 + 1e-6
    assert [row["until"] for row in rows][:2] == [10, 15]
    (slider,) = [p for p in spec["params"] if p["name"] == "epoch"]
    start = slider["value"]
    assert start <= records[0].best["epoch"] < start + 5
    assert [row["CAS"] for row in rows] == records[0].table.test_robust_cas.tolist()
    # A strip is an attribution vector of length 1, its features in another order.
    unit = torch.nn.functional.normalize(records[0].sample_attribution, dim=2)
    strips = torch.tensor([row["samples"] for row in rows]).view(unit.shape) / 100
    sorted_, expected = strips.sort(dim=2).values, unit.sort(dim=2).values
    assert (sorted_ - expected).abs().max() <= 0.005 + 1e-6
    now = strips[[row["epoch"] for row in rows].index(start)]
    first, second = now.topk(2, dim=0).values
    clear = now.argmax(0)[first - second > 0.015]  # which rounding leaves as it was
    assert len(clear) > 64
    assert (clear.diff() >= 0).all()  # one class's features after the other's
    for owner in range(6):  # the strongest first
        assert (first[(now.argmax(0) == owner) & (first - second > 0.015)].diff() <= 0).all()


def axes(chart, at):
    """What Vega says of each axis, its range among it, where the slider stands at ``at``."""
    spec = chart.to_dict()
    (slider,) = [param for param in spec["params"] if "min" in param.get("bind", {})]
    slider["value"] = at
    labels = [element.get("aria-label") or "" for element in svg(spec)]
    return [label for label in labels if "-axis" in label]


TOLD = {"along": [0, 1], "across": [0], "loss": [[[0.5, 2.0]], [[0.5, 1.0]]]}
STOPS = {
    "scrubber": (lambda records: moving.scrubber(records[0], "text"), 5, 100),
    "paths": (lambda r: moving.paths({"a": r}, "inside", "across", ("x", "y"), "t"), 5, 100),
    "warmth": (lambda records: moving.warmth(torch.eye(3), torch.arange(3), "abc", "text"), 1, 16),
    "surface": (lambda records: moving.surface(TOLD, "text"), 0, 1),
}


@pytest.mark.parametrize("name", STOPS)
def test_axes_stand_still_while_the_slider_moves(records, name):
    chart, first, last = STOPS[name]
    found = axes(chart(records), first)
    assert len(found) >= 2
    assert axes(chart(records), last) == found


def test_paths_have_room_for_every_epoch_of_every_group(records):
    groups = {"all": records, "first": records[:1]}
    spec = moving.paths(groups, "inside", "across", ("x", "y"), "text").to_dict()
    (rows,) = spec["datasets"].values()
    for channel, column in (("x", "inside"), ("y", "across")):
        scale = spec["layer"][0]["encoding"][channel]["scale"]
        low, high = min(row[column] for row in rows), max(row[column] for row in rows)
        room = 0.1 * (high - low)  # for names
        assert scale["domain"] == pytest.approx([low - room, high + room])
        assert not scale["nice"]


def test_the_surface_holds_every_loss_where_it_belongs():
    told = {"along": [0, 0.5, 1], "across": [-1, 0]}
    told["loss"] = [[[0.5, 1, 1.5], [0.25, 0.5, 0.75]], [[2, 3, 4], [5, 6, 7.125]]]
    spec = moving.surface(told, "what it shows").to_dict()
    (rows,) = [data for data in spec["datasets"].values() if "loss" in data[0]]
    assert [row["loss"] for row in rows] == [
        [50, 100, 150, 25, 50, 75],
        [200, 300, 400, 500, 600, 712],
    ]
    (slider,) = [p for p in spec["params"] if p["name"] == "epoch"]
    assert (slider["bind"]["min"], slider["bind"]["max"]) == (0, 1)
    drawn = "".join(element.get("aria-label") or "" for element in svg(spec))
    for place in (
        "across it: -1; mean loss, nats: 3; along: 0.5",
        "nats: 7.12; along: 1; across: 0",
    ):
        assert place in drawn


def test_paths_hold_the_mean_of_each_group_at_every_epoch(records):
    spec = moving.paths(
        {"all": records, "first": records[:1]}, "inside", "across", ("x", "y"), "text"
    )
    (rows,) = spec.to_dict()["datasets"].values()
    mean = np.mean([record.table.inside for record in records], axis=0)
    shown = [row["inside"] for row in rows if row["run"] == "all"]
    np.testing.assert_allclose(shown, mean, rtol=1e-6)  # means of floats of single precision
    first = [row["across"] for row in rows if row["run"] == "first"]
    np.testing.assert_allclose(first, records[0].table.across)


@pytest.mark.parametrize(("epoch", "lit"), [(5, 1), (50, 2), (100, 1), (100, 2)])
def test_paths_name_every_group_and_light_the_first_and_the_chosen_one(records, epoch, lit):
    groups = {"a": records, "b": records[:1], "c": records[1:]}
    spec = moving.paths(groups, "inside", "across", ("x", "y"), "text").to_dict()
    for param in spec["params"]:
        if "bind" in param:
            param["value"] = {"epoch": epoch, "lit": lit}[param["name"]]
    shown = {*groups} if epoch == 100 else {"a", "abc"[lit]}  # at the end all have their names
    assert {text for text in drawn(spec) if text in {*groups}} == shown
    fills = {
        label.partition("run: ")[2][0]: element.get("fill")
        for element in svg(spec)
        if element.get("aria-roledescription") == "point"
        and "run: " in (label := element.get("aria-label") or "")
    }
    assert fills["a"] == moving.BLUE  # as plain AT is in the book's other figures
    assert fills["abc"[lit]] == moving.GREEN
    assert fills["abc"[3 - lit]] == moving.GREY


@pytest.mark.parametrize("width", moving.WIDE)
def test_names_of_paths_lie_on_no_point_and_on_no_other_name(width):
    """Boxes of letters 6.8 pixels wide and 16 high; three points nearly coincide."""
    at = pd.DataFrame({"x": [0.5, 0.5, 0.52, 0.9], "y": [0.5, 0.5, 0.51, 0.02]})
    at = at.assign(run=["plain AT", "frozen head", "SWA", "far"], place=range(4))
    unit = alt.Scale(domain=[0, 1])
    found = moving.named(at, "x", "y", (unit, unit))
    points = np.stack([at.x * width, (1 - at.y) * moving.HIGH], 1)
    names = points + found[["dx", "dy"]].to_numpy()
    half = np.array([[3.4 * len(run), 8] for run in at.run])
    for i in range(4):
        assert not (abs(points - names[i]) < half[i] + 5).all(1).any()
        apart = abs(names - names[i]) >= half + half[i]
        assert apart.any(1).sum() == 3  # all but itself
        assert names[i, 1] + 8 <= moving.HIGH  # above the axis


@pytest.mark.parametrize("epoch", [5, 60, 100])
def test_paths_show_all_points_and_two_rings_at_the_median_best_epoch(records, epoch):
    records = [
        replace(r, content=r.content | {"best": r.content["best"] | {"epoch": best}})
        for r, best in zip(records, (58, 61, 66, 90, 100), strict=True)
    ]
    groups = {"a": records, "b": records[:1], "other": records[1:]}
    spec = moving.paths(groups, "inside", "across", ("x", "y"), "text").to_dict()
    (slider,) = [param for param in spec["params"] if param["name"] == "epoch"]
    slider["value"] = epoch
    marks = [(e.get("aria-roledescription"), e.get("aria-label", "")) for e in svg(spec)]
    found = sorted(int(label.rpartition(" ")[2]) for kind, label in marks if kind == "point")
    rings = [ring for ring in (60, 65) if ring <= epoch]  # evaluated every five epochs
    assert found == sorted([epoch, epoch, epoch, *rings])


def test_the_slider_of_paths_stops_at_every_epoch(records):
    """Also where the first is no multiple of what lies between them."""
    made = records[0].content["evaluations"]
    epochs = [epoch + 2 for epoch in made["epoch"]]
    late = replace(
        records[0], content=records[0].content | {"evaluations": made | {"epoch": epochs}}
    )
    spec = moving.paths({"late": [late]}, "inside", "across", ("x", "y"), "text").to_dict()
    (bind,) = [p["bind"] for p in spec["params"] if "min" in p.get("bind", {})]
    assert list(range(bind["min"], bind["max"] + 1, bind["step"])) == epochs


def test_a_warm_label_is_the_softmax_of_the_logits_over_the_temperature():
    logits, labels = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 6.0]]), torch.tensor([0, 0, 1])
    spec = moving.warmth(logits, labels, ["a", "b"], "text").to_dict()
    (rows,) = [data for data in spec["datasets"].values() if "soft" in data[0]]
    (two,) = [row for row in rows if row["temperature"] == 2]
    first, second = (logits[:2, 0] / 2).sigmoid().mean().item(), 1 / (1 + math.exp(-3))
    assert two["soft"][0] == round(100 * first)
    assert two["soft"][3] == round(100 * second)
    assert two["own class"] == pytest.approx((first + second) / 2, abs=1e-6)
    assert two["likeliest other class"] == pytest.approx(1 - (first + second) / 2, abs=1e-6)


def test_the_curves_beside_warm_labels_part_the_likeliest_other_class_from_the_rest():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 3.0]])
    spec = moving.warmth(logits, torch.arange(3), ["a", "b", "c"], "text").to_dict()
    (rows,) = [data for data in spec["datasets"].values() if "soft" in data[0]]
    shares = [math.exp(of) for of in (3, 1, 0)]  # at temperature 1, the same for each class
    told = [rows[0][name] for name in ("own class", "likeliest other class", "each of the others")]
    assert told == pytest.approx([share / sum(shares) for share in shares], abs=1e-6)


def test_the_slider_of_warm_labels_says_the_temperature_itself():
    spec = moving.warmth(torch.eye(3), torch.arange(3), ["a", "b", "c"], "text").to_dict()
    (slider,) = [p for p in spec["params"] if "bind" in p]
    bind = slider["bind"]
    (rows,) = [data for data in spec["datasets"].values() if "soft" in data[0]]
    assert [row["temperature"] for row in rows] == [*range(bind["min"], bind["max"] + 1)]
    assert bind["max"] == 16
    assert slider["value"] == Objective().temperature  # the labels of training are seen first


def drawn(spec):
    """Every text that Vega writes into the chart's first state."""
    return ["".join(element.itertext()) for element in svg(spec) if element.tag.endswith("}text")]


def test_the_names_of_classes_are_drawn_letter_by_letter(records):
    dataset = records[0].content["dataset"] | {"classes": NAMES}
    named = replace(records[0], content=records[0].content | {"dataset": dataset})
    scrubber = drawn(moving.scrubber(named, "text").to_dict())
    warmth = drawn(moving.warmth(torch.eye(6), torch.arange(6), NAMES, "text").to_dict())
    groups = dict.fromkeys(NAMES, records[:1])
    paths = drawn(moving.paths(groups, "inside", "across", ("x", "y"), "text").to_dict())
    for name in map(visible, NAMES):
        assert scrubber.count(name) == 3  # two sides of the matrix, one of the strips
        assert warmth.count(name) == 2
        assert paths.count(name) == 1


def test_a_run_whose_name_has_an_apostrophe_is_named_in_what_the_figure_says(records):
    name = "Wei's"
    chart = moving.paths({name: records, "b": records}, "inside", "across", ("x", "y"), "text")
    (says,) = [p["expr"] for p in chart.to_dict()["params"] if p["name"] == "says"]
    assert says.startswith(f"'Epoch ' + epoch + ': ' + {json.dumps([name, 'b'])}[0]")
    assert list(svg(chart.to_dict()))  # and it can be drawn
