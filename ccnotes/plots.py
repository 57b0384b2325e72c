"""Arrays and records in, matplotlib figures out; no figure computes what it shows.

Names of classes, pictures, curves and rows are shown letter by letter; only titles and labels of
axes may hold mathematics. Figures follow the look that matplotlib is set to; :func:`style` sets
the book's.
"""

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from ccnotes import page
from ccnotes.cards import MINUS
from ccnotes.data import Dataset
from ccnotes.moving import (  # one palette; the charts were here before they had a room
    BLUE as BLUE,
    GREEN as GREEN,
    ORANGE as ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    PALETTE as PALETTE,
    PURPLE as PURPLE,
    paths as paths,
    scrubber as scrubber,
    warmth as warmth,
)
from ccnotes.records import Record
from ccnotes.tables import visible
from ccnotes.types import Similarity
from ccnotes.verdicts import interval, written

DASHES: list[tuple[float, ...] | str] = ["", (5, 2), (1, 1), (5, 1, 1, 1)]
LOOK = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
}


def style() -> None:
    """Give all figures from now on the book's look; the first cell of a chapter calls it.

    Where the book is built ($CCNOTES_BOOK is set) figures also become vector pictures, sharp at
    any size, and the page draws those that move without a kernel.
    """
    sns.set_theme(style="ticks", palette=PALETTE, rc=LOOK)
    if os.environ.get("CCNOTES_BOOK"):
        from matplotlib_inline.config import InlineBackend

        InlineBackend.instance().figure_formats = {"svg"}
        page.enable()


def plain(name: str) -> str:
    """``name`` without matplotlib's reading of it: "$" begins no formula, "_" hides no label."""
    shown = visible(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def told_apart(names: dict[str, str]) -> dict[str, str]:
    """The names as :func:`plain` has them. Raises ValueError where two are the same."""
    shown = {key: plain(name) for key, name in names.items()}
    if len(set(shown.values())) < len(shown):
        raise ValueError(
            f"{', '.join(names)} are called {', '.join(shown.values())}: "
            f"each needs a name of its own, or they are drawn as one."
        )
    return shown


def image_grid(
    images: Num[Tensor, "images channels height width"],
    titles: Sequence[str],
    *,
    columns: int = 6,
    size: float = 1.3,
) -> Figure:
    """Pictures side by side, each below its title: uint8, or floats in [0, 1].

    ``size`` is the width of a picture in inches; long titles take several lines. Raises ValueError
    unless each has a title.

    >>> figure = image_grid(torch.rand(2, 3, 8, 8), ["clean", "attacked"], columns=2)
    >>> [ax.get_title() for ax in figure.axes]
    ['clean', 'attacked']
    """
    if len(titles) != len(images):
        raise ValueError(f"{len(images)} images have {len(titles)} titles: give each its own.")
    rows, width = -(-len(images) // columns), columns * size
    points = max(10, 1.15 * width)  # 12 pixels, where the page shows the figure as wide as its text
    wrap = textwrap.TextWrapper(int(115 * size / points), break_long_words=False)
    lines = [wrap.wrap(plain(title)) for title in titles]
    gap = points / 72  # of inches, below a picture, so that it touches no title of the next row
    height = rows * (size + 0.0195 * points * max(map(len, lines))) + (rows - 1) * gap
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255 if images.dtype == torch.uint8 else 1}
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, title in zip(axes.flat, pixels, lines, strict=False):
        axis.imshow(picture, interpolation="nearest", **grey)
        axis.set_title("\n".join(title), fontsize=points)
    figure.tight_layout(pad=0.4, h_pad=0.4 + 72 * gap / plt.rcParams["font.size"])
    return figure


def in_common(
    titles: Sequence[str],
    attributions: Sequence[Float[Tensor, "2 features"]],
    images: Sequence[Num[Tensor, "2 channels height width"]],
    *,
    top: int = 30,
) -> Figure:
    """Pairs of classes, a panel each: an image of either, their attributions, what both use lit.

    Bars above the line are of the first class, those below of the second, for the ``top`` features
    that speak most for one of them, from the first class's own to the second's; green is the
    smaller of the two, where both are above 0. Each panel has its own scale; one legend stands
    below all. On phones the panels stand in a column.

    >>> pair = torch.tensor([[2.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    >>> figure = in_common(["cat and dog"], [pair], [torch.rand(2, 3, 4, 4)])
    >>> [float(bar.get_height()) for bar in figure.subfigs[0].axes[1].containers[2]]
    [0.0, 1.0, 0.0]
    """
    count = len(titles)
    figure = plt.figure(figsize=(9.6, 3.4), layout="constrained")
    small = Figure(figsize=(page.PHONE, 2.5 * count + 0.4), layout="constrained")
    parts = {"first class alone": PALE_BLUE, "second class alone": PALE_ORANGE, "both": GREEN}
    key = [Patch(color=colour, label=name) for name, colour in parts.items()]
    for drawn, shape in ((figure, (1, count)), (small, (count, 1))):
        panels = drawn.subfigures(*shape, squeeze=False, wspace=0.04).flat
        for panel, title, pair, pictures in zip(panels, titles, attributions, images, strict=True):
            axes = panel.subplot_mosaic("ac;bc", width_ratios=(1, 2.6))
            for place, picture, colour in zip("ab", pictures, (BLUE, ORANGE), strict=True):
                axes[place].imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
                axes[place].spines[:].set(visible=True, color=colour, linewidth=2)
            mirrored(axes["c"], pair, top)
            panel.suptitle(title, fontsize=11)
            for ax in axes.values():
                ax.set(xticks=[], yticks=[])
            axes["c"].set_xlabel("features")
        drawn.legend(handles=key, loc="outside lower center", ncols=3, columnspacing=1)
    return page.on_phones(figure, small)


def mirrored(ax: Axes, pair: Float[Tensor, "2 features"], top: int) -> None:
    """The bars of one of :func:`in_common`'s panels."""
    used = pair[:, pair.amax(0).argsort(descending=True)[:top]]
    one, other = used[:, (used[1] - used[0]).argsort()].tolist()
    both = [max(0.0, min(values)) for values in zip(one, other, strict=True)]
    places, reach = range(len(both)), 1.05 * used.abs().max().item()
    for sign, values, colour in ((1, one, PALE_BLUE), (-1, other, PALE_ORANGE)):
        ax.bar(places, [sign * value for value in values], 0.85, color=colour)
    for sign in (1, -1):
        ax.bar(places, [sign * value for value in both], 0.85, color=GREEN)
    ax.axhline(0, color="0.5", linewidth=1)
    ax.set(ylim=(-reach, reach))
    ax.spines[:].set_visible(False)


def similarity_matrix(
    similarity: Similarity,
    classes: Sequence[str],
    *,
    ax: Axes | None = None,
    title: str = "",
    numbers: bool = True,
) -> Axes:
    """The matrix of cosines as a heat map with its numbers, blue -1 to red 1; returns its axes.

    More than twelve classes, whose cells are too small for them, are drawn without ``numbers``.

    >>> ax = similarity_matrix(torch.tensor([[1.0, 0.25], [0.25, 1.0]]), ["cat", "dog"])
    >>> [text.get_text() for text in ax.texts]
    ['1.00', '0.25', '0.25', '1.00']
    """
    side = max(3.9, 0.55 * len(classes))
    ax = ax or plt.subplots(figsize=(side + 0.7, side), layout="constrained")[1]
    names = [plain(name) for name in classes]
    look = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "square": True}
    shown = {
        "annot": numbers and len(classes) <= 12,
        "fmt": ".2f",
        "annot_kws": {"size": 9 if len(classes) > 8 else 10.5},
    }
    bar = {"label": "cosine similarity"}
    frame = pd.DataFrame(similarity.cpu().numpy(), names, names)
    sns.heatmap(frame, ax=ax, **look, **shown, cbar_kws=bar)
    ax.tick_params(axis="x", labelrotation=90)
    ax.tick_params(axis="y", labelrotation=0)
    ax.set_title(title)
    return ax


def curves(
    records: Sequence[Record], columns: dict[str, str], *, ax: Axes, ylabel: str, drops: bool = True
) -> Axes:
    """Columns of the records' tables against epoch: mean over seeds and its 95 % band.

    ``columns`` maps a column to its name in the legend. Dotted lines mark the drops of the
    learning rate, by name. The band is Student's interval for the mean over seeds. Returns ``ax``.
    Raises ValueError where two columns have one name.

    >>> from ccnotes.records import runs
    >>> records = runs("planted-at", seeds=range(2))
    >>> ax = curves(records, {"inside": "pairs"}, ax=plt.subplots()[1], ylabel="similarity")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['pairs']
    """
    tables = [record.table.assign(seed=record.experiment["seed"]) for record in records]
    long = pd.concat(tables).melt(["epoch", "seed"], list(columns), "curve", ylabel)
    shown = told_apart(columns)
    long["curve"] = long["curve"].map(shown)
    names = list(shown.values())
    dashes = dict(zip(names, DASHES, strict=False))
    keys = {"x": "epoch", "y": ylabel, "hue": "curve", "style": "curve"}
    band = interval if len(records) > 1 else None
    sns.lineplot(long, **keys, hue_order=names, dashes=dashes, errorbar=band, ax=ax)
    ax.legend(title=None)
    if epochs := records[0].configuration.drop_epochs if drops else ():
        for epoch in epochs:
            ax.axvline(epoch, color="0.5", linestyle=":", linewidth=1)
        above = ax.secondary_xaxis("top", functions=(np.positive, np.positive))  # can be pickled
        above.set_xticks(epochs, ("1st drop", "2nd drop")[: len(epochs)])
        above.tick_params(length=0, pad=1, labelcolor="0.4")
        above.spines[:].set_visible(False)
        if len(epochs) == 2:  # away from each other: they may be near
            first, second = above.get_xticklabels()
            first.set_horizontalalignment("right")
            second.set_horizontalalignment("left")
    return ax


def by_seed(frame: pd.DataFrame, columns: dict[str, str], names: dict[str, str]) -> Figure:
    """A panel a column, a line a seed, of runs of several experiments over epochs.

    ``frame`` has the columns ``experiment``, ``seed`` and ``epoch``; ``columns`` maps its others to
    the names of their axes, ``names`` experiments to what the legend calls them. Of up to five
    seeds each has a mark, the same in all panels.

    >>> frame = pd.DataFrame({"experiment": "a", "seed": [0, 1], "epoch": 1, "x": [0.1, 0.2]})
    >>> figure = by_seed(frame, {"x": "accuracy"}, {"a": "FGSM"})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['FGSM', 'seed 0', 'seed 1']
    """
    figure, axes = plt.subplots(
        1, len(columns), figsize=(9.6, 3.7), squeeze=False, layout="constrained"
    )
    lines: list[Any] = [(0, dashes) if dashes else "-" for dashes in DASHES]
    looks = dict(zip(names, zip(sns.color_palette(), lines, strict=False), strict=False))
    seeds = sorted(frame.seed.unique())
    marks = dict(zip(seeds, "os^Dv", strict=False)) if 1 < len(seeds) <= 5 else {}
    for ax, (column, name) in zip(axes[0], columns.items(), strict=True):
        for (experiment, seed), run in frame.groupby(["experiment", "seed"]):
            color, line = looks[str(experiment)]
            look = {"color": color, "linestyle": line, "marker": marks.get(seed), "markersize": 5}
            ax.plot(run.epoch, run[column], **look)
        ax.set(xlabel="epoch", ylabel=name, ylim=(0, None))
    handles = [Line2D([], [], color=color, linestyle=line) for color, line in looks.values()]
    handles += [Line2D([], [], color="0.4", ls="", marker=mark) for mark in marks.values()]
    labels = [*names.values(), *(f"seed {seed}" for seed in marks)]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def compared(
    frames: dict[str, pd.DataFrame],
    columns: dict[str, str],
    *,
    palette: Sequence[str] = PALETTE,
    drops: Sequence[int] = (),
) -> Figure:
    """A panel a column, a line a frame: means over seeds against epoch, with their 95 % bands.

    ``frames`` maps what the legend calls them to frames of a row per seed and ``epoch``;
    ``columns`` maps their other columns to the titles of panels. Dotted lines mark ``drops`` of
    the learning rate. Raises ValueError where two frames have one name.

    >>> frame = pd.DataFrame({"epoch": [1, 1, 2, 2], "loss": [0.2, 0.4, 0.5, 0.9]})
    >>> figure = compared({"plain AT": frame}, {"loss": "robust loss"})
    >>> figure.axes[0].lines[0].get_ydata().round(2).tolist()
    [0.3, 0.7]
    """
    names = told_apart({name: name for name in frames})
    long = pd.concat(frame.assign(name=names[name]) for name, frame in frames.items())
    figure, axes = plt.subplots(
        1, len(columns), figsize=(9.6, 3.8), squeeze=False, layout="constrained"
    )
    keys: dict[str, Any] = {"x": "epoch", "hue": "name", "style": "name", "errorbar": interval}
    keys |= {"palette": [*palette[: len(names)]], "dashes": DASHES[: len(names)]}
    for ax, (column, title) in zip(axes[0], columns.items(), strict=True):
        sns.lineplot(long, y=column, **keys, ax=ax)
        ax.set(title=title, ylabel="")
        for epoch in drops:
            ax.axvline(epoch, color="0.5", linestyle=":", linewidth=1)
        handles, said = ax.get_legend_handles_labels()
        ax.get_legend().remove()
    figure.legend(handles, said, loc="outside upper center", ncols=len(names))
    return figure


def with_intervals(frame: pd.DataFrame, x: str, y: str, *, ax: Axes, **look: Any) -> Axes:
    """Mean of ``y`` at each ``x`` over the rows (seeds), its 95 % interval as a bar.

    Where no ``x`` has two rows there is no interval. ``look`` goes to seaborn's ``lineplot``.
    Returns ``ax``.

    >>> frame = pd.DataFrame({"radius": [1, 1, 2, 2], "fall": [0.2, 0.4, 0.5, 0.9]})
    >>> ax = with_intervals(frame, "radius", "fall", ax=plt.subplots()[1])
    >>> ax.lines[0].get_ydata().round(2).tolist()
    [0.3, 0.7]
    """
    band = interval if frame[x].duplicated().any() else None
    bars = {"errorbar": band, "err_style": "bars", "marker": "o"}
    sns.lineplot(frame, x=x, y=y, ax=ax, **bars | look)
    return ax


def forest(
    frame: pd.DataFrame, value: str, names: dict[str, str], *, ax: Axes, xlabel: str
) -> Axes:
    """A row an experiment: mean of ``value`` over seeds and its 95 % interval, around a line at 0.

    ``names`` maps experiments, in order, to what the axis calls them. Returns ``ax``. Raises
    ValueError for several rows of one seed, such as of best and last, for an experiment without
    a row, and where two have one name.

    >>> frame = pd.DataFrame({"experiment": ["swa", "swa"], "seed": [0, 1], "gain": [0.1, 0.3]})
    >>> ax = forest(frame, "gain", {"swa": "SWA"}, ax=plt.subplots()[1], xlabel="gain")
    >>> ax.lines[0].get_xdata().tolist()
    [0.2]
    """
    rows, shown = frame[frame.experiment.isin(names)], told_apart(names)
    if missing := sorted(names.keys() - set(rows.experiment)):
        raise ValueError(f"there is no row of {', '.join(missing)}: add it, or leave the name out.")
    if rows.duplicated(["experiment", "seed"]).any():
        raise ValueError("a seed has several rows of an experiment: choose one checkpoint first.")
    look = {"linestyle": "none", "color": BLUE, "markersize": 5, "err_kws": {"linewidth": 1.5}}
    sns.pointplot(
        rows.assign(name=rows.experiment.map(shown)),
        x=value,
        y="name",
        order=list(shown.values()),
        errorbar=interval,
        ax=ax,
        **look,
    )
    ax.axvline(0, color="0.5", linewidth=1)
    ax.set(xlabel=xlabel, ylabel="")
    return ax


def best_to_last(
    best: pd.DataFrame,
    last: pd.DataFrame,
    columns: dict[str, tuple[str, str]],
    *,
    forced: dict[str, str] | None = None,
) -> Figure:
    """A panel a column, a row a kind of training: a line from its best epoch to its last.

    ``best`` and ``last`` have the kinds as their index, in order, and numbers in ``columns``, which
    maps a column to its title and to the format of its numbers, such as ``".0%"``. ``forced`` maps
    kinds to the column that they keep by force, whose place is shaded. Raises ValueError unless
    both have the same rows.

    >>> best, last = (pd.DataFrame({"cas": [value]}, ["plain AT"]) for value in (4.0, 2.2))
    >>> figure = best_to_last(best, last, {"cas": ("CAS", ".1f")})
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['4.0', '2.2']
    """
    if not best.index.equals(last.index):
        raise ValueError(
            f"the best epochs' rows {[*best.index]} and the last ones' {[*last.index]} are not the "
            f"same: give both of each kind."
        )
    count, rows = len(columns), range(len(best))
    figure = plt.figure(figsize=(9.6, 0.55 * len(best) + 1.2), layout="constrained")
    small = Figure(figsize=(page.PHONE, count * (0.36 * len(best) + 0.5)), layout="constrained")
    desk = figure.subplots(1, count, sharey=True, squeeze=False).flat, 7.6 / count
    phone = small.subplots(count, 1, squeeze=False).flat, 2.2
    for axes, width in (desk, phone):
        for ax, (column, (title, form)) in zip(axes, columns.items(), strict=True):
            values = np.stack([best[column], last[column]])
            room = 0.6 / (width - 1.2) * (np.ptp(values) or 1)  # for the numbers
            ax.set(title=title, xlim=(values.min() - room, values.max() + room), xticks=[])
            for place, ends in enumerate(values.T.tolist()):
                if (forced or {}).get(best.index[place]) == column:
                    ax.axhspan(place - 0.45, place + 0.45, color=GREEN, alpha=0.2, linewidth=0)
                ax.plot(ends, (place, place), color="0.5", linewidth=2, zorder=1)
                sides = ("left", "right") if ends[0] >= ends[1] else ("right", "left")
                for value, side, color, mark in zip(ends, sides, (BLUE, ORANGE), "oD", strict=True):
                    ax.scatter(value, place, s=64, color=color, marker=mark)
                    look: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
                    look |= {"xytext": (7 if side == "left" else -7, 0), "ha": side}
                    ax.annotate(written(value, form).replace("-", MINUS), (value, place), **look)
            ax.set_yticks(rows, [plain(kind) for kind in best.index])
            ax.set_ylim(len(best) - 0.4, -0.6)
            ax.tick_params(length=0, pad=8)
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
    marks = [Line2D([], [], color=c, marker=m, ls="") for c, m in ((BLUE, "o"), (ORANGE, "D"))]
    for drawn in (figure, small):
        drawn.legend(marks, ("best epoch", "last epoch"), loc="outside upper center", ncols=2)
    return page.on_phones(figure, small)


def contact_sheet(data: Dataset, count: int = 10, *, classes: int = 40) -> Figure:
    """The first images of each class, a row for each of at most so many classes; training above.

    Of ``count`` images of a class half are from the training images and half from those to test
    on, with a gap between them, so that a part that is dark, turned or mislabelled is seen.

    >>> from ccnotes.experiments import Experiment, dataset
    >>> figure = contact_sheet(dataset(Experiment(train_size=12)), count=4)
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()][:2]
    ['class 0', 'class 1']
    """
    half = max(1, count // 2)
    side, width = data.train.images.shape[2:]
    shown = range(min(len(data.classes), classes))
    sheet = torch.full((len(shown) * (side + 1), 2 * half * (width + 1) + width // 2, 3), 255)
    for label in shown:
        for part, left in ((data.train, 0), (data.test, half * (width + 1) + width // 2)):
            mine = part.images[part.labels == label][:half]
            for place, image in enumerate(mine):
                top, start = label * (side + 1), left + place * (width + 1)
                sheet[top : top + side, start : start + width] = image.permute(1, 2, 0)
    rows, columns = sheet.shape[:2]
    figure, axes = plt.subplots(figsize=(8, 8 * rows / columns + 0.4), layout="constrained")
    axes.imshow(sheet.byte().numpy(), interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    names = [visible(data.classes[label]) for label in shown]
    axes.set_yticks([label * (side + 1) + side / 2 for label in shown], names)
    axes.set_xticks([half * (width + 1) / 2, columns - half * (width + 1) / 2], ["train", "test"])
    axes.tick_params(length=0)
    return figure
