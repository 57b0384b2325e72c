"""Figures show what they are given; checked on the published records."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import ccnotes
from ccnotes import _altair, plots
from ccnotes.verdicts import interval


@pytest.fixture(scope="module")
def records():
    return ccnotes.runs("planted-at", seeds=range(5))


def test_curves_are_means_over_seeds(records):
    ax = plt.subplots()[1]
    plots.curves(records, {"test_robust_accuracy": "test"}, ax=ax, ylabel="robust accuracy")
    mean = np.mean([record.table.test_robust_accuracy for record in records], axis=0)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), mean)
    drops = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert drops == [50, 75]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["test"]


def test_the_scrubber_holds_every_epoch_and_every_matrix(records):
    spec = plots.scrubber(records[0], "what it shows").to_dict()
    assert spec["description"] == "what it shows"
    (rows,) = [data for data in spec["datasets"].values() if "matrix" in data[0]]
    assert [row["epoch"] for row in rows] == records[0].table.epoch.tolist()
    shown = torch.tensor([row["matrix"] for row in rows]).view(-1, 6, 6) / 100
    assert (shown - records[0].arrays["test_robust_similarity"]).abs().max() <= 0.005 + 1e-6
    assert [row["until"] for row in rows][:2] == [10, 15]
    (slider,) = [p for p in spec["params"] if p["name"] == "epoch"]
    start = slider["value"]
    assert start <= records[0].best["epoch"] < start + 5
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


def test_intervals_over_seeds_are_drawn_around_their_means():
    frame = pd.DataFrame({"eps": [1, 1, 1, 2, 2, 2], "fall": [0.1, 0.2, 0.4, 1.0, 1.1, 1.5]})
    ax = plots.with_intervals(frame, "eps", "fall", ax=plt.subplots()[1])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), frame.groupby("eps").fall.mean())
    (bars,) = ax.collections
    ends = [segment[:, 1] for segment in bars.get_segments()]
    expected = [interval(group) for _, group in frame.groupby("eps").fall]
    np.testing.assert_allclose(ends, expected)


def test_a_forest_shows_means_and_intervals_of_one_checkpoint():
    frame = pd.DataFrame({"experiment": ["b"] * 3 + ["a"] * 3, "seed": [0, 1, 2] * 2})
    frame["gain"] = [0.1, 0.2, 0.6, 1.0, 1.1, 1.5]
    ax = plots.forest(frame, "gain", {"a": "A", "b": "B"}, ax=plt.subplots()[1], xlabel="gain")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1.2, 0.3])
    np.testing.assert_allclose(ax.lines[1].get_xdata(), interval([1.0, 1.1, 1.5]))
    with pytest.raises(ValueError, match="several rows of an experiment: choose one checkpoint"):
        plots.forest(pd.concat([frame, frame]), "gain", {"a": "A"}, ax=ax, xlabel="gain")


def test_paths_hold_the_mean_of_each_group_at_every_epoch(records):
    spec = plots.paths(
        {"all": records, "first": records[:1]}, "inside", "across", ("x", "y"), "text"
    )
    (rows,) = spec.to_dict()["datasets"].values()
    mean = np.mean([record.table.inside for record in records], axis=0)
    shown = [row["inside"] for row in rows if row["run"] == "all"]
    np.testing.assert_allclose(shown, mean, rtol=1e-6)  # means of floats of single precision
    first = [row["across"] for row in rows if row["run"] == "first"]
    np.testing.assert_allclose(first, records[0].table.across)


def test_paths_name_their_groups_once_by_colour_dash_and_shape(records):
    """One of them without a legend, and Vega shows none of the others."""
    way, point = plots.paths({"a": records}, "inside", "across", ("x", "y"), "t").to_dict()["layer"]
    channels = [way["encoding"][name] for name in ("color", "strokeDash")]
    channels += [point["encoding"][name] for name in ("color", "shape")]
    assert all(channel["legend"] == channels[0]["legend"] for channel in channels)
    assert channels[0]["legend"]


def test_the_slider_of_paths_stops_at_every_epoch(records):
    """Also where the first is no multiple of what lies between them."""
    made = records[0].content["evaluations"]
    epochs = [epoch + 2 for epoch in made["epoch"]]
    late = replace(
        records[0], content=records[0].content | {"evaluations": made | {"epoch": epochs}}
    )
    spec = plots.paths({"late": [late]}, "inside", "across", ("x", "y"), "text").to_dict()
    (bind,) = [p["bind"] for p in spec["params"] if "bind" in p]
    assert list(range(bind["min"], bind["max"] + 1, bind["step"])) == epochs


def test_a_warm_label_is_the_softmax_of_the_logits_over_the_temperature():
    logits, labels = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 6.0]]), torch.tensor([0, 0, 1])
    spec = plots.warmth(logits, labels, ["a", "b"], "text").to_dict()
    (rows,) = [data for data in spec["datasets"].values() if "soft" in data[0]]
    (two,) = [row["soft"] for row in rows if row["temperature"] == 2]
    own = (logits[:2, 0] / 2).sigmoid().mean().item()
    assert two[0] == round(100 * own)
    assert two[3] == round(100 * torch.tensor(3.0).sigmoid().item())


def test_a_moving_figure_has_a_still_picture_and_a_text(records):
    spec = plots.scrubber(records[0], "what it shows").to_dict()
    page = _altair.book_renderer(spec)["text/html"]
    assert 'alt="what it shows"' in page
    assert "data:image/png;base64," in page
    assert len(page) < 300_000
    with pytest.raises(ValueError, match="This chart has no text"):
        _altair.book_renderer({key: value for key, value in spec.items() if key != "description"})


def test_an_image_grid_shows_the_pixels():
    images = torch.rand(5, 3, 4, 4)
    figure = plots.image_grid(images, list("abcde"), columns=3)
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == list("abcde")
    for ax, image in zip(shown, images, strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), image.permute(1, 2, 0))


def test_a_similarity_matrix_prints_its_numbers():
    ax = plots.similarity_matrix(torch.tensor([[1.0, -0.25], [-0.25, 1.0]]), ["a", "b"])
    assert [text.get_text() for text in ax.texts] == ["1.00", "-0.25", "-0.25", "1.00"]
