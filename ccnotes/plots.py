"""Arrays and records in, figures out; no figure computes what it shows."""

import math
import os
from collections.abc import Sequence
from typing import Any

import altair as alt
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ccnotes import _altair
from ccnotes.attribution import class_means
from ccnotes.records import Record
from ccnotes.verdicts import interval

BLUE, ORANGE, GREEN, PURPLE = PALETTE = ["#2a7fc4", "#d9651b", "#4b9b69", "#7b5ea7"]
DASHES: list[tuple[float, ...] | str] = ["", (5, 2), (1, 1), (5, 1, 1, 1)]
SIMILARITY = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}

if os.environ.get("CCNOTES_BOOK"):  # pages: charts without a kernel, figures sharp at any size
    from matplotlib_inline.config import InlineBackend

    _altair.enable()
    InlineBackend.instance().figure_formats = {"svg"}
sns.set_theme(style="ticks", palette=PALETTE, rc={"axes.grid": True, "grid.alpha": 0.3})
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
plt.rcParams |= {"legend.edgecolor": "none", "legend.framealpha": 0.8}


def image_grid(
    images: Num[Tensor, "images channels height width"],
    titles: Sequence[str],
    *,
    columns: int = 6,
    size: float = 1.3,
) -> Figure:
    """Pictures side by side: uint8, or floats in [0, 1]; ``size`` is inches a picture."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * (size + 0.25)), squeeze=False
    )
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, title in zip(axes.flat, pixels, titles, strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.4)
    return figure


def similarity_matrix(
    similarity: Float[Tensor, "classes classes"],
    classes: Sequence[str],
    *,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """The matrix of cosines as a heat map with its numbers, blue -1 to red 1."""
    ax = ax or plt.subplots(figsize=(4.6, 3.9), layout="constrained")[1]
    frame = pd.DataFrame(similarity.cpu().numpy(), list(classes), list(classes))
    numbers = {"annot": True, "fmt": ".2f", "annot_kws": {"size": 7}}
    bar = {"label": "cosine similarity"}
    sns.heatmap(frame, ax=ax, square=True, **SIMILARITY, **numbers, cbar_kws=bar)
    ax.tick_params(axis="x", labelrotation=90)
    ax.tick_params(axis="y", labelrotation=0)
    ax.set_title(title)
    return ax


def curves(
    records: Sequence[Record], columns: dict[str, str], *, ax: Axes, ylabel: str, drops: bool = True
) -> Axes:
    """Columns of the records' tables against epoch: mean over seeds and its 95 % band.

    ``columns`` maps a column to its name in the legend. Dotted lines mark the drops of the
    learning rate. The band is Student's interval for the mean over seeds.
    """
    tables = [record.table.assign(seed=record.experiment["seed"]) for record in records]
    long = pd.concat(tables).melt(["epoch", "seed"], list(columns), "curve", ylabel)
    long["curve"] = long["curve"].map(columns)
    names = list(columns.values())
    dashes = dict(zip(names, DASHES, strict=False))
    keys = {"x": "epoch", "y": ylabel, "hue": "curve", "style": "curve"}
    band = interval if len(records) > 1 else None
    sns.lineplot(long, **keys, hue_order=names, dashes=dashes, errorbar=band, ax=ax)
    ax.legend(title=None, fontsize="small")
    e = records[0].experiment
    for drop in e["lr_drops"] if drops else ():
        ax.axvline(round(drop * e["epochs"]), color="0.5", linestyle=":", linewidth=1)
    return ax


def best_and_last(frame: pd.DataFrame, value: str, *, ax: Axes) -> Axes:
    """One line a seed from its best to its last epoch, and their mean in bold.

    ``frame`` has the columns ``seed``, ``checkpoint`` (best or last) and ``value``.
    """
    ends = frame.pivot(index="seed", columns="checkpoint", values=value)[["best", "last"]]
    for _, row in ends.iterrows():
        ax.plot(["best", "last"], row, color="0.6", marker="o", linewidth=1)
    ax.plot(["best", "last"], ends.mean(), color=ORANGE, marker="D", linewidth=3, label="mean")
    ax.set(ylabel=value, xlim=(-0.3, 1.3))
    ax.legend()
    return ax


def with_intervals(frame: pd.DataFrame, x: str, y: str, *, ax: Axes, **look: Any) -> Axes:
    """Mean of ``y`` at each ``x`` over the rows (seeds), its 95 % interval as a bar."""
    band = interval if frame[x].duplicated().any() else None
    bars = {"errorbar": band, "err_style": "bars", "marker": "o"}
    return sns.lineplot(frame, x=x, y=y, ax=ax, **bars | look)


def forest(
    frame: pd.DataFrame, value: str, names: dict[str, str], *, ax: Axes, xlabel: str
) -> Axes:
    """A row an experiment: mean of ``value`` over seeds and its 95 % interval, around a line at 0.

    ``names`` maps experiments, in order, to what the axis calls them. Raises ValueError for
    several rows of one seed, such as of best and last.
    """
    rows = frame[frame.experiment.isin(names)]
    if rows.duplicated(["experiment", "seed"]).any():
        raise ValueError("a seed has several rows of an experiment: choose one checkpoint first.")
    look = {"linestyle": "none", "color": BLUE, "markersize": 5, "err_kws": {"linewidth": 1.5}}
    sns.pointplot(
        rows.assign(name=rows.experiment.map(names)),
        x=value,
        y="name",
        order=list(names.values()),
        errorbar=interval,
        ax=ax,
        **look,
    )
    ax.axvline(0, color="0.5", linewidth=1)
    ax.set(xlabel=xlabel, ylabel="")
    return ax


def warmth(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    classes: Sequence[str],
    description: str,
) -> alt.VConcatChart:
    """One slider, the temperature: the mean soft label of the images of each class."""
    temperatures = [1, 1.5, 2, 3, 4, 6, 8, 12, 16]
    soft = [class_means((logits / t).softmax(1), labels, len(classes)) for t in temperatures]
    rows = pd.DataFrame({"step": range(len(soft)), "temperature": temperatures})
    rows["label"] = [f"temperature {t:g}" for t in temperatures]
    rows["soft"] = hundredths(torch.stack(soft))
    slider = alt.binding_range(min=0, max=len(soft) - 1, step=1, name="Warmer ")
    step = alt.param(name="step", value=2, bind=slider)
    now = alt.datum.step == step
    heat = cells(rows, now, "soft", list(classes), len(classes), "mean probability").encode(
        x=alt.X("column:O", title="probability of").axis(labelExpr=f"{list(classes)}[datum.value]"),
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
    way so far.
    """
    rows = pd.concat(
        [
            pd.concat([r.table[["epoch", x, y]] for r in records])
            .groupby("epoch", as_index=False)
            .mean()
            .assign(run=name)
            for name, records in groups.items()
        ]
    )
    epochs = sorted(rows.epoch.unique().tolist())
    epoch = alt.param(name="epoch", value=epochs[-1], bind=epoch_slider(epochs))
    names = list(groups)
    key = alt.Legend(orient="top", columns=3, title=None)  # one for colours, dashes and shapes
    encoded = {
        "x": alt.X(x, type="quantitative", title=titles[0]).scale(zero=False, nice=True),
        "y": alt.Y(y, type="quantitative", title=titles[1]).scale(zero=False, nice=True),
        "color": alt.Color("run:N", sort=names, legend=key).scale(
            domain=names, range=(PALETTE * 3)[: len(names)]
        ),
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
                domain=names, range=[([1, 0], [5, 2], [2, 2])[i // 4] for i in range(len(names))]
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
    return (
        (way + point).add_params(epoch).properties(width=330, height=300, description=description)
    )


def scrubber(record: Record, description: str) -> alt.VConcatChart:
    """One slider: accuracy and CAS, the similarity matrix and single images' attributions.

    The matrix is that of attacked test images. Below it, the attribution vector of the first
    test image of each class, attacked, scaled to length 1: a column is a feature. The slider
    starts at the last evaluation up to the best epoch, and the features are in the order of the
    class that they serve most there.
    """
    table, classes = record.table, list(record.content["dataset"]["classes"])
    top = len(classes) * (len(classes) - 1)
    series = {
        "robust accuracy, training": table.train_robust_accuracy,
        "robust accuracy, test": table.test_robust_accuracy,
        f"CAS / {top}": table.test_robust_cas / top,
    }
    unit = F.normalize(record.sample_attribution, dim=2)
    start = max(0, int((table.epoch <= record.best["epoch"]).sum()) - 1)
    strongest = unit[start].max(0)
    unit = unit[:, :, np.lexsort((-strongest.values.numpy(), strongest.indices.numpy()))]
    rows = pd.DataFrame({"epoch": table.epoch, **series})
    rows["matrix"] = hundredths(record.arrays["test_robust_similarity"])
    rows["samples"] = hundredths(unit)
    rows["until"] = table.epoch.shift(-1, fill_value=table.epoch.max() + 1)  # stands until the next
    slider = epoch_slider(table.epoch.tolist())
    epoch = alt.param(name="epoch", value=int(table.epoch[start]), bind=slider)
    now = (alt.datum.epoch <= epoch) & (epoch < alt.datum.until)
    names = list(series)
    hue = alt.Scale(domain=names, range=[ORANGE, BLUE, GREEN])
    dash = alt.Scale(domain=names, range=[[5, 2], [1, 0], [2, 2]])
    lines = (
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
    cursor = alt.Chart(rows).transform_filter(now).mark_rule(strokeWidth=2).encode(x="epoch:Q")
    heat = cells(rows, now, "matrix", classes, len(classes), "cosine").encode(
        x=alt.X("column:O", title=None).axis(labelExpr=f"{classes}[datum.value]")
    )
    side = max(190, 26 * len(classes))  # a number fits into its cell
    # In grey, red and blue look alike.
    dark = "abs(datum.value) > 0.6"
    numbers = heat.mark_text(fontSize=8).encode(
        text=alt.Text("value:Q", format=".1f"),
        color=alt.when(dark).then(alt.value("white")).otherwise(alt.value("black")),
    )
    strips = cells(rows, now, "samples", classes, unit.shape[2], "share of the vector").encode(
        x=alt.X("column:O", title="feature").axis(labels=False, ticks=False),
    )
    return (
        alt.vconcat(
            (lines + cursor).properties(width=270, height=170),
            (heat + numbers).properties(width=side, height=side),
            strips.properties(width=270, height=15 * len(classes)),
        )
        .resolve_scale(color="independent", strokeDash="independent", x="independent")
        .add_params(epoch)
        .properties(description=description)
    )


def epoch_slider(epochs: list[int]) -> alt.BindRange:
    """From the first of the epochs, in order, to the last, stopping at each."""
    step = math.gcd(*np.diff(epochs).tolist()) or 1
    return alt.binding_range(min=epochs[0], max=epochs[-1], step=step, name="Epoch ")


def hundredths(values: Float[Tensor, "epochs rows columns"]) -> list[list[int]]:
    return (100 * values).round().int().flatten(1).tolist()


def cells(
    rows: pd.DataFrame, now: Any, field: str, classes: list[str], columns: int, title: str
) -> alt.Chart:
    """The current row's ``field`` as a heat map, a row a class."""
    reach = 1 if columns == len(classes) else 0.5
    return (
        alt.Chart(rows)
        .transform_filter(now)
        .transform_calculate(cell=f"sequence({len(classes) * columns})")
        .transform_flatten([field, "cell"])
        .transform_calculate(
            value=f"datum.{field} / 100",
            row=f"{classes}[floor(datum.cell / {columns})]",
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
