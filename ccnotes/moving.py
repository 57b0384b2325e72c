"""Figures that move: Altair charts with one slider, drawn by the page itself in the built book."""

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
from ccnotes.page import (  # a room of its own since; the charts' readers find it here, too
    LOOK as LOOK,
    VEGA_LITE as VEGA_LITE,
    book_renderer as book_renderer,
    enable as enable,
    still as still,
)
from ccnotes.records import Record
from ccnotes.tables import visible

BLUE, ORANGE, GREEN, PURPLE = PALETTE = ["#2a7fc4", "#d9651b", "#4b9b69", "#7b5ea7"]
GREY = "#767676"  # names are read in it
PALE_BLUE, PALE_ORANGE = "#9fc5e4", "#eeba98"  # beside what is lit; in the dark: book/_ext/dark.py
SIDE = 290  # pixels of a panel: two stand side by side on a desk, one on a phone
WIDE, HIGH = (270, 600), 340  # pixels of a single panel, on a phone and on a desk
SIDES: list[tuple[float, float]] = [(0, -1), (1, 0), (-1, 0), (0, 1)]  # of a point, nearest first
SIDES += [(-0.7, -1), (0.7, -1), (-0.7, 1), (0.7, 1)]
SIDES += [(1, -1), (-1, -1), (0, -2.1), (0, 2.1), (-0.7, -2.1), (0, -3.2), (0, 3.2)]


def warmth(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    classes: Sequence[str],
    description: str,
) -> alt.ConcatChart:
    """One slider, the temperature: the mean soft label of the images of each class.

    A soft label is the softmax of an image's logits over the temperature, here 1 to 16. At the left
    what it gives the own class, the likeliest other one and each of the others, means over classes.
    It starts at 2, the temperature of :class:`ccnotes.objectives.Objective`.
    ``description`` is the text for those who do not see the chart.

    >>> chart = warmth(torch.eye(3), torch.arange(3), ["cat", "dog", "car"], "Labels get softer.")
    >>> chart.description
    'Labels get softer.'
    """
    temperatures = [*range(1, 17)]
    soft = [class_means((logits / t).softmax(1), labels, len(classes)) for t in temperatures]
    off = torch.stack(soft)[:, ~torch.eye(len(classes), dtype=torch.bool)]
    off = off.unflatten(1, (len(classes), -1)).sort(descending=True).values
    series = {
        "own class": [of.diag().mean().item() for of in soft],
        "likeliest other class": off[..., 0].mean(1).tolist(),
        "each of the others": off[..., 1:].mean((1, 2)).tolist(),
    }
    rows = pd.DataFrame({"temperature": temperatures, **series}, index=temperatures)
    rows["soft"] = hundredths(torch.stack(soft))
    slider = alt.binding_range(min=1, max=temperatures[-1], step=1, name="Temperature ")
    warm = alt.param(name="warm", value=2, bind=slider)
    now = alt.datum.temperature == warm
    cursor = alt.Chart(rows).transform_filter(now).mark_rule(strokeWidth=2)
    curves = lines(rows, list(series), "temperature", y="mean probability")
    matrix = cells(rows, now, "soft", classes, len(classes), "mean probability").encode(
        x=alt.X("column:O", title="probability of").axis(labelExpr=name_at(classes, "datum.value")),
        y=alt.Y("row:N", sort=None, title="images of"),
        color=alt.Color("value:Q", title="mean probability")
        .scale(domain=[0, 1], scheme="blues")
        .legend(orient="bottom", direction="horizontal", gradientLength=190),
    )
    chart: alt.ConcatChart = (
        alt.concat(
            (curves + cursor.encode(x="temperature:Q")).properties(width=SIDE - 20, height=210),
            numbered(matrix, classes, ".2f", "datum.value > 0.5").properties(
                width=SIDE - 20, height=SIDE - 20
            ),
            columns=2,
        )
        .resolve_scale(color="independent", strokeDash="independent", x="independent")
        .add_params(warm, says(f"'Temperature ' + warm + ': ' + {at('warm', rows[[*series]])}"))
    )
    return chart.properties(description=description)


def paths(
    groups: dict[str, Sequence[Record]], x: str, y: str, titles: tuple[str, str], description: str
) -> alt.LayerChart:
    """One slider, the epoch: each group of records as a point on its way through ``x`` and ``y``.

    Both are columns of the records' tables, means over the records of a group; the line is the
    way so far. ``titles`` are those of the axes. The first group is blue, one that the reader
    chooses green; both have a name and a ring at the evaluation nearest to the best epoch, the
    median over the group. Of the others there are grey points, hardly a line, and names at the end.

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
            .assign(run=name, place=place, best=np.median([r.best["epoch"] for r in records]))
            for place, (name, records) in reversed(  # so that the first is drawn on top
                [*enumerate(zip(names, groups.values(), strict=True))]
            )
        ],
        ignore_index=True,
    )
    far = (rows.epoch - rows.best).abs()
    rows["best"] = rows.index.isin(far.groupby(rows.place).idxmin())
    epochs = sorted(rows.epoch.unique().tolist())
    epoch = alt.param(name="epoch", value=epochs[-1], bind=epoch_slider(epochs))
    others = range(min(1, len(names) - 1), len(names))
    lit = chosen("lit", f"Beside {names[0]} ", others[0], others, [names[i] for i in others])
    lights = "datum.place == 0 ? 'first' : datum.place == lit ? 'lit' : 'other'"
    scales = fixed(rows[x]), fixed(rows[y])
    ways = [
        at("epoch", way.set_index("epoch")[[x, y]].set_axis(titles, axis=1))
        for _, way in rows.sort_values("epoch").groupby("place")
    ]
    told = f"'Epoch ' + epoch + ': ' + {name_at(names, '0')} + ', ' + {ways[0]}"
    told += f" + (lit ? '; ' + {name_at(names, 'lit')} + ', ' + [{', '.join(ways)}][lit] : '')"
    rows = rows.groupby("epoch", group_keys=False)[[*rows]].apply(named, x, y, scales)
    base = alt.Chart(rows).transform_calculate(light=lights)
    encoded = {
        "x": alt.X(x, type="quantitative", title=titles[0], scale=scales[0]).axis(tickCount=8),
        "y": alt.Y(y, type="quantitative", title=titles[1], scale=scales[1]).axis(tickCount=6),
        "color": alt.Color("light:N", legend=None).scale(
            domain=["first", "lit", "other"], range=[BLUE, GREEN, GREY]
        ),
        "tooltip": ["run:N", "epoch:Q"],
    }
    way = base.transform_filter(alt.datum.epoch <= epoch).mark_line(strokeWidth=2)
    bright = (alt.datum.place == 0) | (alt.datum.place == lit)
    at_best = alt.datum.best & (alt.datum.epoch <= epoch) & bright
    point = base.transform_filter(alt.datum.epoch == epoch)
    seen = alt.condition(bright, alt.value(1), alt.value(0.15))
    chart: alt.LayerChart = (
        way.encode(**encoded, order="epoch:Q", detail="run:N", opacity=seen)
        + base.transform_filter(at_best).mark_point(size=200, strokeWidth=2).encode(**encoded)
        + point.mark_point(filled=True, size=110, opacity=1).encode(**encoded)
        + point.transform_filter(bright | (alt.datum.epoch == epochs[-1]))
        .mark_text(dx=alt.ExprRef("datum.dx"), dy=alt.ExprRef("datum.dy"), fontSize=12)
        .encode(**encoded, text="run:N")
        .properties(name="words")  # around which the page draws its ground, so that no line shows
    ).add_params(epoch, lit, says(told))
    return chart.properties(width=WIDE[1], height=HIGH, description=description)


def named(
    points: pd.DataFrame, x: str, y: str, scales: tuple[alt.Scale, alt.Scale]
) -> pd.DataFrame:
    """The points of one epoch with ``dx`` and ``dy``, at which a name hides no point or other name.

    From a point to its name's middle, in pixels, the same on a phone and on a desk. The first
    group's name is placed first; where no place is free a name stands right above its point.
    """
    across, up = (
        (points[column] - scale.domain[0]) / (scale.domain[1] - scale.domain[0])
        for column, scale in zip((x, y), scales, strict=True)
    )
    at = np.array([[across * width, (1 - up) * HIGH] for width in WIDE]).transpose(2, 0, 1)
    room = np.array([[width, HIGH] for width in WIDE])
    taken = [(point, np.array([7, 7])) for point in at]  # middles, and half of width and height
    offsets = np.zeros((len(points), 2), int)
    for i in np.argsort(points.place):
        half = np.array([3.4 * len(points.run.iloc[i]) + 2, 8])
        free = [
            step
            for step in np.array(SIDES) * (half + 8)
            if ((at[i] + step >= half - [40, 16]) & (at[i] + step <= room - half + [40, 0])).all()
            and not any((abs(at[i] + step - m) < half + h).all(1).any() for m, h in taken)
        ]
        offsets[i] = (free or [(0, -16)])[0]
        taken.append((at[i] + offsets[i], half))
    return points.assign(dx=offsets[:, 0], dy=offsets[:, 1])


def fixed(values: pd.Series) -> alt.Scale:
    """From the lowest to the highest at any epoch, so that the frame stands still.

    Beyond them, at both ends, there is a tenth of the range, for names.
    """
    low, high = float(values.min()), float(values.max())
    around = 0.1 * (high - low) or 0.1
    return alt.Scale(domain=[low - around, high + around], nice=False)


def scrubber(record: Record, description: str, *, strips: bool = True) -> alt.ConcatChart:
    """One slider: accuracy and CAS, the similarity matrix and single images' attributions.

    The matrix, at the right, is that of attacked test images. With ``strips``, at the left, below
    the curves, the attribution vector of the first test image of each class, attacked, scaled to
    length 1: a column is a feature. The best epoch is marked. The slider starts at the last
    evaluation up to it, and features are in the order of the class that they serve most there.
    Raises ValueError where ``strips`` are asked of a record without attribution vectors.

    >>> from ccnotes.records import runs
    >>> scrubber(runs("planted-at")[0], "Accuracy and similarity.").description
    'Accuracy and similarity.'
    """
    table, classes = record.table, list(record.content["dataset"]["classes"])
    start = max(0, int((table.epoch <= record.best["epoch"]).sum()) - 1)
    accuracies = {
        "test images": table.test_robust_accuracy,
        "training images": table.train_robust_accuracy,
    }
    rows = pd.DataFrame({"epoch": table.epoch, "CAS": table.test_robust_cas, **accuracies})
    rows["matrix"] = hundredths(record.arrays["test_robust_similarity"])
    rows["until"] = table.epoch.shift(-1, fill_value=table.epoch.max() + 1)  # stands until the next
    named = {"robust accuracy of test images": rows["test images"], "CAS of them": rows.CAS}
    named["robust accuracy of training images"] = rows["training images"]
    told = at("epoch", pd.DataFrame(named).set_index(rows.epoch))
    slider = epoch_slider(table.epoch.tolist())
    epoch = alt.param(name="epoch", value=int(table.epoch[start]), bind=slider)
    now = (alt.datum.epoch <= epoch) & (epoch < alt.datum.until)
    # At the slider's own place: between two evaluations, too, each step is seen.
    cursor = (
        alt.Chart(rows)
        .transform_filter(now)
        .transform_calculate(epoch="epoch")
        .mark_rule(strokeWidth=2)
        .encode(x="epoch:Q")
    )
    heat = cells(rows, now, "matrix", classes, len(classes), "cosine").encode(
        x=alt.X("column:O", title=None).axis(labelExpr=name_at(classes, "datum.value"))
    )
    # In grey, red and blue look alike.
    matrix = numbered(heat, classes, ".1f", "abs(datum.value) > 0.6", 0.1)
    best = record.best["epoch"]
    curves = lines(rows, [*accuracies], y="robust accuracy")
    curves.encoding.x = curves.encoding.x.axis(labels=False, ticks=False, title=None)
    likeness = (
        alt.Chart(rows)
        .mark_line(color=GREEN)
        .encode(
            x=alt.X("epoch:Q", title="epoch"),
            y=alt.Y("CAS:Q", title="CAS, test").scale(domainMin=0).axis(tickCount=3),
        )
    )
    shown = [curves + marked(best) + cursor, likeness + marked(best, named=False) + cursor]
    left = [chart.properties(width=SIDE, height=100 if strips else 150) for chart in shown]
    if strips:
        vectors = sorted_by_class(F.normalize(record.sample_attribution, dim=2), start)
        rows["samples"] = hundredths(vectors)
        strip = cells(rows, now, "samples", classes, vectors.shape[2], "share of the vector")
        title = "feature; red speaks for the class"
        strip = strip.encode(x=alt.X("column:O", title=title).axis(labels=False, ticks=False))
        strip.encoding.color = strip.encoding.color.legend(None)  # the matrix has it
        left.append(strip.properties(width=SIDE, height=max(140, 13 * len(classes))))
    chart: alt.ConcatChart = (
        alt.concat(
            alt.vconcat(*left, spacing=8).resolve_scale(
                color="independent", strokeDash="independent", x="independent"
            ),
            matrix.properties(width=SIDE, height=SIDE),
            columns=2,
        )
        .resolve_scale(color="independent", strokeDash="independent", x="independent")
        .add_params(epoch, says(f"'Epoch ' + epoch + ': ' + {told}"))
    )
    return chart.properties(description=description)


def marked(best: float, *, named: bool = True) -> alt.LayerChart:
    """A dashed line at the best epoch, with its name."""
    base = alt.Chart(pd.DataFrame({"epoch": [int(best)]})).encode(x="epoch:Q")
    name = base.mark_text(align="left", dx=4, baseline="top", fontSize=12)
    told = name.encode(y=alt.value(3), text=alt.value("best epoch" if named else ""))
    chart: alt.LayerChart = base.mark_rule(strokeDash=[3, 3]) + told
    return chart


def numbered(
    matrix: alt.Chart, classes: Sequence[str], form: str, dark: str, least: float = 0
) -> alt.Chart | alt.LayerChart:
    """A matrix of classes with its numbers where they fit in, white on ``dark`` cells.

    None whose size is below ``least``, which would be rounded to something else.
    """
    if len(classes) > 10:
        return matrix
    told = matrix.transform_filter(f"abs(datum.value) >= {least}")
    chart: alt.LayerChart = matrix + told.mark_text(fontSize=12).encode(
        text=alt.Text("value:Q", format=form),
        color=alt.condition(dark, alt.value("white"), alt.value("black")),
    )
    return chart


def surface(told: dict[str, Any], description: str) -> alt.ConcatChart:
    """One slider, the epoch: the loss around images, along their perturbation and across it.

    ``told`` is what :func:`ccnotes.collapse.surfaces` gives. First, the loss along the perturbation
    alone, with a line where FGSM stops.

    >>> told = {"along": [0, 1], "across": [0], "loss": [[[0.5, 2.0]], [[0.5, 1.0]]]}
    >>> surface(told, "Loss around images.").description
    'Loss around images.'
    """
    along, across, loss = (told[name] for name in ("along", "across", "loss"))
    rows = pd.DataFrame({"epoch": range(len(loss)), "loss": hundredths(torch.tensor(loss))})
    middle = np.array(loss)[:, np.abs(across).argmin()]
    ends = {
        f"mean loss {where}": middle[:, np.abs(np.array(along) - place).argmin()]
        for where, place in (("without the perturbation", 0), ("where FGSM stops", 1))
    }
    said = says(f"'Epoch ' + epoch + ': ' + {at('epoch', pd.DataFrame(ends))}")
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
    field = around.mark_rect().encode(
        x=alt.X("along:O", title="along the perturbation").axis(labelAngle=0, labelOverlap=True),
        y=alt.Y("across:O", sort="descending", title="across it"),
        color=alt.Color("value:Q", title=shown)
        .scale(domain=limits, scheme="viridis")
        .legend(orient="bottom", direction="horizontal", gradientLength=190),
        tooltip=["along:Q", "across:Q", alt.Tooltip("value:Q", title=shown, format=".2f")],
    )
    both: alt.ConcatChart = (
        alt.concat(
            (line + stop).properties(width=SIDE, height=230),
            field.properties(width=SIDE, height=230),
            columns=2,
        )
        .resolve_scale(x="independent", y="independent", color="independent")
        .add_params(epoch, said)
    )
    return both.properties(description=description)


def sorted_by_class(
    vectors: Float[Tensor, "epochs classes features"], at: int
) -> Float[Tensor, "epochs classes features"]:
    """Features in the order of the class that each serves most at one epoch, strongest first."""
    strongest = vectors[at].max(0)
    return vectors[:, :, np.lexsort((-strongest.values.numpy(), strongest.indices.numpy()))]


def lines(rows: pd.DataFrame, names: list[str], x: str = "epoch", *, y: str) -> alt.Chart:
    """Up to three columns, from 0 to 1, against another, apart by colour and by dash."""
    hue = alt.Scale(domain=names, range=[ORANGE, BLUE, GREEN])
    dash = alt.Scale(domain=names, range=[[5, 2], [1, 0], [2, 2]])
    chart: alt.Chart = (
        alt.Chart(rows)
        .transform_fold([*names], as_=["curve", "value"])
        .mark_line()
        .encode(
            x=alt.X(x, type="quantitative", title=x),
            y=alt.Y("value:Q", title=y).scale(domain=[0, 1]),
            color=alt.Color("curve:N", title=None, scale=hue).legend(
                orient="top", columns=2 if len(names) == 2 else 1
            ),
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


def says(sentence: str) -> alt.Parameter:
    """What the page says of the state, once the controls rest: a Vega expression of a sentence."""
    return alt.param(name="says", expr=f"{sentence} + '.'")


def at(param: str, values: pd.DataFrame) -> str:
    """The Vega expression for the values of the last row whose label ``param`` has reached.

    >>> at("epoch", pd.DataFrame({"CAS": [0.5, 0.25]}, index=[10, 20]))
    '["CAS 0.50", "CAS 0.25"][0 + (epoch >= 20)]'
    """
    told = [
        ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        for row in values.to_dict("records")
    ]
    reached = " + ".join(["0", *(f"({param} >= {label})" for label in values.index[1:])])
    return f"{json.dumps(told)}[{reached}]"


def epoch_slider(epochs: list[int]) -> alt.BindRange:
    """From the first of the epochs, in order, to the last, stopping at each."""
    step = math.gcd(*np.diff(epochs).tolist()) or 1
    return alt.binding_range(min=epochs[0], max=epochs[-1], step=step, name="Epoch ")


def hundredths(values: Float[Tensor, "epochs rows columns"]) -> list[list[int]]:
    return (100 * values).round().int().flatten(1).tolist()


def chosen(name: str, title: str, value: int, options: Any, labels: Sequence[str]) -> Any:
    """A parameter that the reader chooses from a list."""
    bind = alt.binding_select(options=list(options), labels=list(labels), name=title)
    return alt.param(name=name, value=value, bind=bind)
