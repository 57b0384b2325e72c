"""Photographs of a free licence, small enough to ship, and what the networks of full size see.

CIFAR-10's own images have no clear licence. These are a handful, chosen before any network saw
them; they illustrate and prove nothing. Of the class frog there is none.
"""

import json
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ccnotes.attacks import pgd
from ccnotes.cards import MINUS
from ccnotes.data import to_float
from ccnotes.page import PHONE, on_phones
from ccnotes.plots import BLUE, ORANGE
from ccnotes.records import PUBLISHED, Record, load_model
from ccnotes.records.afterwards import looked_at
from ccnotes.records.origin import provenance
from ccnotes.tables import literal
from ccnotes.verdicts import written

PICTURES = Path(__file__).parent / "pictures"
SEEN = PUBLISHED / "photographs.json"
SIZE = 32  # pixels that the networks see
PAIR = ("automobile", "truck")  # classes whose shared feature is looked at
COSINE = "cosine similarity"
BOTH: tuple[Literal["best", "last"], ...] = ("best", "last")
Picture = UInt8[np.ndarray, "height width 3"]


class Credit(NamedTuple):
    """Whose photograph it is, and what was done to it."""

    file: str
    label: str  # its class
    title: str
    author: str
    licence: str
    licence_url: str
    page: str  # where author and licence stand
    source: str  # the package or repository that it was taken from
    changed: str


@cache
def credits() -> tuple[Credit, ...]:
    """Of each photograph, in the order of the classes.

    >>> credits()[0].label, credits()[0].licence
    ('airplane', 'CC BY-SA 4.0')
    """
    return tuple(Credit(**row) for row in json.loads((PICTURES / "credits.json").read_text()))


def credits_list(files: Collection[str] = ()) -> str:
    """The credits as a folded list in Markdown, with links to pages and licences; or of some files.

    >>> "[CC0](https://creativecommons.org/publicdomain/zero/1.0/)" in credits_list()
    True
    """
    lines = []
    for c in [c for c in credits() if not files or c.file in files]:
        page = c.page.replace("(", "%28").replace(")", "%29")
        title, author, source = map(literal, (c.title, c.author, c.source))
        licence = f"[{c.licence}]({c.licence_url})"
        lines.append(f"- {c.label}: [{title}]({page}) by {author}, {licence}. From {source}; ")
        lines[-1] += f"{c.changed}."
    summary = "<summary>The photographs: authors and licences</summary>"
    return "\n".join([f"<details>{summary}\n", *lines, "\n</details>"])


def picture(file: str, size: int = 160) -> Picture:
    """A photograph with ``size`` pixels each way, 160 as stored; made smaller with antialiasing.

    >>> picture("cat-1.jpg", 32).shape
    (32, 32, 3)
    """
    with Image.open(PICTURES / file) as stored:
        return np.asarray(stored.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def pixels() -> UInt8[Tensor, "photographs 3 32 32"]:
    """All photographs as a network sees them.

    >>> pixels().shape[1:]
    torch.Size([3, 32, 32])
    """
    small = np.stack([picture(c.file, SIZE) for c in credits()])
    return torch.from_numpy(small).permute(0, 3, 1, 2).contiguous()


def labels(classes: Sequence[str]) -> Int[Tensor, " photographs"]:
    """The class of each photograph, as a place in ``classes``.

    >>> labels(["truck", "airplane", *sorted({c.label for c in credits()})])[0]
    tensor(1)
    """
    return torch.tensor([list(classes).index(c.label) for c in credits()])


def shared_feature(record: Record, pair: Sequence[str] = PAIR) -> int:
    r"""The feature that most speaks for both classes in the best network of a run, attacked.

    .. math:: \arg\max_k \min(A_{ik}, A_{jk})

    >>> from ccnotes.records import published
    >>> shared_feature(published("cifar10-full-")["at"])
    62
    """
    i, j = (record.content["dataset"]["classes"].index(name) for name in pair)
    found = record.arrays["best_robust_class_means"] * record.arrays["best_head.weight"]
    return int(torch.minimum(found[i], found[j]).argmax())


def seen(record: Record, folder: Path | str, *, seed: int = 0) -> dict[str, Any]:
    """What the best and the last network make of the photographs: for ``published``, in a minute.

    ``folder`` has their weights, as the repository's ``checkpoints`` does. Of each network and
    photograph: ``clean`` and ``attacked`` probabilities of the classes, ``map``, Grad-CAM for the
    photograph's class, and ``shared``, the value of :func:`shared_feature`. The attack is that of
    the run's evaluation. In float32, on the CPU.
    """
    e, name = record.configuration, record.experiment["name"]
    x, y = to_float(pixels()), labels(record.content["dataset"]["classes"])
    feature, found = shared_feature(record), {}
    for which in BOTH:
        network = load_model(Path(folder) / f"{name}-{which}.safetensors")
        generator = torch.Generator().manual_seed(seed)
        adv = pgd(network, x, y, e.eval_attack, generator=generator)
        with torch.no_grad():
            features = network.features(x)
            tables = {
                "clean": network.head(features).softmax(1),
                "attacked": network(adv).softmax(1),
                "map": looked_at(network, x, y),
                "shared": features[:, feature],
            }
        found[which] = {key: rounded(table) for key, table in tables.items()}
    made = provenance(torch.device("cpu"), "float32")
    kept = ("commit", "date", "hardware", "precision", "threads", "torch")
    return {
        "run": record.title,
        "photographs": [c.file for c in credits()],
        "attack": {"eps": e.eval_attack.eps, "steps": e.eval_attack.steps, "seed": seed},
        "feature": feature,
        "networks": found,
        "made": {key: made[key] for key in kept},
    }


def rounded(table: Tensor) -> Any:
    return [rounded(row) for row in table] if table.ndim else round(table.item(), 4)


@cache
def published_seen() -> dict[str, Any]:
    """What is published of :func:`seen`."""
    found: dict[str, Any] = json.loads(SEEN.read_text())
    return found


def named(which: str, kind: str, classes: Sequence[str]) -> list[tuple[str, float]]:
    """The class that a network names for each photograph, and its probability.

    >>> from ccnotes.records import published
    >>> names = published("cifar10-full-")["at"].content["dataset"]["classes"]
    >>> named("best", "clean", names)[0][0]
    'airplane'
    """
    table = published_seen()["networks"][which][kind]
    return [(classes[int(np.argmax(row))], max(row)) for row in table]


def right(which: str, kind: str, classes: Sequence[str]) -> int:
    """How many photographs a network names as they are, ``clean`` or ``attacked``.

    >>> from ccnotes.records import published
    >>> names = published("cifar10-full-")["at"].content["dataset"]["classes"]
    >>> right("best", "clean", names) > right("best", "attacked", names)
    True
    """
    told = zip(named(which, kind, classes), credits(), strict=True)
    return sum(name == credit.label for (name, _), credit in told)


def matrices(record: Record) -> Figure:
    """Similarity of the classes of attacked test images, beside a photograph of each class.

    Above the diagonal that of the best network, below it that of the last.

    >>> from ccnotes.records import published
    >>> figure = matrices(published("cifar10-full-")["at"])
    >>> figure.axes[0].get_title()
    'above the diagonal: best epoch; below it: last epoch'
    """
    classes = record.content["dataset"]["classes"]
    best, last = (record.arrays[f"{which}_robust_similarity"] for which in BOTH)
    both = (best.triu(1) + last.tril(-1)).fill_diagonal_(float("nan")).numpy()
    figure = plt.figure(figsize=(8, 7.4), layout="constrained")
    mesh = halves(figure.subplots(), both, classes, pad=44)
    figure.axes[0].set_title("above the diagonal: best epoch; below it: last epoch", fontsize=11)
    figure.colorbar(mesh, ax=figure.axes, label=COSINE, shrink=0.5, aspect=25)
    for (row, column), value in np.ndenumerate(both):
        if row != column:
            colour = "white" if abs(value) > 0.42 else "black"
            at = (column + 0.5, row + 0.5)
            shown = written(float(value), ".2f").replace("-", MINUS)
            figure.axes[0].text(*at, shown, ha="center", va="center", color=colour, fontsize=11)
    small = Figure(figsize=(PHONE, 5.4), layout="constrained")  # cells too small for numbers
    mesh = halves(small.subplots(), both, classes, pad=26)
    small.axes[0].set_title("above the diagonal: best epoch\nbelow it: last epoch", fontsize=11)
    small.colorbar(mesh, ax=small.axes, label=COSINE, location="bottom", aspect=25)
    return on_phones(figure, small)


def halves(
    ax: Axes, both: Float[np.ndarray, "classes classes"], classes: Sequence[str], *, pad: float
) -> QuadMesh:
    """A matrix, and beside it a photograph and, ``pad`` points off, the name of each class."""
    mesh = ax.pcolormesh(both, cmap="RdBu_r", vmin=-0.7, vmax=0.7)
    places = [i + 0.5 for i in range(len(classes))]
    ax.set_xticks(places, classes, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, classes)
    ax.tick_params(length=0, pad=pad)
    ax.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
    first = {c.label: c.file for c in reversed(credits())}
    for place, name in zip(places, classes, strict=True):
        ends = {"across": (place, len(classes) + 0.55), "down": (-0.55, place)}
        for x, y in ends.values():
            tile(ax, first.get(name), x, y)
    return mesh


def tile(ax: Axes, file: str | None, x: float, y: float, side: float = 0.92) -> None:
    """A photograph around a point outside the axes; a dash where there is none."""
    if file is None:
        ax.text(x, y, "–", ha="center", va="center", color="0.5", clip_on=False)
        return
    edges = (x - side / 2, x + side / 2, y + side / 2, y - side / 2)
    limits = ax.get_xlim(), ax.get_ylim()
    drawn = ax.imshow(light(file), extent=edges, interpolation="none", aspect="auto")
    drawn.set_clip_on(False)
    ax.set(xlim=limits[0], ylim=limits[1], aspect="equal")


def lit(file: str, where: Float[np.ndarray, "rows columns"]) -> Picture:
    """A photograph as a network sees it, dark but where a map is bright (its square, to be plain).

    >>> bool((lit("cat-1.jpg", np.ones((4, 4))) == picture("cat-1.jpg", 32)).all())
    True
    """
    share = Image.fromarray((where / max(where.max(), 1e-12)).astype(np.float32))
    wide = np.asarray(share.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    dimmed = picture(file, SIZE) * (0.08 + 0.92 * wide[..., None] ** 2)
    return dimmed.round().astype(np.uint8)


def light(file: str, size: int = 40) -> Picture:
    """A photograph of 64 colours, so that the figures stay light.

    >>> light("cat-1.jpg").shape
    (40, 40, 3)
    """
    few = Image.fromarray(picture(file, size)).quantize(64, dither=Image.Dither.NONE)
    return np.asarray(few.convert("RGB"))


def looks(classes: Sequence[str]) -> Figure:
    """Where both networks find the class of a photograph, what they name, and one shared feature.

    At the top all photographs in the order of the shared feature's value in the best network. Then
    of each class the first one, as the networks see it, lit by Grad-CAM. Below it what the network
    names, with its probability: clean, then attacked; a cross where it is wrong.

    >>> from ccnotes.records import published
    >>> len(looks(published("cifar10-full-")["at"].content["dataset"]["classes"]).axes)
    20
    """
    them = [c.label for c in credits()]
    firsts = [them.index(label) for label in labelled()]
    rows = -(-len(firsts) // 3)
    figure = plt.figure(figsize=(8.4, 8.2), layout="constrained")
    small = Figure(figsize=(PHONE, 14.6), layout="constrained")  # the last below the best
    for drawn, columns, ratio in ((figure, 6, 3.2), (small, 3, 7.6)):
        bars, maps = drawn.subfigures(2, 1, height_ratios=(1, ratio), squeeze=False)[:, 0]
        strip(bars, 14 * columns)
        axes = maps.subplots(6 * rows // columns, columns)
        if columns == 3:
            axes = axes.reshape(rows, 2, 3).swapaxes(1, 2)
        for i, pair in zip(firsts, axes.reshape(-1, 2), strict=True):
            for which, ax in zip(BOTH, pair, strict=True):
                look(ax, i, which, classes)
    return on_phones(figure, small)


def look(ax: Axes, i: int, which: Literal["best", "last"], classes: Sequence[str]) -> None:
    """The photograph of that number as one network sees it, and what the network names."""
    shown, where = credits()[i], np.array(published_seen()["networks"][which]["map"][i])
    ax.imshow(lit(shown.file, where), interpolation="none")
    ax.set_title(f"{shown.label}, {which}", fontsize=10)
    lines = []
    for kind, arrow in (("clean", ""), ("attacked", "→ ")):
        name, share = named(which, kind, classes)[i]
        mark = "" if name == shown.label else " ✗"
        lines.append(f"{arrow}{name} {share:.0%}{mark}")
    ax.set_xlabel("\n".join(lines), fontsize=10)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)


def labelled() -> list[str]:
    """The classes that have a photograph, in order.

    >>> "frog" in labelled()
    False
    """
    return list(dict.fromkeys(c.label for c in credits()))


def strip(figure: Any, letters: int) -> None:
    """All photographs in the order of the shared feature in the best network, with bars.

    A line of the title has at most so many letters.
    """
    found, them = published_seen(), credits()
    values = {which: np.array(found["networks"][which]["shared"]) for which in BOTH}
    order = np.argsort(-values["best"], kind="stable")
    bars, row = figure.subplots(2, 1, height_ratios=(2, 1), sharex=True)
    places = np.arange(len(order))
    for shift, which, colour in zip((-0.2, 0.2), BOTH, (BLUE, ORANGE), strict=True):
        bars.bar(places + shift, values[which][order], 0.38, color=colour, label=f"{which} epoch")
    bars.legend(fontsize=10)
    bars.set_ylabel("value", fontsize=10)
    title = f"feature {found['feature']}, the one that {' and '.join(PAIR)} share most"
    bars.set_title(fill(title, letters), fontsize=10)
    bars.tick_params(labelbottom=False, bottom=False)
    for place, i in zip(places, order, strict=True):
        edges = (place - 0.46, place + 0.46, 0.92, 0)
        row.imshow(light(them[i].file), extent=edges, interpolation="none", aspect="auto")
    row.set(xlim=(-0.6, len(order) - 0.4), ylim=(0.92, 0), aspect="equal")
    row.set_axis_off()
