"""The first page's pictures, from planted parts and published records: ``make readme``."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Rectangle

from ccnotes import claims, collapse, gaussian, ledger
from ccnotes.attacks import pgd
from ccnotes.data import to_float
from ccnotes.parts import parts
from ccnotes.records import every_seed, published, runs

FOLDER = Path(__file__).parent / "_static/chapters"
# Seen on white and on dark ground alike.
BLUE, ORANGE, GREEN, GREY = "#2a7fc4", "#d9651b", "#4b9b69", "#8a8f98"
WIDTH, HEIGHT = 2.4, 1.35  # inches


def attacked(ax: Axes) -> None:
    """An image, what an attack adds to it, and the sum."""
    drawn = parts(60, seed=0, split="test")
    record = runs("parts-standard-small")[0]
    attack = replace(record.configuration.eval_attack, eps=0.06, step_size=0.015)
    x, y = to_float(drawn.images[:1]), drawn.labels[:1].long()
    adv = pgd(record.model("last"), x, y, attack, torch.Generator().manual_seed(0))
    change = ((adv - x) / 2 / attack.eps + 0.5).clamp(0, 1)
    for place, picture in enumerate((x, change, adv)):
        pixels = picture[0].permute(1, 2, 0).numpy()
        ax.imshow(pixels, extent=(1.08 * place, 1.08 * place + 1, 0, 1), interpolation="none")
    ax.set(xlim=(0, 3.16), ylim=(0, 1))


def solved(ax: Axes) -> None:
    """The weight of the features that classes share falls to 0 before that of their own."""
    eps = np.linspace(0, 0.5, 200, endpoint=False)
    weights = gaussian.optimal_weights(1, 0.5, eps, 1)
    for weight, color in zip(weights, (ORANGE, BLUE), strict=True):
        ax.plot(eps, weight, color=color, linewidth=3)


def similar(ax: Axes) -> None:
    """Which of the planted classes have features in common."""
    matrix(ax, every_seed("parts-at")[0].arrays["best_robust_similarity"].numpy())


def rise_and_fall(ax: Axes) -> None:
    """Robust accuracy of test images over epochs, a line per seed, the best epoch dotted."""
    curves = np.stack([r.table.test_robust_accuracy for r in every_seed("parts-at")])
    ax.plot(curves.T, color=BLUE, linewidth=0.7, alpha=0.25)
    mean = curves.mean(0)
    ax.plot(mean, color=BLUE, linewidth=3)
    ax.plot(mean.argmax(), mean.max(), "o", color=ORANGE, markersize=9)


def soft(ax: Axes) -> None:
    """What a teacher's labels add to the last robust accuracy, averaged, even, smoothed ones."""
    kinds = ("distilled-0.9", "averaged", "uniform", "smoothing-0.3")
    plain = ledger.figures(ledger.PLAIN).last.robust_accuracy
    ends = [ledger.figures(f"{ledger.PLAIN}-{kind}").last.robust_accuracy for kind in kinds]
    dots(ax, [(end - plain).dropna() for end in ends])


def remedies(ax: Axes) -> None:
    """What is lost of CAS and of robust accuracy, a dot per kind of training."""
    for kind in ledger.KINDS:
        of = ledger.figures(kind)
        x, y = (-ledger.fall(of, c).mean() for c in ("robust_cas", "robust_accuracy"))
        ax.plot(x, y, "o", color=ORANGE if kind == ledger.PLAIN else BLUE, markersize=8)
    ax.margins(0.15)


def swapped(ax: Axes) -> None:
    """CAS with head and features of the best network, of either, and of the last."""
    records = every_seed("parts-at")
    kinds = ("both", "features", "head", "neither")
    values = [np.mean([claims.cas_kept_by(r, kind) for r in records]) for kind in kinds[1:]]
    ax.bar(range(4), [1, *values], color=[BLUE, BLUE, ORANGE, ORANGE], alpha=0.9)


def fooled(ax: Axes) -> None:
    """Accuracy under FGSM rises and under PGD falls, where FGSM is what a network trains on."""
    frame = collapse.curves(["fast-fgsm-eps12"])
    for column, color in (("test_fgsm_accuracy", ORANGE), ("test_robust_accuracy", BLUE)):
        wide = frame.pivot(index="epoch", columns="seed", values=column)
        ax.plot(wide, color=color, linewidth=1, alpha=0.4)
        ax.plot(wide.mean(axis=1), color=color, linewidth=3)


def photographs(ax: Axes) -> None:
    """Which classes of photographs have features in common, at full size."""
    matrix(ax, published("cifar10-full-")["at"].arrays["best_robust_similarity"].numpy())


def late(ax: Axes) -> None:
    """Robust accuracy and CAS of test images at full size, each beside its greatest value."""
    table = published("cifar10-full-")["at"].table
    for column, color in (("test_robust_accuracy", BLUE), ("test_robust_cas", ORANGE)):
        ax.plot(table.epoch, table[column] / table[column].max(), color=color, linewidth=3)


def many(ax: Axes) -> None:
    """The curve of each run on its own."""
    for i, record in enumerate(every_seed("parts-at")[:18]):
        curve = record.table.test_robust_accuracy.to_numpy()
        place = np.linspace(0, 0.8, len(curve)) + i % 6
        ax.plot(place, 2.5 * (curve - curve[0]) - i // 6, color=BLUE, linewidth=1.6)


def judged(ax: Axes) -> None:
    """Claims with what the runs say of them."""
    dots(ax, [j.claim.differences / np.std(j.claim.differences) for j in ledger.heads()[:5]])


def matrix(ax: Axes, similarity: np.ndarray, reach: float | None = None) -> None:
    """Red where classes are alike, blue where they are opposed, the ground where they are neither.

    Strongest at ``reach``, by default the largest of them.

    As in the chapters, but for the ground: pictures of cards stand on white and on dark.
    """
    np.fill_diagonal(similarity, 0)
    red, blue = (to_rgb(color) for color in ("#b2182b", "#2166ac"))
    pixels = np.where(similarity[..., None] > 0, red, blue)
    strength = np.abs(similarity) / (reach or np.abs(similarity).max())
    ax.imshow(np.dstack([pixels, strength]), interpolation="nearest")
    ax.add_patch(Rectangle((-0.5, -0.5), *similarity.shape, fill=False, edgecolor=GREY))


def dots(ax: Axes, rows: list[np.ndarray]) -> None:
    for place, values in enumerate(rows):
        color = BLUE if np.mean(values) > 0 else ORANGE
        ax.plot(values, np.full(len(values), -place), "o", color=color, markersize=3, alpha=0.4)
        ax.plot(np.mean(values), -place, "o", color=color, markersize=9)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.margins(y=0.2)


def claim() -> Figure:
    """A car and a truck of planted parts, the wheels that both have circled and joined."""
    drawn = parts(6)
    figure = plt.figure(figsize=(5.6, 2.9))
    for label, left in ((0, 0.02), (1, 0.68)):
        ax = figure.add_axes((left, 0.01, 0.3, 0.77))
        pixels = np.full((20, 14, 3), 0.55)
        for part, top in ((drawn.own_parts[label], 1), (drawn.shared_parts[0], 9)):
            pixels[top : top + 8, 3:11] += 0.3 * part.permute(1, 2, 0).numpy()
        ax.imshow(pixels.clip(0, 1), interpolation="none")
        ax.add_patch(Ellipse((6.5, 13), 12, 10, fill=False, edgecolor=GREEN, linewidth=4))
        ax.axis("off")
        figure.text(
            left + 0.15, 0.91, drawn.classes[label], ha="center", fontsize=14, weight="bold"
        )
        own = f"{drawn.own_names[label]}: its own"
        figure.text(left + 0.15, 0.82, own, ha="center", fontsize=13)
    figure.add_artist(Line2D((0.3, 0.7), (0.28, 0.28), color=GREEN, linewidth=4))
    figure.text(0.5, 0.34, "wheels:\nboth have them", ha="center", fontsize=13, weight="bold")
    return figure


def seen() -> Figure:
    """How alike classes look to the network at its best and at its last epoch; mean over seeds."""
    classes, records = parts(6).classes, every_seed("parts-at")
    figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.9), layout="constrained")
    for ax, which in zip(axes, ("best", "last"), strict=True):
        matrix(ax, np.mean([r.arrays[f"{which}_robust_similarity"] for r in records], axis=0), 1)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{which} epoch", fontsize=14, weight="bold")
        ax.spines[:].set_visible(False)
        for i in range(6):  # a class and itself
            ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, color=GREY, alpha=0.4, linewidth=0))
        for cell in ((-0.5, 0.5), (0.5, -0.5)):
            ax.add_patch(Rectangle(cell, 1, 1, fill=False, edgecolor=GREEN, linewidth=4))
    axes[0].set_yticks(range(6), classes, fontsize=13)
    axes[0].tick_params(length=0)
    return figure


CHAPTERS: dict[str, Callable[[Axes], None]] = {
    "01_adversarial_training": attacked,
    "02_gaussian": solved,
    "03_attribution": similar,
    "04_dynamics": rise_and_fall,
    "05_soft_labels": soft,
    "06_robust_overfitting": remedies,
    "07_head_or_features": swapped,
    "08_photographs": late,
    "09_one_step": fooled,
    "your_own_model": photographs,
    "many_runs": many,
    "ledger": judged,
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "ccnotes"  # the same file each time
    for name, figure in {"claim": claim(), "seen": seen()}.items():
        figure.savefig(FOLDER.parent / f"{name}.svg", transparent=True, metadata={"Date": None})
    for name, draw in CHAPTERS.items():
        figure, ax = plt.subplots(figsize=(WIDTH, HEIGHT), layout="tight")
        ax.axis("off")
        draw(ax)
        figure.savefig(FOLDER / f"{name}.svg", transparent=True, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
