"""Figures that move: Altair charts with one slider, drawn by the page itself in the built book."""

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ccnotes.attribution import class_means
from ccnotes.records import Record
from ccnotes.tables import visible

BLUE, ORANGE, GREEN, PURPLE = PALETTE = ["#2a7fc4", "#d9651b", "#4b9b69", "#7b5ea7"]

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])  # "6.4", as vl-convert has it
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


def warmth(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    classes: Sequence[str],
    description: str,
) -> alt.VConcatChart:
    """One slider, the temperature: the mean soft label of the images of each class.

    A soft label is the softmax of an image's logits over the temperature, here 1 to 16.
    ``description`` is the text for those who do not see the chart.

    >>> chart = warmth(torch.eye(2), torch.tensor([0, 1]), ["cat", "dog"], "Labels get softer.")
    >>> chart.description
    'Labels get softer.'
    """
    temperatures = [1, 1.5, 2, 3, 4, 6, 8, 12, 16]
    soft = [class_means((logits / t).softmax(1), labels, len(classes)) for t in temperatures]
    rows = pd.DataFrame({"step": range(len(soft)), "temperature": temperatures})
    rows["label"] = [f"temperature {t:g}" for t in temperatures]
    rows["soft"] = hundredths(torch.stack(soft))
    slider = alt.binding_range(min=0, max=len(soft) - 1, step=1, name="Warmer ")
    step = alt.param(name="step", value=2, bind=slider)
    now = alt.datum.step == step
    heat = cells(rows, now, "soft", classes, len(classes), "mean probability").encode(
        x=alt.X("column:O", title="probability of").axis(labelExpr=name_at(classes, "datum.value")),
        y=alt.Y("row:N", sort=None, title="images of"),
        color=alt.Color("value:Q", title="mean probability")
        .scale(domain=[0, 1], scheme="blues")
        .legend(orient="bottom", direction="horizontal", gradientLength=190),
    )
    number = heat.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition("datum.value > 0.5", alt.value("white"), alt.value("black")),
    )
    title = alt.Chart(rows).transform_filter(now).mark_text(fontSize=13).encode(text="label:N")
    return (
        alt.vconcat(
            title.properties(width=250, height=18),
            (heat + number).properties(width=250, height=250),
        )
        .add_params(step)
        .properties(description=description)
    )


def paths(
    groups: dict[str, Sequence[Record]], x: str, y: str, titles: tuple[str, str], description: str
) -> alt.LayerChart:
    """One slider, the epoch: each group of records as a point on its way through ``x`` and ``y``.

    Both are columns of the records' tables, means over the records of a group; the line is the
    way so far. ``titles`` are those of the axes.

    >>> from ccnotes.records import runs
    >>> groups = {"plain AT": runs("planted-at", seeds=range(2))}
    >>> paths(groups, "inside", "across", ("similarity", "of others"), "A way.").description
    'A way.'
    """
    names = [visible(name) for name in groups]
    rows = pd.concat(
        [
            pd.concat([r.table[["epoch", x, y]] for r in records])
            .groupby("epoch", as_index=False)
            .mean()
            .assign(run=name)
            for name, records in zip(names, groups.values(), strict=True)
        ]
    )
    epochs = sorted(rows.epoch.unique().tolist())
    epoch = alt.param(name="epoch", value=epochs[-1], bind=epoch_slider(epochs))
    key = alt.Legend(orient="top", columns=3, title=None)  # one for colours, dashes and shapes
    hues = [PALETTE[i % 4] for i in range(len(names))]
    dashes = [([1, 0], [5, 2], [2, 2])[i // 4 % 3] for i in range(len(names))]
    encoded = {
        "x": alt.X(x, type="quantitative", title=titles[0]).scale(zero=False, nice=True),
        "y": alt.Y(y, type="quantitative", title=titles[1]).scale(zero=False, nice=True),
        "color": alt.Color("run:N", sort=names, legend=key).scale(domain=names, range=hues),
        "tooltip": ["run:N", "epoch:Q"],
    }
    way = (
        alt.Chart(rows)
        .transform_filter(alt.datum.epoch <= epoch)
        .mark_line(strokeWidth=2, opacity=0.8)
        .encode(
            **encoded,
            order="epoch:Q",
            strokeDash=alt.StrokeDash("run:N", sort=names, legend=key).scale(
                domain=names, range=dashes
            ),
        )
    )
    point = (
        alt.Chart(rows)
        .transform_filter(alt.datum.epoch == epoch)
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            **encoded,
            shape=alt.Shape("run:N", sort=names, legend=key).scale(domain=names),
        )
    )
    chart: alt.LayerChart = (way + point).add_params(epoch)
    return chart.properties(width=330, height=300, description=description)


def scrubber(record: Record, description: str) -> alt.VConcatChart:
    """One slider: accuracy and CAS, the similarity matrix and single images' attributions.

    The matrix is that of attacked test images. Below it, the attribution vector of the first
    test image of each class, attacked, scaled to length 1: a column is a feature. The slider
    starts at the last evaluation up to the best epoch, and the features are in the order of the
    class that they serve most there. Raises ValueError for a record without attribution vectors.

    >>> from ccnotes.records import runs
    >>> scrubber(runs("planted-at")[0], "Accuracy and similarity.").description
    'Accuracy and similarity.'
    """
    table, classes = record.table, list(record.content["dataset"]["classes"])
    top = len(classes) * (len(classes) - 1)
    series = {
        "robust accuracy, training": table.train_robust_accuracy,
        "robust accuracy, test": table.test_robust_accuracy,
        f"CAS / {top}": table.test_robust_cas / top,
    }
    start = max(0, int((table.epoch <= record.best["epoch"]).sum()) - 1)
    vectors = sorted_by_class(F.normalize(record.sample_attribution, dim=2), start)
    rows = pd.DataFrame({"epoch": table.epoch, **series})
    rows["matrix"] = hundredths(record.arrays["test_robust_similarity"])
    rows["samples"] = hundredths(vectors)
    rows["until"] = table.epoch.shift(-1, fill_value=table.epoch.max() + 1)  # stands until the next
    slider = epoch_slider(table.epoch.tolist())
    epoch = alt.param(name="epoch", value=int(table.epoch[start]), bind=slider)
    now = (alt.datum.epoch <= epoch) & (epoch < alt.datum.until)
    cursor = alt.Chart(rows).transform_filter(now).mark_rule(strokeWidth=2).encode(x="epoch:Q")
    heat = cells(rows, now, "matrix", classes, len(classes), "cosine").encode(
        x=alt.X("column:O", title=None).axis(labelExpr=name_at(classes, "datum.value"))
    )
    side = max(190, 26 * len(classes))  # a number fits into its cell
    # In grey, red and blue look alike.
    dark = "abs(datum.value) > 0.6"
    numbers = heat.mark_text(fontSize=8).encode(
        text=alt.Text("value:Q", format=".1f"),
        color=alt.when(dark).then(alt.value("white")).otherwise(alt.value("black")),
    )
    strips = cells(rows, now, "samples", classes, vectors.shape[2], "share of the vector").encode(
        x=alt.X("column:O", title="feature").axis(labels=False, ticks=False),
    )
    chart: alt.VConcatChart = (
        alt.vconcat(
            (lines(rows, list(series)) + cursor).properties(width=270, height=170),
            (heat + numbers).properties(width=side, height=side),
            strips.properties(width=270, height=15 * len(classes)),
        )
        .resolve_scale(color="independent", strokeDash="independent", x="independent")
        .add_params(epoch)
    )
    return chart.properties(description=description)


def surface(told: dict[str, Any], description: str) -> alt.VConcatChart:
    """One slider, the epoch: the loss around images, along their perturbation and across it.

    ``told`` is what :func:`ccnotes.collapse.surfaces` gives. Above, the loss along the perturbation
    alone, with a line where FGSM stops.

    >>> told = {"along": [0, 1], "across": [0], "loss": [[[0.5, 2.0]], [[0.5, 1.0]]]}
    >>> surface(told, "Loss around images.").description
    'Loss around images.'
    """
    along, across, loss = (told[name] for name in ("along", "across", "loss"))
    rows = pd.DataFrame({"epoch": range(len(loss)), "loss": hundredths(torch.tensor(loss))})
    limits = [min(map(min, rows.loss)) / 100, max(map(max, rows.loss)) / 100]
    epoch = alt.param(name="epoch", value=1, bind=epoch_slider(rows.epoch.tolist()))
    around = (
        alt.Chart(rows)
        .transform_filter(alt.datum.epoch == epoch)
        .transform_calculate(cell=f"sequence({len(along) * len(across)})")
        .transform_flatten(["loss", "cell"])
        .transform_calculate(
            value="datum.loss / 100",
            along=f"{json.dumps(list(along))}[datum.cell % {len(along)}]",
            across=f"{json.dumps(list(across))}[floor(datum.cell / {len(along)})]",
        )
    )
    shown = "mean loss, nats"
    line = (
        around.transform_filter(alt.datum.across == 0)
        .mark_line(point=True, color=BLUE)
        .encode(
            x=alt.X("along:Q", title="along the perturbation; FGSM stops at 1"),
            y=alt.Y("value:Q", title=shown).scale(domain=limits),
            tooltip=["along:Q", alt.Tooltip("value:Q", title=shown, format=".2f")],
        )
    )
    stop = alt.Chart(pd.DataFrame({"along": [1]})).mark_rule(strokeDash=[4, 3]).encode(x="along:Q")
    heat = around.mark_rect().encode(
        x=alt.X("along:O", title="along the perturbation").axis(labelAngle=0),
        y=alt.Y("across:O", sort="descending", title="across it"),
        color=alt.Color("value:Q", title=shown)
        .scale(domain=limits, scheme="viridis")
        .legend(orient="bottom", direction="horizontal", gradientLength=190),
        tooltip=["along:Q", "across:Q", alt.Tooltip("value:Q", title=shown, format=".2f")],
    )
    both: alt.VConcatChart = (
        alt.vconcat(
            (line + stop).properties(width=380, height=150), heat.properties(width=380, height=190)
        )
        .resolve_scale(x="independent")
        .add_params(epoch)
    )
    return both.properties(description=description)


def sorted_by_class(
    vectors: Float[Tensor, "epochs classes features"], at: int
) -> Float[Tensor, "epochs classes features"]:
    """Features in the order of the class that each serves most at one epoch, strongest first."""
    strongest = vectors[at].max(0)
    return vectors[:, :, np.lexsort((-strongest.values.numpy(), strongest.indices.numpy()))]


def lines(rows: pd.DataFrame, names: list[str]) -> alt.Chart:
    """Three columns against epoch, apart by colour and by dash."""
    hue = alt.Scale(domain=names, range=[ORANGE, BLUE, GREEN])
    dash = alt.Scale(domain=names, range=[[5, 2], [1, 0], [2, 2]])
    chart: alt.Chart = (
        alt.Chart(rows)
        .transform_fold([*names], as_=["curve", "value"])
        .mark_line()
        .encode(
            x=alt.X("epoch:Q", title="epoch"),
            y=alt.Y("value:Q", title="share").scale(domain=[0, 1]),
            color=alt.Color("curve:N", title=None, scale=hue).legend(orient="top", columns=1),
            strokeDash=alt.StrokeDash("curve:N", title=None, scale=dash),
        )
    )
    return chart


def cells(
    rows: pd.DataFrame, now: Any, field: str, classes: Sequence[str], columns: int, title: str
) -> alt.Chart:
    """The current row's ``field`` as a heat map, a row a class."""
    reach = 1 if columns == len(classes) else 0.5
    chart: alt.Chart = (
        alt.Chart(rows)
        .transform_filter(now)
        .transform_calculate(cell=f"sequence({len(classes) * columns})")
        .transform_flatten([field, "cell"])
        .transform_calculate(
            value=f"datum.{field} / 100",
            row=name_at(classes, f"floor(datum.cell / {columns})"),
            column=f"datum.cell % {columns}",
        )
        .mark_rect()
        .encode(
            y=alt.Y("row:N", sort=None, title=None),
            color=alt.Color("value:Q", title=title)
            .scale(domain=[-reach, reach], scheme="redblue", reverse=True, clamp=True)
            .legend(orient="bottom", direction="horizontal", gradientLength=190),
            tooltip=["row:N", alt.Tooltip("value:Q", format=".2f")],
        )
    )
    return chart


def name_at(classes: Sequence[str], index: str) -> str:
    """The Vega expression for the name of the class that the expression ``index`` counts."""
    return f"{json.dumps([visible(name) for name in classes])}[{index}]"


def epoch_slider(epochs: list[int]) -> alt.BindRange:
    """From the first of the epochs, in order, to the last, stopping at each."""
    step = math.gcd(*np.diff(epochs).tolist()) or 1
    return alt.binding_range(min=epochs[0], max=epochs[-1], step=step, name="Epoch ")


def hundredths(values: Float[Tensor, "epochs rows columns"]) -> list[list[int]]:
    return (100 * values).round().int().flatten(1).tolist()


def enable() -> None:
    """From now on draw every Altair chart for the built book; :func:`ccnotes.plots.style` does."""
    alt.renderers.register("book", book_renderer)
    alt.renderers.enable("book")


def book_renderer(spec: dict[str, Any], **metadata: Any) -> dict[str, str]:
    """The chart as ``<moving-figure>``; ``usermeta={"caption": ...}`` may differ from its text.

    Without the page's script it is a still picture. Raises ValueError for a chart without a text.
    """
    if not (text := html.escape(spec.get("description", ""))):
        raise ValueError("This chart has no text: add .properties(description='What it shows').")
    caption = html.escape(spec.get("usermeta", {}).get("caption", "")) or text
    config = spec.get("config", {})
    look = {key: {**LOOK[key], **config.get(key, {})} for key in LOOK}
    spec = {**spec, "background": None, "config": {**config, **look}}
    spec = json.loads(json.dumps(spec), parse_float=lambda number: float(f"{float(number):.5g}"))
    # No "<" of a name can end the script or begin a comment in it.
    data = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    return {
        "text/html": "<moving-figure data-lm-suppress-shortcuts><figure>"
        '<div class="moving-controls"></div><div class="moving-view"></div>'
        f'<img class="moving-still" alt="{text}" {still(spec)}>'
        f"<figcaption>{caption}</figcaption></figure>"
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
