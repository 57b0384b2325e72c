"""Figures show what they are given; checked on the published records."""

import importlib.util
import io

import altair as alt
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from matplotlib_inline.config import InlineBackend

import ccnotes
from ccnotes import moving, plots, plots_gaussian
from ccnotes.verdicts import interval


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


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


@pytest.mark.parametrize(("columns", "size", "title"), [(6, 1.6, "car"), (4, 2.2, "a " * 20)])
def test_titles_of_a_row_stand_clear_of_the_pictures_above(columns, size, title):
    """By 8 pixels or more where the page shows the figure in 790."""
    figure = plots.image_grid(
        torch.rand(2 * columns, 3, 4, 4), [title] * (2 * columns), columns=columns, size=size
    )
    figure.canvas.draw()
    above = figure.axes[0].get_window_extent().y0
    below = figure.axes[columns].title.get_window_extent().y1
    assert (above - below) * 790 / figure.bbox.width >= 8


def test_an_image_grid_shows_the_pixels():
    images = torch.rand(5, 3, 4, 4)
    figure = plots.image_grid(images, list("abcde"), columns=3)
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == list("abcde")
    for ax, image in zip(shown, images, strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), image.permute(1, 2, 0))


@pytest.mark.parametrize(("columns", "size"), [(6, 1.6), (3, 2.6), (2, 1.0)])
def test_titles_of_pictures_have_12_pixels_on_the_page_and_wrap(columns, size):
    """Which shows no figure wider than 790 pixels, and smaller ones at 96 pixels an inch."""
    title = "wheels: car and truck"
    figure = plots.image_grid(torch.rand(2, 3, 4, 4), [title, "cat"], columns=columns, size=size)
    pixels = min(96, 790 / figure.get_figwidth())  # an inch
    first, second, *_ = (ax.title for ax in figure.axes)
    assert first.get_fontsize() / 72 * pixels >= 12
    assert first.get_text().replace("\n", " ") == title
    assert second.get_text() == "cat"
    width = first.get_window_extent().width / figure.dpi
    assert width <= size


@pytest.mark.parametrize(
    ("classes", "numbers", "shown"), [(12, True, 144), (13, True, 0), (2, False, 0)]
)
def test_a_similarity_matrix_has_numbers_where_they_fit_and_are_wanted(classes, numbers, shown):
    names = [f"c{i}" for i in range(classes)]
    ax = plots.similarity_matrix(torch.eye(classes), names, numbers=numbers)
    assert len(ax.texts) == shown
    assert all(text.get_fontsize() * 4 / 3 >= 12 for text in ax.texts)


def test_a_similarity_matrix_prints_its_numbers():
    ax = plots.similarity_matrix(torch.tensor([[1.0, -0.25], [-0.25, 1.0]]), ["a", "b"])
    assert [text.get_text() for text in ax.texts] == ["1.00", "-0.25", "-0.25", "1.00"]


# Each would begin a formula, end a legend or break a picture, were it taken for more than letters.
NAMES = ["a$b$c", r"\$x^2$", "_a_b", "<b>&", "\x1b[31mred", "{$\\frac"]
SHOWN = ["a$b$c", r"\$x^2$", " _a_b", "<b>&", r"\x1b[31mred", "{$\\frac"]


def read(texts):
    """What matplotlib writes for the texts, none of which it takes for a formula."""
    figure = next(iter(texts)).figure
    figure.savefig(io.StringIO(), format="svg")
    found = [Text._preprocess_math(text, text.get_text()) for text in texts]
    assert not any(formula for _, formula in found)
    return [shown for shown, _ in found]


def test_the_names_of_classes_pictures_and_curves_are_shown_letter_by_letter(records):
    figure = plots.image_grid(torch.rand(6, 3, 4, 4), NAMES)
    assert read([ax.title for ax in figure.axes]) == SHOWN
    ax = plots.similarity_matrix(torch.eye(6), NAMES)
    assert read(ax.get_xticklabels()) == read(ax.get_yticklabels()) == SHOWN
    columns = ["inside", "across", "test_robust_cas", "test_clean_cas"]
    for names, shown in ((NAMES[:4], SHOWN[:4]), (NAMES[2:], SHOWN[2:])):
        ax = plots.curves(
            records, dict(zip(columns, names, strict=True)), ax=plt.subplots()[1], ylabel="y"
        )
        assert read(ax.get_legend().get_texts()) == shown
    frame = pd.DataFrame({"experiment": list("abcdef") * 2, "seed": [0] * 6 + [1] * 6})
    named = dict(zip("abcdef", NAMES, strict=True))
    ax = plots.forest(
        frame.assign(gain=np.arange(12.0)), "gain", named, ax=plt.subplots()[1], xlabel="x"
    )
    assert read(ax.get_yticklabels()) == SHOWN


def test_what_a_figure_would_leave_out_or_draw_as_one_is_refused(records):
    with pytest.raises(ValueError, match="5 images have 4 titles: give each its own"):
        plots.image_grid(torch.rand(5, 3, 4, 4), list("abcd"))
    frame = pd.DataFrame({"experiment": ["a", "a"], "seed": [0, 1], "gain": [0.1, 0.2]})
    with pytest.raises(ValueError, match="there is no row of swa: add it"):
        plots.forest(frame, "gain", {"a": "A", "swa": "B"}, ax=plt.subplots()[1], xlabel="x")
    same = {"inside": "similarity", "across": "similarity"}
    with pytest.raises(ValueError, match="inside, across are called similarity, similarity"):
        plots.curves(records, same, ax=plt.subplots()[1], ylabel="y")


def test_a_grey_picture_is_shown_as_grey_as_it_is():
    figure = plots.image_grid(torch.full((1, 1, 2, 2), 0.5), ["half"])
    (image,) = figure.axes[0].images
    assert image.cmap.name == "gray"
    assert image.get_clim() == (0, 1)
    figure = plots.image_grid(torch.full((1, 1, 2, 2), 128, dtype=torch.uint8), ["half"])
    assert figure.axes[0].images[0].get_clim() == (0, 255)


def test_the_moving_figures_are_found_where_they_were():
    for name in ("paths", "scrubber", "warmth", "BLUE"):
        assert getattr(plots, name) is getattr(moving, name)


@pytest.mark.parametrize("module", [moving, plots, plots_gaussian], ids=lambda m: m.__name__)
def test_importing_changes_nothing_that_is_set(module):
    renderer = alt.renderers.active
    with matplotlib.rc_context({"axes.grid": False, "axes.spines.top": True, "figure.dpi": 77}):
        before = dict(matplotlib.rcParams)
        spec = importlib.util.spec_from_file_location("once_more", module.__file__)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert dict(matplotlib.rcParams) == before
    assert alt.renderers.active == renderer


@pytest.mark.filterwarnings("ignore:InlineBackend:DeprecationWarning")  # of its own making
def test_style_sets_the_look_and_for_the_book_sharp_pictures_and_moving_figures(monkeypatch):
    renderer = alt.renderers.active
    with matplotlib.rc_context({"axes.grid": False, "axes.spines.top": True}):
        monkeypatch.delenv("CCNOTES_BOOK", raising=False)
        plots.style()
        assert matplotlib.rcParams["axes.grid"]
        assert not matplotlib.rcParams["axes.spines.top"]
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
        assert [matplotlib.colors.to_hex(colour) for colour in cycle] == plots.PALETTE
        assert alt.renderers.active == renderer  # a notebook draws its charts as it does
        monkeypatch.setenv("CCNOTES_BOOK", "1")
        plots.style()
        assert alt.renderers.active == "book"
        assert InlineBackend.instance().figure_formats == {"svg"}
    alt.renderers.enable(renderer)


def test_curves_name_the_drops_of_the_learning_rate_only_where_they_are_wanted(records):
    for drops in (True, False):
        ax = plt.subplots()[1]
        columns = {"test_robust_accuracy": "test"}
        plots.curves(records[:1], columns, ax=ax, ylabel="accuracy", drops=drops)
        dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert len(dotted) == (2 if drops else 0)
        said = [t.get_text() for above in ax.child_axes for t in above.get_xticklabels()]
        assert said == (["1st drop", "2nd drop"] if drops else [])


def test_a_similarity_matrix_has_its_colours_from_minus_one_to_one():
    ax = plots.similarity_matrix(torch.tensor([[1.0, 0.2], [0.2, 1.0]]), ["a", "b"])
    assert ax.collections[0].get_clim() == (-1, 1)


def test_runs_by_seed_are_a_line_each_in_the_look_of_their_experiment():
    frame = pd.DataFrame(
        {
            "experiment": ["a", "a", "b", "b", "a", "a"],
            "seed": [0, 0, 0, 0, 1, 1],
            "epoch": [1, 2] * 3,
            "x": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        }
    )
    figure = plots.by_seed(frame, {"x": "accuracy"}, {"a": "FGSM", "b": "N-FGSM"})
    assert figure.axes[0].get_ylabel() == "accuracy"
    lines = [line for line in figure.axes[0].lines if len(line.get_ydata())]
    drawn = {tuple(line.get_ydata().tolist()): line for line in lines}
    assert set(drawn) == {(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)}
    first, other, second = (drawn[key] for key in ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6)))
    assert first.get_color() == second.get_color() != other.get_color()
    assert first.get_linestyle() == second.get_linestyle() != other.get_linestyle()
    assert first.get_marker() == other.get_marker() != second.get_marker()
    (legend,) = figure.legends
    names = ["FGSM", "N-FGSM", "seed 0", "seed 1"]
    assert [text.get_text() for text in legend.get_texts()] == names
    looks = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()[:2]]
    assert looks == [(line.get_color(), line.get_linestyle()) for line in (first, other)]
    marks = [line.get_marker() for line in legend.get_lines()[2:]]
    assert marks == [first.get_marker(), second.get_marker()]


def test_frames_are_compared_by_the_mean_over_their_seeds_in_the_look_of_their_name():
    """Two kinds of two seeds, in two panels; the band is Student's, 12.7 half widths of two."""
    frames = {
        "plain AT": pd.DataFrame({"epoch": [4, 4, 8, 8], "a": [1.0, 3.0, 5, 5], "b": 0.0}),
        "forced $x$": pd.DataFrame({"epoch": [4, 4, 8, 8], "a": 7.0, "b": [1.0, 2, 3, 4]}),
    }
    figure = plots.compared(
        frames, {"a": "first", "b": "second"}, palette=["#ff0000", "#00ff00"], drops=[6]
    )
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["first", "second"]
    for ax, means in ((first, ([2, 5], [7, 7])), (second, ([0, 0], [1.5, 3.5]))):
        plain, forced, drop = (line for line in ax.lines if len(line.get_xdata()))
        assert plain.get_ydata().tolist() == means[0]
        assert forced.get_ydata().tolist() == means[1]
        assert (plain.get_color(), forced.get_color()) == ("#ff0000", "#00ff00")
        assert forced.is_dashed()
        assert drop.get_xdata()[0] == 6
    band = first.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(interval([1.0, 3.0])[1])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain AT", r"forced \$x\$"]


@pytest.mark.parametrize("count", [1, 6])
def test_one_run_or_more_runs_than_there_are_marks_have_no_marks(count):
    frame = pd.DataFrame({"experiment": "a", "seed": range(count), "epoch": 1, "x": 0.5})
    figure = plots.by_seed(frame, {"x": "accuracy"}, {"a": "FGSM"})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["FGSM"]
    assert {line.get_marker() for line in figure.axes[0].lines} == {"None"}


def test_what_two_classes_have_in_common_is_the_smaller_of_two_positive_contributions():
    """From the first class's own features to the second's; on a phone the panels are a column."""
    pair = torch.tensor([[3.0, -1.0, 1.0, 0.2, -5.0], [1.0, 4.0, 1.0, -2.0, -6.0]])
    figure = plots.in_common(["cat", "dog"], [pair, pair], [torch.rand(2, 3, 4, 4)] * 2, top=4)
    small = vars(figure)["phone"]
    for drawn in (figure, small):
        for panel in drawn.subfigs:
            bars = panel.axes[1].containers
            heights = [[bar.get_height() for bar in of] for of in bars]
            up, down, shared, mirror = heights
            assert up == pytest.approx([0.2, 3, 1, -1])  # by other minus one: -2.2, -2, 0, 5
            assert down == pytest.approx([2, -1, -1, -4])
            assert shared == pytest.approx([0, 1, 1, 0])
            assert mirror == pytest.approx([0, -1, -1, 0])
            low, high = panel.axes[1].get_ylim()
            assert low < -4 < 4 < high
            assert panel.axes[1].get_xlabel() == "features"
        (key,) = drawn.legends
        lit = [of[0].get_facecolor() for of in bars]
        assert [patch.get_facecolor() for patch in key.get_patches()] == lit[:3]
        told = [text.get_text() for text in key.get_texts()]
        assert told == ["first class alone", "second class alone", "both"]
    side, column = ([p.bbox.x0 for p in drawn.subfigs] for drawn in (figure, small))
    assert side[0] < side[1]
    assert column[0] == column[1]
    plt.close("all")


def test_best_to_last_joins_both_epochs_of_each_kind_with_its_numbers_at_the_outer_sides():
    best = pd.DataFrame({"cas": [4.0, -1.0, 2.0], "loss": [0.5, 0.6, 0.7]}, ["a", "b", "c_$x$"])
    last = best.assign(cas=[2.0, 3.0, 2.0])
    columns = {"cas": ("CAS", ".1f"), "loss": ("loss", ".0%")}
    figure = plots.best_to_last(best, last, columns, forced={"b": "cas"})
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["CAS", "loss"]
    assert [tuple(line.get_xdata()) for line in first.lines] == [(4, 2), (-1, 3), (2, 2)]
    ends = {(t.xy[1], t.get_text()): t.get_ha() for t in first.texts}
    assert ends[0, "4.0"] == ends[1, "3.0"] == "left"  # of the text: it stands right of its mark
    assert ends[0, "2.0"] == ends[1, "\N{MINUS SIGN}1.0"] == "right"
    assert {t.get_ha() for t in first.texts if t.xy[1] == 2} == {"left", "right"}
    assert [t.get_text() for t in second.texts][:2] == ["50%", "50%"]
    shaded = [[patch.get_y() for patch in ax.patches] for ax in figure.axes]
    assert shaded == [[pytest.approx(0.55)], []]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["best epoch", "last epoch"]
    figure.canvas.draw()
    for ax in figure.axes:  # no number reaches into another panel
        box = ax.get_window_extent()
        assert all(box.x0 <= t.get_window_extent().x0 for t in ax.texts)
        assert all(t.get_window_extent().x1 <= box.x1 for t in ax.texts)
    with pytest.raises(ValueError, match=r"\['a', 'b'\].*give both of each kind"):
        plots.best_to_last(best, last.iloc[:2], columns)


def test_names_of_two_drops_lie_away_from_each_other(records):
    figure, ax = plt.subplots(figsize=(2, 2))  # in which both would not fit between the drops
    plots.curves(records, {"inside": "pairs"}, ax=ax, ylabel="similarity")
    figure.canvas.draw()
    first, second = (t.get_window_extent() for t in ax.child_axes[0].get_xticklabels())
    assert first.x1 <= second.x0
