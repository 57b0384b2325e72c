"""The README's figure and result table, from the published records: ``make readme``."""

import re
from pathlib import Path

import matplotlib.pyplot as plt

import ccnotes
from ccnotes import plots
from ccnotes.evaluation import described
from ccnotes.records import best_and_last

ROOT = Path(__file__).parents[1]
START, END = "<!-- results: made by `make readme`, held by a test -->", "<!-- end of results -->"
ROWS = {"robust_accuracy": "robust accuracy, test", "inside": "similarity, classes that share"}
ROWS |= {"across": "similarity, other classes", "robust_cas": "CAS, attacked test images"}


def results() -> str:
    """The table in Markdown: planted images over five seeds, photographs once."""
    table = best_and_last(ccnotes.runs("planted-at", seeds=range(5)))
    best, last = (table[table.checkpoint == which].set_index("seed") for which in ("best", "last"))
    lines = ["| planted images | best epoch | last epoch | best minus last |", "|---|---|---|---|"]
    for column, name in ROWS.items():
        values = (best[column], last[column], best[column] - last[column])
        lines.append(f"| {name} | {' | '.join(described(v, '.2f') for v in values)} |")
    lines += ["", "Mean, 95 % interval over seeds, n. A robust accuracy of 1/6 = 0.17 is chance."]
    photo = ccnotes.runs("cifar10-at", data="cifar10-jpeg")[0]
    lines += ["", f"| {photo.content['dataset']['title']}, one seed | best | last | difference |"]
    lines += ["|---|---|---|---|"]
    for column in ("robust_accuracy", "robust_cas"):
        b, z = photo.best[column], photo.last[column]
        lines.append(f"| {ROWS[column]} | {b:.3g} | {z:.3g} | {b - z:.3g} |")
    return "\n".join(lines)


def figure() -> plt.Figure:
    """Robust accuracy and similarity against epoch on planted images."""
    records = ccnotes.runs("planted-at", seeds=range(5))
    drawn, (left, right) = plt.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
    accuracy = {"train_robust_accuracy": "training images", "test_robust_accuracy": "test images"}
    plots.curves(records, accuracy, ax=left, ylabel="robust accuracy")
    pairs = {"inside": "classes that share a pattern", "across": "other classes"}
    plots.curves(records, pairs, ax=right, ylabel="similarity, test images")
    return drawn


def main() -> None:
    readme = ROOT / "README.md"
    block = f"{START}\n{results()}\n{END}"
    text = re.sub(f"{START}.*{END}", lambda _: block, readme.read_text(), flags=re.S)
    readme.write_text(text)
    figure().savefig(ROOT / "book/_static/rise_and_fall.png", dpi=160)


if __name__ == "__main__":
    main()
