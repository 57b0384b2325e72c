"""A chart as the page gets it: its markup, and what the page's script makes of it in a browser."""

import gzip
import json
import re
import sys
from base64 import b64decode
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import altair as alt
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import vl_convert
from docutils import nodes
from docutils.utils import new_document
from matplotlib.figure import Figure

import ccnotes
from ccnotes import moving, page
from ccnotes.cards import rows
from ccnotes.playground import Playground
from ccnotes.verdicts import Claim, judgements
from tests.test_moving import NAMES

SCRIPTS = Path(__file__).parents[1] / "book" / "_ext"
sys.path.append(str(SCRIPTS))

import moving_sphinx  # noqa: E402


@pytest.fixture(scope="module")
def record():
    return ccnotes.runs("parts-at")[0]


def test_a_moving_figure_has_a_still_picture_and_a_text(record):
    spec = moving.scrubber(record, "what it shows").to_dict()
    shown = page.book_renderer(spec)["text/html"]
    assert 'alt="what it shows"' in shown
    assert "data:image/png;base64," in shown
    assert len(shown) < 300_000
    with pytest.raises(ValueError, match="This chart has no text"):
        page.book_renderer({key: value for key, value in spec.items() if key != "description"})


def test_a_caption_is_in_sight_and_the_text_describes_the_figure_out_of_sight(opened):
    short = "Short <i>."
    tab = opened(counter().properties(description="long & all", usermeta={"caption": short}))
    assert tab.locator("moving-figure").inner_text().endswith(short)
    assert "long" not in tab.locator("moving-figure").inner_text()
    name = tab.locator("figure").get_attribute("aria-describedby")
    assert tab.locator(f"#{name}").text_content() == "long & all"
    # Not heard twice: the picture has the short name, and the text describes the figure.
    assert tab.locator(".moving-view").get_attribute("aria-label") == short
    assert "long" not in tab.locator("figure").aria_snapshot()


def test_without_a_caption_the_text_is_in_sight(opened):
    tab = opened(counter())
    assert tab.locator("figcaption").inner_text() == "text"
    assert tab.locator("figure").get_attribute("aria-describedby") is None
    assert not tab.locator(".moving-text").count()


def numbered(shown):
    """The page's figures where an output stands among other HTML, as Sphinx reads them."""
    document = new_document("page")
    for text in ("<p>Other HTML.</p>", shown):
        document += nodes.raw("", text, format="html", classes=["output", "text_html"])
    moving_sphinx.Numbered(document).apply()
    return document


@pytest.mark.parametrize("element", ["moving-figure", "gaussian-playground", "figure"])
def test_what_the_page_draws_is_a_figure_whose_caption_sphinx_numbers(element):
    """By the caption, which then stands below the element and no more in it."""
    said = "Small & <short>."
    chart = counter().properties(usermeta={"caption": said})
    shown = {
        "moving-figure": page.book_renderer(chart.to_dict())["text/html"],
        "gaussian-playground": Playground(caption=said).markup(),
        "figure": rows(judgements([Claim("it falls", "accuracy", [0.1])]), said),
    }[element]
    other, figure = numbered(shown).children
    assert other.astext() == "<p>Other HTML.</p>"
    inside, caption = figure.children
    assert isinstance(figure, nodes.figure)
    assert isinstance(caption, nodes.caption)
    assert caption.astext() == said
    assert f"<{element}" in inside.astext()
    assert "figcaption" not in inside.astext()
    assert inside["format"] == "html"
    assert inside["classes"] == ["output", "text_html"]


def test_rows_of_claims_without_a_caption_stay_as_they_are():
    shown = rows(judgements([Claim("it falls", "accuracy", [0.1])]))
    assert [type(node) for node in numbered(shown).children] == [nodes.raw, nodes.raw]


def test_a_chart_whose_caption_the_book_has_numbered_has_the_name_without_the_number(
    browser, bundle
):
    chart = counter().properties(usermeta={"caption": "Short."})
    _, figure = numbered(page.book_renderer(chart.to_dict())["text/html"]).children
    caption = "<figcaption>Fig. 1 <span class=caption-text>Short.</span></figcaption>"
    tab = browser.new_page()
    tab.set_content(f"<figure>{figure[0].astext()}{caption}</figure>")
    tab.add_script_tag(content=bundle)
    tab.locator("moving-figure.moving-on").wait_for()
    assert tab.locator(".moving-view").get_attribute("aria-label") == "Short."
    tab.close()


class Scripts(HTMLParser):
    """What a page's scripts hold, and every tag of it."""

    def __init__(self, page):
        super().__init__()
        self.data, self.tags = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.data.append(data)


def test_names_stay_inside_the_script_of_the_page():
    chart = moving.warmth(torch.eye(6), torch.arange(6), NAMES, "<what> it shows & more")
    shown = page.book_renderer(chart.to_dict())["text/html"]
    found = Scripts(shown)
    inside = ["figure", "div", "div", "img", "p", "figcaption", "script"]
    assert found.tags == ["moving-figure", *inside]
    (script,) = found.data
    spec = json.loads(script)
    assert "<!--" not in script  # after which a browser reads on past the script's end
    assert spec["concat"] == chart.to_dict()["concat"]
    assert spec["description"] == "<what> it shows & more"


def test_colours_of_the_page_give_way_to_those_of_a_chart():
    chart = moving.warmth(torch.eye(2), torch.arange(2), ["a", "b"], "text")
    spec = chart.configure_axis(labelFontSize=20).to_dict()
    (script,) = Scripts(page.book_renderer(spec)["text/html"]).data
    axis = json.loads(script)["config"]["axis"]
    assert axis["labelFontSize"] == 20
    assert axis["labelColor"] == "currentColor"


@pytest.fixture(scope="module")
def bundle():
    script = moving_sphinx.script()
    return "(()=>{" + vl_convert.javascript_bundle(script, vl_version=page.VEGA_LITE) + "})()"


@pytest.fixture
def opened(browser, bundle):
    """A function that shows a chart in a tab of its own, by the script and style of the book."""
    tabs = []

    def opened(chart, width=790, **settings):
        tab = browser.new_page(viewport={"width": width, "height": 900}, **settings)
        tabs.append(tab)
        style = f"<style>body {{ margin: 0 }} {(SCRIPTS / 'moving.css').read_text()}</style>"
        tab.set_content(style + page.book_renderer(chart.to_dict())["text/html"])
        tab.add_script_tag(content=bundle)
        tab.locator("moving-figure.moving-on").wait_for()
        return tab

    yield opened
    for tab in tabs:
        tab.close()


def counter(first=2, last=6, step=1.0):
    """A chart that says where its slider stands."""
    slider = alt.binding_range(min=first, max=last, step=step, name="Stop ")
    stop = alt.param(name="stop", value=first, bind=slider)
    text = alt.Chart(pd.DataFrame({"one": [1]})).transform_calculate(said="'at ' + stop")
    return text.mark_text().encode(text="said:N").add_params(stop).properties(description="text")


def at_end(tab, value):
    tab.wait_for_function("v => document.querySelector('[type=range]').value == v", arg=value)


def on_its_way(tab, value):
    """The slider has come so far; on a busy machine it may be seen a step later."""
    tab.wait_for_function("v => +document.querySelector('[type=range]').value >= v", arg=value)


@pytest.mark.parametrize("key", [None, "Enter", "Space"])
def test_play_moves_the_slider_to_its_end_and_stops_there(opened, key):
    """By mouse and by keyboard. From the end it starts over, which the mouse tries for all."""
    tab = opened(counter())
    play, slider = tab.get_by_role("button"), tab.get_by_role("slider")
    for _ in range(1 if key else 2):
        assert play.inner_text() == "Play"
        if key:
            play.focus()
            tab.keyboard.press(key)
        else:
            play.click()
        on_its_way(tab, 3)
        assert play.inner_text() == "Pause"
        at_end(tab, "6")
        assert tab.locator("svg text", has_text="at 6").count()
        assert play.inner_text() == "Play"
        tab.wait_for_timeout(1100)  # two pauses: nothing moves on
        assert slider.input_value() == "6"


def test_play_stops_where_it_is_told_to_by_the_button_or_by_the_reader_s_hand(opened):
    tab = opened(counter(0, 100))
    play, slider = tab.get_by_role("button"), tab.get_by_role("slider")
    play.click()
    on_its_way(tab, 2)
    play.click()
    assert play.inner_text() == "Play"
    stopped = slider.input_value()
    tab.wait_for_timeout(300)
    assert slider.input_value() == stopped
    play.click()
    slider.focus()
    tab.keyboard.press("End")
    assert play.inner_text() == "Play"
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_timeout(300)
    assert slider.input_value() == "99"


def test_play_ends_where_the_last_step_does_not_reach_the_slider_s_end(opened):
    """And where steps are fractions that no float has."""
    tab = opened(counter(0, 0.75, 0.1))
    tab.get_by_role("button").click()
    at_end(tab, "0.7")
    assert tab.get_by_role("button").inner_text() == "Play"


def test_where_motion_is_not_wanted_each_press_is_a_step(opened):
    tab = opened(counter(), reduced_motion="reduce")
    step, slider = tab.get_by_role("button"), tab.get_by_role("slider")
    for value in ("3", "4"):
        assert step.inner_text() == "Step"
        step.click()
        tab.wait_for_timeout(600)  # more than a pause of the motion
        assert slider.input_value() == value


def test_figures_of_several_sliders_have_no_button(opened):
    chart = counter()
    other = alt.param(name="other", value=1, bind=alt.binding_range(min=0, max=2, step=1))
    assert not opened(chart.add_params(other)).get_by_role("button").count()


def said(tab):
    return tab.get_by_role("status").inner_text()


def test_a_moved_slider_says_in_a_sentence_what_it_shows_and_nothing_is_said_before(opened, record):
    tab = opened(moving.scrubber(record, "text"))
    tab.wait_for_timeout(1000)
    assert not said(tab)
    table = record.table.set_index("epoch")
    for epoch in (60, 16):
        tab.get_by_role("slider").fill(str(epoch))
        at = table.loc[epoch]
        tab.wait_for_function(
            "t => document.querySelector('[role=status]').innerText == t",
            arg=(
                f"Epoch {epoch}: robust accuracy of test images {at.test_robust_accuracy:.2f}, "
                f"CAS of them {at.test_robust_cas:.2f}, "
                f"robust accuracy of training images {at.train_robust_accuracy:.2f}."
            ),
        )


def test_a_figure_that_plays_says_its_end_alone(opened):
    chart = counter(0, 12).add_params(moving.says("'Stop ' + stop"))
    tab = opened(chart)
    tab.evaluate("""() => { window.heard = []; new MutationObserver(() =>
        heard.push(document.querySelector('[role=status]').innerText)
    ).observe(document.querySelector('[role=status]'), { childList: true }); }""")
    tab.get_by_role("button").click()
    tab.wait_for_function("heard.length")
    assert tab.evaluate("heard") == ["Stop 12."]


@pytest.mark.parametrize("width", [790, 739])
def test_the_scrubber_is_no_taller_than_a_desk_s_screen(opened, record, width):
    """As wide as the text at 1440 and at 1024 pixels; slider and pictures within 560 pixels."""
    tab = opened(moving.scrubber(record, "text"), width)
    slider, view = tab.get_by_role("slider").bounding_box(), tab.locator("svg").bounding_box()
    assert view["y"] + view["height"] - slider["y"] <= 560
    assert 600 <= view["width"] <= width
    full = tab.locator("svg").first.evaluate("svg => svg.viewBox.baseVal.width")
    assert view["width"] >= full - 1  # so its type has its full size
    curves, matrix = tab.locator("svg .concat_0_group, svg .concat_1_group").all()
    assert curves.bounding_box()["x"] + 300 < matrix.bounding_box()["x"]  # side by side


def test_on_a_phone_panels_stack_within_the_window(opened, record):
    """Drawn a little smaller where they are a little wider than that."""
    tab = opened(moving.scrubber(record, "text"), 328)
    assert tab.locator("svg").evaluate("e => e.viewBox.baseVal.width > 328")
    assert tab.locator("svg").bounding_box()["width"] <= 328


@pytest.mark.parametrize("width", [342, 774])
def test_a_figure_keeps_the_room_that_it_takes_until_it_is_drawn(opened, record, width):
    """To a tenth of a phone's screen."""
    for draw in CHARTS.values():
        tab = opened(draw(record), width)
        kept, taken = tab.locator("moving-figure").evaluate(
            """e => {
            const figure = e.querySelector("figure"), caption = e.querySelector("figcaption");
            const taken = figure.offsetHeight - caption.offsetHeight;
            e.classList.remove("moving-on"), document.documentElement.dataset.theme = "light";
            return [parseFloat(getComputedStyle(e).minHeight), taken];
        }"""
        )
        assert kept == pytest.approx(taken, abs=84)


CHARTS = {
    "scrubber": lambda record: moving.scrubber(record, "text"),
    "paths": lambda record: moving.paths({"a": [record]}, "inside", "across", ("x", "y"), "text"),
    "warmth": lambda record: moving.warmth(torch.eye(6), torch.arange(6), NAMES, "text"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_moving_figures_fill_the_column_with_type_of_12_pixels(opened, record, name):
    tab = opened(CHARTS[name](record))
    assert tab.locator("svg").bounding_box()["width"] >= 600
    sizes = tab.locator("svg text").evaluate_all(
        "texts => texts.map(text => parseFloat(getComputedStyle(text).fontSize))"
    )
    assert min(sizes) >= 12


def fills(tab):
    """How bright the cells of a matrix are drawn, by their value: those of 0, those of 1."""
    cells = tab.locator("svg .mark-rect path[aria-label]").evaluate_all(
        "cells => cells.map(cell => [cell.getAttribute('aria-label'), cell.getAttribute('fill')])"
    )
    values = [said.partition("value: ")[2].replace("\u2212", "-") for said, _ in cells]
    return {float(v.split(";")[0]): fill for v, (_, fill) in zip(values, cells, strict=True)}


def test_a_matrix_goes_through_the_dark_page_s_ground_and_keeps_the_slider_s_place(opened, record):
    """Back in the light it is as it was."""
    tab = opened(moving.scrubber(record, "text"))
    tab.get_by_role("slider").fill("60")
    light = fills(tab)
    seen = []
    for theme in ("dark", "light"):
        tab.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        tab.wait_for_function("() => document.querySelector('[type=range]')?.value == 60")
        tab.wait_for_timeout(500)
        seen.append((fills(tab), {*numbers(tab)}))
    (dark, written), (again, before) = seen
    assert again == light
    brightness = {v: sum(map(int, re.findall(r"\d+", colour))) for v, colour in dark.items()}
    least = min(brightness, key=abs)
    assert brightness[least] < 150 < brightness[1.0]  # of 3 x 255: about the ground, and red
    assert written == {"white"}
    assert before == {"white", "black"}


def numbers(tab):
    """The colours of a matrix's numbers."""
    found = tab.locator("svg .mark-text.role-mark text", has_text=re.compile(r"^.?\d\.\d$"))
    return found.evaluate_all("texts => texts.map(text => text.getAttribute('fill'))")


@pytest.mark.parametrize(("share", "grows"), [(0.7, False), (0.85, True), (1.0, False)])
def test_a_chart_that_nearly_fills_the_column_is_drawn_as_wide(opened, share, grows):
    chart = counter().properties(width=round(780 * share))
    tab = opened(chart)
    wide = tab.locator("svg").bounding_box()["width"]
    assert (wide == pytest.approx(790, abs=2)) == (grows or share == 1)


def phone_s(svg):
    found = re.search("<metadata id='phone'>(.*?)</metadata>", svg)
    return gzip.decompress(b64decode(found[1])).decode() if found else None


def wide(svg):
    return float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])


def test_a_wide_figure_has_a_narrow_drawing_inside_and_what_cannot_be_moved_has_none():
    """The narrow one has its letters as large, and the figure is left as it was."""
    figure, axes = plt.subplots(figsize=(9, 3))
    axes.set_xlabel("epoch")
    svg = page.drawn(figure)
    assert wide(svg) > 500
    assert wide(phone_s(svg)) < 335
    assert "scale(0.1 -0.1)" in phone_s(svg)
    assert figure.get_size_inches().tolist() == [9, 3]
    figure.colorbar(plt.cm.ScalarMappable(), ax=axes)
    assert phone_s(page.drawn(figure))
    crowded, cells = plt.subplots(figsize=(9, 9))
    for place in range(65):  # one more than a matrix of eight classes has numbers
        cells.text(0, place, "0.5")
    assert not phone_s(page.drawn(crowded))
    assert not phone_s(page.drawn(plt.subplots(figsize=(4, 3))[0]))
    assert not phone_s(page.drawn(plt.figure(figsize=(9, 3))))
    across = plt.figure(figsize=(9, 6))
    for place in (221, 222, 212):
        across.add_subplot(place)
    assert not phone_s(page.drawn(across))
    grid = plt.figure(figsize=(9, 6)).add_gridspec(2, 2)
    for place in (grid[0, 0], grid[0, 1], grid[1, :]):
        grid.figure.add_subplot(place)
    assert not phone_s(page.drawn(grid.figure))
    free = plt.figure(figsize=(9, 3))
    free.add_axes((0, 0, 0.4, 1)), free.add_axes((0.5, 0, 0.4, 1))
    assert not phone_s(page.drawn(free))


@pytest.mark.parametrize(("points", "pictures"), [(100, 0), (101, 1)])
def test_a_cloud_of_points_is_a_picture_and_few_points_are_drawn_each(points, pictures):
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.scatter(range(points), range(points))
    svg = page.drawn(figure)
    assert svg.count("<image") == pictures
    assert (svg.count("<use") >= points) == (not pictures)
    if pictures:
        assert float(re.search(r'<image[^>]* width="([\d.]+)"', svg)[1]) > 100
        png = b64decode(re.search(r"base64,([^\"]+)", svg)[1])
        assert int.from_bytes(png[16:20]) > 500  # of 4 inches 3 are the panel's: 200 per inch


def titles(figure):
    """Of its panels from above and from the left."""
    figure.draw_without_rendering()
    panels = sorted(
        figure.axes, key=lambda a: (-round(a.get_position().y0, 2), a.get_position().x0)
    )
    return [axes.get_title() for axes in panels]


@pytest.mark.parametrize(
    ("rows", "columns", "width", "expected"),
    [
        (1, 3, 9.6, ["0,0", "0,1", "0,2"]),
        (2, 2, 9.6, ["0,0", "1,0", "0,1", "1,1"]),
        (1, 4, 9.6, ["0,0", "0,1", "0,2", "0,3"]),
        (2, 4, 9.6, ["0,0", "0,1", "1,0", "1,1", "0,2", "0,3", "1,2", "1,3"]),
    ],
)
def test_on_a_phone_columns_of_panels_stand_below_one_another(rows, columns, width, expected):
    figure, axes = plt.subplots(rows, columns, figsize=(width, 3 * rows), squeeze=False)
    for row, column in np.ndindex(rows, columns):
        axes[row, column].set_title(f"{row},{column}")
    before, known = (figure.get_size_inches().tolist(), titles(figure)), plt.get_fignums()
    small = page.narrow(figure)
    assert titles(small) == expected
    boxes = [axes.get_tightbbox() for axes in small.axes]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert small.get_figwidth() == page.PHONE
    assert small.get_figheight() / figure.get_figheight() == len(expected) / rows / (
        2 if columns == 4 else 1
    )
    assert (figure.get_size_inches().tolist(), titles(figure)) == before
    assert plt.get_fignums() == known


def test_on_a_phone_pictures_keep_their_shape():
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 5))
    for panel in axes:
        panel.imshow([[0, 1], [1, 0]])
    assert page.narrow(figure).get_figheight() == pytest.approx(2 * 5 * page.PHONE / 4.8)


def test_on_a_phone_a_panel_says_what_the_first_of_its_row_said_for_all():
    figure, axes = plt.subplots(2, 3, figsize=(9, 6), sharey="row")
    for row, name in zip(axes, ("plain", "pushed"), strict=True):
        row[0].set(title=name, ylabel="accuracy")
        row[1].yaxis.label.set_visible(False)  # as seaborn does
    small = page.narrow(figure)
    assert [panel.get_title() for panel in small.axes] == ["plain"] * 3 + ["pushed"] * 3
    assert {panel.get_ylabel() for panel in small.axes} == {"accuracy"}
    assert all(panel.yaxis.label.get_visible() for panel in small.axes)
    assert all(panel.yaxis.get_tick_params()["labelleft"] for panel in small.axes)
    assert not axes[0, 1].yaxis.get_tick_params()["labelleft"]


def test_on_a_phone_a_long_name_below_a_panel_makes_the_drawing_no_wider():
    """Wider drawings have smaller letters there."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    plt.setp(axes, yticks=[1], yticklabels=["a long label of a row"])
    plt.setp(axes, xlabel="accuracy less that of adversarial training, best")
    small = page.narrow(figure)
    small.draw_without_rendering()
    assert small.get_tightbbox().width <= page.PHONE


def test_on_a_phone_what_is_for_desks_only_is_left_out():
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes in figure.subplots(1, 2):
        axes.text(0, 0, "everywhere")
        axes.text(1, 1, "only there", gid="desk")
    said = [text.get_text() for axes in page.narrow(figure).axes for text in axes.texts]
    assert said == ["everywhere", "everywhere"]
    assert [len(axes.texts) for axes in figure.axes] == [2, 2]


def test_on_a_phone_rows_of_panels_keep_their_heights():
    figure = plt.subplots(2, 1, figsize=(9, 6), height_ratios=(3, 1), layout="constrained")[0]
    small = page.narrow(figure)
    small.draw_without_rendering()
    high, low = (panel.get_position().height for panel in small.axes)
    assert high == pytest.approx(3 * low, rel=0.01)


def test_on_a_phone_a_panel_takes_no_title_from_one_among_others_that_have_their_own():
    figure, axes = plt.subplots(1, 3, figsize=(9, 3))
    axes[0].set_title("first"), axes[1].set_title("second")
    axes[0].tick_params(labelleft=True), axes[2].tick_params(labelleft=False)
    small = page.narrow(figure)
    assert [panel.get_title() for panel in small.axes] == ["first", "second", ""]
    assert not small.axes[2].yaxis.get_tick_params()["labelleft"]  # of a scale of its own


@pytest.mark.parametrize("panels", [1, 2])
def test_on_a_phone_a_legend_has_as_many_columns_as_fit(panels):
    figure, axes = plt.subplots(1, panels, figsize=(9.6, 3), squeeze=False, layout="constrained")
    for name in "abcd":
        axes[0, 0].plot([0, 1], label=f"name of a line, {name}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    legend = page.narrow(figure).legends[0]
    assert legend.get_window_extent().width <= page.PHONE * legend.figure.dpi
    assert legend._ncols == 2
    assert figure.legends[0]._ncols == 4


def test_a_figure_with_a_drawing_of_its_own_for_phones_has_that_one_inside():
    figure, axes = plt.subplots(figsize=(9, 9))
    for place in range(65):
        axes.text(0, place, "0.5")
    small = Figure(figsize=(page.PHONE, 2))
    small.text(0.1, 0.5, "on a phone")
    svg = page.drawn(page.on_phones(figure, small))
    assert "on a phone" in phone_s(svg)
    assert "on a phone" not in svg
