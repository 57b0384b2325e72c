"""Figures as the built book shows them: charts in the look of the page, with a still and a text."""

import base64
import gzip
import hashlib
import html
import io
import json
import pickle
import re
from typing import Any

import altair as alt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, GridSpecBase, SubplotSpec

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])  # "6.4", as vl-convert has it
WIDTH_ON_PHONE = 272  # pixels, of the panel of a chart that moves
PHONE = 4.3  # inches, on which type of 11 points is 12 pixels where a phone shows them
INK = "currentColor"  # the page's text colour, so that a chart follows the dark toggle
TEXT = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12}
LOOK: dict[str, dict[str, Any]] = {
    "axis": {
        **TEXT,
        "tickColor": INK,
        "domainColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.18,
        "labelFlush": False,
    },
    "legend": {**TEXT, "labelLimit": 0, "symbolOpacity": 1},
    "header": TEXT,
    "title": {"color": INK, "subtitleColor": INK},
    "rule": {"color": INK},
    "text": {"color": INK},
    "view": {"stroke": None},
}


def enable() -> None:
    """From now on draw what is shown for the built book; :func:`ccnotes.plots.style` does."""
    from IPython.core.getipython import get_ipython

    alt.renderers.register("book", book_renderer)
    alt.renderers.enable("book")
    if (shell := get_ipython()) and shell.display_formatter:
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, drawn)


def drawn(figure: Figure) -> str:
    """The figure as SVG; within it, for the build to take out, its drawing for phones (if any).

    That is the one which :func:`on_phones` gave it or, of a wide figure, :func:`narrow`'s.

    >>> figure = Figure(figsize=(8, 3))
    >>> axes = figure.subplots()
    >>> "<metadata id='phone'>" in drawn(figure)
    True
    """
    svg = vector(figure)
    if (small := vars(figure).get("phone") or narrow(figure)) is None:
        return svg
    data = gzip.compress(vector(small).encode(), mtime=0)
    inside = f"<metadata id='phone'>{base64.b64encode(data).decode()}</metadata>"
    return svg.replace("</svg>", f"{inside}</svg>")


def narrow(figure: Figure) -> Figure | None:
    """A wide figure anew, :data:`PHONE` inches wide; None if there is no such drawing.

    Panels that stand in a grid stand in fewer columns: the figure's columns from the left to the
    right, each below the one before. What has the gid "desk" is left out. A panel without a title
    or labels at its left gets those of the first in its row. One panel alone with more numbers in
    it than a matrix of eight classes has no room for them on a phone; panels in no grid cannot be
    moved.

    >>> figure = Figure(figsize=(9, 3), layout="constrained")
    >>> axes = figure.subplots(1, 3)
    >>> narrow(figure).axes[0].get_gridspec().get_geometry()
    (3, 1)
    """
    width, height = figure.get_size_inches()
    panels = panels_of(figure)
    crowded = len(panels) == 1 and len(panels[0].texts) > 8 * 8
    if width < 1.2 * PHONE or crowded or not panels:
        return None
    if len(panels) == 1:
        small = copied(figure)
        small.set_size_inches(PHONE, height)
        fit_legends(small)
        return small
    places = [place for axes in panels if (place := axes.get_subplotspec())]
    grids = {place.get_gridspec() for place in places}
    across = any(place.num1 != place.num2 for place in places)
    if across or len(places) < len(panels) or len(grids) != 1:
        return None
    return in_fewer_columns(figure, places, grids.pop())


def panels_of(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def in_fewer_columns(figure: Figure, places: list[SubplotSpec], grid: GridSpecBase) -> Figure:
    """A figure whose panels have these ``places`` in a grid, as :func:`narrow` has it."""
    (width, height), (rows, columns) = figure.get_size_inches(), grid.get_geometry()
    together = max(1, round(columns * PHONE / width))
    parts = -(-columns // together)
    pictures = any(axes.get_aspect() != "auto" for axes in panels_of(figure))  # keep their shape
    wider = columns / width * PHONE / together if pictures else 1
    small = copied(figure)
    small.set_size_inches(PHONE, parts * height * wider)
    small.set_layout_engine("constrained")
    ratios = list(np.tile(grid.get_height_ratios(), parts))
    new = GridSpec(parts * rows, together, figure=small, height_ratios=ratios)
    in_row: list[dict[int, Axes]] = [{} for _ in range(rows)]
    for axes, place in zip(panels_of(small), places, strict=True):
        row, column = divmod(int(place.num1), columns)
        part, left = divmod(column, together)
        axes.set_subplotspec(new[part * rows + row, left])
        in_row[row][column] = axes
    for row_of_panels in in_row:
        said_by_each(row_of_panels, together)
    small.draw_without_rendering()
    for axes in panels_of(small):
        for text in (axes.xaxis.label, axes.title):
            if text.get_window_extent().x1 > axes.bbox.x1 + 2:  # else the drawing grows
                text.set(x=1, ha="right")
    fit_legends(small)
    return small


def copied(figure: Figure) -> Figure:
    """Another of the same, of which pyplot does not know, less what has the gid "desk"."""
    manager, figure.canvas.manager = figure.canvas.manager, None
    try:
        # No file is read. A deepcopy's parts would be removed from the old figure's panels.
        twin: Figure = pickle.loads(pickle.dumps(figure))
        for part in twin.findobj(lambda artist: artist.get_gid() == "desk"):
            part.remove()
        return twin
    finally:
        figure.canvas.manager = manager


def said_by_each(row: dict[int, Axes], together: int) -> None:
    """What the first panel of a row said for all, each that now begins a row says as well."""
    if 0 not in row:
        return
    first, title = row[0], row[0].get_title()
    alone = not any(axes.get_title() for column, axes in row.items() if column)
    for column, axes in row.items():
        if column and column % together == 0:
            if axes.get_shared_y_axes().joined(axes, first):
                axes.tick_params(labelleft=True)
                axes.yaxis.label.set_visible(True)
            axes.set_ylabel(axes.get_ylabel() or first.get_ylabel())
            if alone:
                axes.set_title(title)


def fit_legends(figure: Figure) -> None:
    """Makes those above all panels anew in as many columns as the figure has room for."""
    for legend in list(figure.legends):
        names, columns = [text.get_text() for text in legend.get_texts()], len(legend.get_texts())
        while columns > 1 and legend.get_window_extent().width > figure.bbox.width:
            columns -= 1
            handles = [handle for handle in legend.legend_handles if handle]
            title = legend.get_title().get_text() or None
            legend.remove()
            legend = figure.legend(
                handles, names, loc="outside upper center", ncols=columns, title=title
            )


def on_phones(figure: Figure, small: Figure) -> Figure:
    """``figure``; on phones the built book shows ``small``, best :data:`PHONE` inches wide.

    ``small`` is made by ``Figure(...)``, not by pyplot, which would show it as well.

    >>> both = on_phones(Figure(figsize=(9, 3)), Figure(figsize=(PHONE, 6)))
    >>> "<metadata id='phone'>" in drawn(both)
    True
    """
    vars(figure)["phone"] = small
    return figure


def vector(figure: Figure) -> str:
    """The figure as SVG. Its clouds of points are pictures: else each point is an element."""
    clouds = [c for c in figure.findobj(PathCollection) if len(np.asarray(c.get_offsets())) > 100]
    for cloud in clouds:
        cloud.set_rasterized(True)
    file, dpi, ground = io.StringIO(), 200 if clouds else "figure", figure.get_facecolor()
    figure.savefig(file, format="svg", dpi=dpi, bbox_inches="tight", facecolor=ground)
    return file.getvalue()


def book_renderer(spec: dict[str, Any], **metadata: Any) -> dict[str, str]:
    """The chart as ``<moving-figure>``: the caption of ``usermeta={"caption": ...}`` is in sight.

    The chart's text is then for those who do not see it; with no caption the text is in sight.
    Without the page's script it is a still picture. With it, what :func:`ccnotes.moving.says` gave
    the chart to say is told to screen readers. Raises ValueError for a chart without a text.
    """
    if not (text := html.escape(spec.get("description", ""))):
        raise ValueError("This chart has no text: add .properties(description='What it shows').")
    caption = html.escape(spec.get("usermeta", {}).get("caption", ""))
    config = spec.get("config", {})
    look = {key: {**LOOK[key], **config.get(key, {})} for key in LOOK}
    spec = {**spec, "background": None, "config": {**config, **look}}
    spec = json.loads(json.dumps(spec), parse_float=lambda number: float(f"{float(number):.5g}"))
    # No "<" of a name can end the script or begin a comment in it.
    data = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    name = f"text-{hashlib.sha256(data.encode()).hexdigest()[:12]}"  # the same in every build
    said = f'<p class="moving-text" id="{name}">{text}</p>' if caption else ""
    described = f' aria-describedby="{name}"' if caption else ""
    return {
        "text/html": f'<moving-figure style="{room(spec)}" data-lm-suppress-shortcuts>'
        f"<figure{described}>"
        '<div class="moving-controls"></div><div class="moving-view"></div>'
        f'<img class="moving-still" alt="{text}" {still(spec)}>{said}'
        '<p class="moving-says" role="status"></p>'
        f"<figcaption>{caption or text}</figcaption></figure>"
        f'<script type="application/json">{data}</script></moving-figure>'
    }


def room(spec: dict[str, Any]) -> str:
    """About how high chart and controls will be, as CSS has it, so that the page keeps its place.

    On a phone, where panels stack, and on a desk, in columns of the width that the book has there.
    """
    import vl_convert

    kinds = [param["bind"]["input"] for param in spec.get("params", []) if "bind" in param]
    sliders, others = kinds.count("range"), len(kinds) - kinds.count("range")
    stacked = {"columns": 1, "align": "none"} if "columns" in spec else {"width": WIDTH_ON_PHONE}
    rows = 70 * sliders + 35 * others, 38 * max(1, sliders) + 14
    said = []
    for drawn, column, controls in zip(({**spec, **stacked}, spec), (342, 774), rows, strict=True):
        svg = vl_convert.vegalite_to_svg(drawn, vl_version=VEGA_LITE)
        _, _, width, height = map(float, re.findall(r"[\d.]+", svg[svg.index("viewBox") :])[:4])
        fills = column / width if 0.85 * width < column < 1.3 * width else 1  # as moving.js has it
        said.append(round(height * fills) + controls)
    return "--phone: {}px; --desk: {}px".format(*said)


def still(spec: dict[str, Any]) -> str:
    """The first state as the ``width`` and ``src`` of a PNG: small, and of twice the crispness."""
    import vl_convert
    from PIL import Image

    spec = {**spec, "background": "white"}
    png = io.BytesIO(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2))
    picture, small = Image.open(png).convert("RGB"), io.BytesIO()
    few = picture.quantize(128, method=Image.Quantize.MAXCOVERAGE)  # keeps rare colours
    few.save(small, "png", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    return f'width="{picture.width // 2}" src="data:image/png;base64,{data}"'
