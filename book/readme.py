"""README's figure and result table and the table of networks, from records: ``make readme``."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt

from ccnotes import plots
from ccnotes.records import PUBLISHED, best_and_last, every_seed, published
from ccnotes.tables import literal, tabulated

ROOT = Path(__file__).parents[1]
START, END = "<!-- results: made by `make readme`, held by a test -->", "<!-- end of results -->"
ROWS = {"robust_accuracy": "robust accuracy, test", "inside": "similarity, classes that share"}
SHOWN = {"accuracy": "robust accuracy", "cas": "CAS"}
SPLITS = {"train": "training images", "test": "test images"}
ROWS |= {"across": "similarity, other classes", "robust_cas": "CAS, attacked test images"}


def results() -> str:
    """The tables in Markdown, planted images and photographs, each over its seeds."""
    tables = []
    for records, note, form in (
        (every_seed("parts-at"), "", ".2f"),
        ([published("cifar10-full-")["at"]], ", full size, one run", ".3f"),
    ):
        ends = best_and_last(records)
        best, last = (ends[ends.checkpoint == w].set_index("seed") for w in ("best", "last"))
        title = literal(records[0].content["dataset"]["title"]) + note
        rows = [[ROWS[c], best[c], last[c], best[c] - last[c]] for c in ROWS if c in ends]
        columns = f"{title} | best epoch | last epoch | best minus last"
        tables.append(tabulated(columns, rows, form) + "\n")
    chance = "A robust accuracy of 1/6 = 0.17 (planted images), 0.10 (CIFAR-10) is chance."
    return "\n".join([*tables, f"Mean, 95 % interval over seeds, n. {chance}\n", attacks()])


def attacks() -> str:
    """How long other libraries' attacks take beside ours, in a sentence."""
    rows = json.loads((PUBLISHED / "attacks.json").read_text())
    names = {"torchattacks": "torchattacks", "foolbox": "Foolbox", "art": "ART"}
    taken = {
        width: ", ".join(
            f"{names[r['attacker']]} {r['ratio_best']:.1f}"
            for r in rows
            if r["width"] == width and r["attacker"] in names
        )
        for width in dict.fromkeys(row["width"] for row in rows)
    }
    by_width = "; ".join(f"at width {width} {times}" for width, times in taken.items())
    r = rows[0]
    return (
        f"The same attack by other libraries, PGD-{r['steps']} on PreActResNet-18, takes so many "
        f"times as long as ours at its fastest: {by_width} ({r['hardware'].split(',')[0]}, one "
        f"thread; chapter 4)."
    )


def networks() -> str:
    """The table of the networks in ``checkpoints``: what they are worth, and their digests."""
    rows = []
    for r in json.loads((PUBLISHED / "checkpoints.json").read_text()):
        clean, pgd, longer, *_, autoattack = (of["all"] for of in r["attacks"].values())
        images, digest = f"{r['images']:,}", f"`{r['sha256']}`"
        rows.append([f"`{r['file']}`", images, clean, pgd, longer, autoattack, digest])
    columns = "file | test images | clean | PGD-10 | PGD-50 | AutoAttack | SHA-256"
    return tabulated(columns, rows)


def figure(*size: float) -> plt.Figure:
    """Robust accuracy and CAS against epoch at full size, so many inches wide and high."""
    record = published("cifar10-full-")["at"]
    drawn, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    for ax, (name, title) in zip(axes, SHOWN.items(), strict=True):
        columns = {f"{split}_robust_{name}": title for split, title in SPLITS.items()}
        plots.curves([record], columns, ax=ax, ylabel=title, drops=size[0] > 8)  # room for names
        ax.axvline(record.best["epoch"], color="0.3", linewidth=1)
    return drawn


def main() -> None:
    for path, made in ((ROOT / "README.md", results), (ROOT / "checkpoints/README.md", networks)):
        block = f"{START}\n{made()}\n{END}"
        text = re.sub(f"{START}.*{END}", lambda _, block=block: block, path.read_text(), flags=re.S)
        path.write_text(text)
    plots.style()
    figure(9, 3.1).savefig(ROOT / "book/_static/rise_and_fall.png", dpi=160)
    # 1200 x 630, what previews of links elsewhere show
    figure(7.5, 3.9375).savefig(ROOT / "book/_static/social.png", dpi=160)


if __name__ == "__main__":
    main()
