"""Figures as the built book shows them: charts in the look of the page, with a still and a text."""

import base64
import gzip
import hashlib
import html
import io
import json
from typing import Any

import altair as alt
from matplotlib.figure import Figure

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])  # "6.4", as vl-convert has it
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
    """The figure as SVG; within it, for the build to take out, one of a single panel as on a phone.

    Those of several panels the build cuts between the panels (book/_ext/narrow.py). A panel with
    more numbers in it than a matrix of eight classes has no room for them there, and stays, unless
    :func:`on_phones` gave it a drawing.

    >>> figure = Figure(figsize=(8, 3))
    >>> axes = figure.subplots()
    >>> "<metadata id='phone'>" in drawn(figure)
    True
    """
    svg = vector(figure)
    if (small := narrow(figure)) is None:
        return svg
    data = gzip.compress(small.encode(), mtime=0)
    inside = f"<metadata id='phone'>{base64.b64encode(data).decode()}</metadata>"
    return svg.replace("</svg>", f"{inside}</svg>")


def narrow(figure: Figure) -> str | None:
    """A figure's SVG for phones: the drawing that it has for them, or its one panel, less wide."""
    if small := vars(figure).get("phone"):
        return vector(small)
    width, height = figure.get_size_inches()
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    if width < 1.2 * PHONE or len(panels) != 1 or len(panels[0].texts) > 8 * 8:
        return None
    figure.set_size_inches(PHONE, height)
    svg = vector(figure)
    figure.set_size_inches(width, height)
    return svg


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
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", facecolor=figure.get_facecolor())
    return file.getvalue()


def book_renderer(spec: dict[str, Any], **metadata: Any) -> dict[str, str]:
    """The chart as ``<moving-figure>``: the caption of ``usermeta={"caption": ...}`` is in sight.

    The chart's text is then for those who do not see it; with no caption the text is in sight.
    Without the page's script it is a still picture. Raises ValueError for a chart without a text.
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
        "text/html": f"<moving-figure data-lm-suppress-shortcuts><figure{described}>"
        '<div class="moving-controls"></div><div class="moving-view"></div>'
        f'<img class="moving-still" alt="{text}" {still(spec)}>{said}'
        f"<figcaption>{caption or text}</figcaption></figure>"
        f'<script type="application/json">{data}</script></moving-figure>'
    }


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
