"""What a drawn figure says, read from the picture that Vega draws of it."""

import re
from dataclasses import replace

import pytest
import torch
import vl_convert

import ccnotes
from ccnotes import moving


@pytest.fixture(scope="module")
def record():
    return ccnotes.runs("planted-at")[0]


@pytest.fixture(scope="module")
def drawn(record):
    """The scrubber at its first position, as SVG."""
    spec = moving.scrubber(record, "text").to_dict()
    return vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)


CELL = r"column: (\d+); row: class (\d+); cosine: (\S+); .*"


def marks(svg, pattern):
    """The values that the labels of an SVG's marks name, where they match."""
    labels = [label.replace("\N{MINUS SIGN}", "-") for label in re.findall('label="([^"]*)"', svg)]
    return [found.groups() for found in map(re.compile(pattern).fullmatch, labels) if found]


def test_the_scrubber_draws_accuracy_of_training_and_test_images_and_cas(record, drawn):
    table = record.table
    for pattern, values in (
        (r"robust accuracy: ([\d.]+); curve: training images", table.train_robust_accuracy),
        (r"robust accuracy: ([\d.]+); curve: test images", table.test_robust_accuracy),
        (r"CAS, test: ([\d.]+)", table.test_robust_cas),
    ):
        # A line is one mark, named by its first point.
        ((epoch, value),) = marks(drawn, rf"epoch: (\d+); {pattern}")
        assert int(epoch) == table.epoch[0]
        assert float(value) == pytest.approx(values[0], abs=1e-6)


def moment(record):
    """The last evaluation up to the best epoch, at which the slider starts."""
    return (record.table.epoch <= record.best["epoch"]).sum() - 1


def test_the_scrubber_draws_every_cosine_in_its_place_and_dark_cells_have_white_numbers(
    record, drawn
):
    similarity = record.arrays["test_robust_similarity"][moment(record)]
    found = torch.full((6, 6), torch.nan)
    for column, row, value in marks(drawn, CELL):
        found[int(row), int(column)] = float(value)
    assert (found - similarity).abs().max() <= 0.005 + 1e-6  # hundredths
    numbers = re.findall(
        r'<text aria-label="column: (\d+); row: class (\d+);[^>]* fill="(\w+)">', drawn
    )
    # None that one decimal would make another number.
    assert len(numbers) == (100 * similarity).round().abs().ge(10).sum() > 6
    for column, row, colour in numbers:
        strong = found[int(row), int(column)].abs() > 0.6
        assert colour == ("white" if strong else "black")


def test_the_scrubber_draws_a_strip_of_all_features_for_each_class(record, drawn):
    found = torch.full(record.sample_attribution.shape[1:], torch.nan)
    pattern = r"feature; red .*: (\d+); row: class (\d+); share of the vector: (\S+); .*"
    for feature, row, value in marks(drawn, pattern):
        found[int(row), int(feature)] = float(value)
    unit = torch.nn.functional.normalize(record.sample_attribution[moment(record)], dim=1)
    # The features are in another order, the same for all classes.
    assert (found.sort().values - unit.sort().values).abs().max() <= 0.005 + 1e-6
    assert (found.sum(0).sort().values - unit.sum(0).sort().values).abs().max() <= 6 * 0.005


def test_the_scrubber_s_line_stands_at_the_slider_between_two_evaluations_too(record):
    spec = moving.scrubber(record, "text").to_dict()
    (slider,) = [p for p in spec["params"] if p["name"] == "epoch"]
    slider["value"] = 7  # evaluated at 5 and 10
    svg = vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)
    rules = re.findall(r'aria-label="epoch: (\d+)"[^>]* aria-roledescription="rule mark"', svg)
    assert rules.count("7") == 2  # in both curves; the others mark the best epoch
    shown = [float(value) for _, _, value in marks(svg, CELL)]
    first = record.arrays["test_robust_similarity"][0].flatten().tolist()
    assert shown[:36] == pytest.approx(first, abs=0.005 + 1e-6)


def test_a_record_without_attribution_vectors_has_a_scrubber_without_strips():
    other = ccnotes.runs("planted-at", seeds=[1])[0]
    with pytest.raises(ValueError, match=r"no samples\.safetensors"):
        moving.scrubber(other, "text")
    spec = moving.scrubber(other, "text", strips=False).to_dict()
    svg = vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)
    assert len(marks(svg, r"column: (\d+); row: class (\d+); cosine: .*")) >= 36
    assert "speaks for the class" not in svg


@pytest.mark.parametrize(("best", "start"), [(20, 20), (24, 20), (25, 25), (1, 5)])
def test_the_scrubber_starts_at_the_last_evaluation_up_to_the_best_epoch(record, best, start):
    """The first one, where the best epoch lies before it; evaluated was every fifth."""
    moved = replace(record, content=record.content | {"best": record.best | {"epoch": best}})
    (slider,) = [p for p in moving.scrubber(moved, "t").to_dict()["params"] if p["name"] == "epoch"]
    assert slider["value"] == start


@pytest.mark.parametrize("classes", [10, 11])
def test_cells_have_numbers_as_long_as_these_fit(classes):
    names = [f"c{i}" for i in range(classes)]
    spec = moving.warmth(torch.eye(classes), torch.arange(classes), names, "text").to_dict()
    svg = vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)
    numbers = re.findall('<text aria-label="probability of: ', svg)
    assert len(numbers) == (100 if classes == 10 else 0)


def test_the_scrubber_marks_the_best_epoch_where_it_lies(record):
    """Also between two evaluations: 12 epochs of 100 from the left."""
    moved = replace(record, content=record.content | {"best": record.best | {"epoch": 12}})
    spec = moving.scrubber(moved, "text").to_dict()
    svg = vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)
    assert svg.count(">best epoch</text>") == 1
    assert len(marks(svg, r"epoch: (12)")) == 4  # a line in each of two panels; one has its name
