"""Figures of several panels for phones: cut between the panels, which then stand in a column."""

import base64
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from dark import SVG, box

LEAST, MOST = 270, 360  # points, which a phone shows in type of legible size
NARROW = "screen and (max-width: 600px)"
IMAGE = re.compile(r'(?<!svg">)<img\b[^>]*src="([^"]*_images/)([^"/]*?)(-dark)?\.svg"[^>]*>')


def lines(group: ElementTree.Element) -> Iterator[tuple[float, float]]:
    """Where each line of text of a group starts; of one that runs upwards, its far side."""
    for text in group.iter(f"{SVG}g"):
        place = re.match(r"translate\((-?[\d.]+) (-?[\d.]+)\)(.*)", text.get("transform", ""))
        if place:
            yield float(place[1]) - (11 if "rotate" in place[3] else 0), float(place[2])


def edges(axes: ElementTree.Element) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of a panel; of one without a frame, those of its picture."""
    if not axes.get("id", "").startswith("axes_"):
        return None
    if (image := axes.find(f".//{SVG}image")) is None or box(axes):
        return box(axes)
    left, top, width, height = (float(image.get(key, 0)) for key in ("x", "y", "width", "height"))
    return left, -top, left + width, height - top


def slices(figure: ElementTree.Element, width: float) -> list[tuple[float, float, bool]]:
    """Left and right of the parts to stack, and whether a part has labels at its left.

    One part at most where there is nothing to cut, or where a cut would go through a panel.
    """
    panels = []  # where the panel starts, then its text, its end, whether it has labels
    for axes in figure.iter(f"{SVG}g"):
        found = edges(axes)
        if found and found[2] - found[0] > 30:  # else a bar of colours, which goes with its panel
            left, top, right, bottom = found
            text = [x for x, y in lines(axes) if x < left - 5 and top - 5 < y < bottom + 5]
            start = min([left - 4, *(x - 2 for x, _ in lines(axes))])
            panels.append((left, start, right, bool(text)))
    columns: list[list[tuple[float, float, float, bool]]] = []
    for panel in sorted(panels):
        if not columns or panel[0] > columns[-1][0][0] + 20:
            columns.append([])
        columns[-1].append(panel)
    if not columns:
        return []
    starts = [min(start for _, start, _, _ in column) for column in columns]
    ends = [*starts[1:], width]
    if any(panel[2] > end for column, end in zip(columns, ends, strict=True) for panel in column):
        return []
    together = max(1, int(MOST * len(columns) / width))
    return [
        (starts[n], ends[n : n + together][-1], any(panel[3] for panel in columns[n]))
        for n in range(0, len(columns), together)
    ]


def stacked(svg: str) -> str | None:
    """A wide figure of matplotlib with its panels below one another; None if it has no such.

    What stands above all panels stays above them, smaller if need be. A panel without labels at
    its left gets those of the first.
    """
    tree = ElementTree.fromstring(svg)
    width, height = (float(n) for n in tree.get("viewBox", "0 0 0 0").split()[2:])
    figure = tree.find(f"{SVG}g[@id='figure_1']")
    parts = slices(figure, width) if figure is not None and width > 1.2 * MOST else []
    if figure is None or len(parts) < 2:
        return None
    panels = [found for axes in figure.iter(f"{SVG}g") if (found := edges(axes))]
    legends = [b for g in figure if g.get("id", "").startswith("legend_") and (b := box(g))]
    first, last = min(p[1] for p in panels), max(p[3] for p in panels)
    above, below = [b for b in legends if b[3] < first], [b for b in legends if b[1] > last]
    top = max((b[3] + 3 for b in above), default=0.0)
    bottom = min((b[1] - 3 for b in below), default=height)
    margin = min(p[0] for p in panels) - 5
    widest = max(right - left + margin * (not own) for left, right, own in parts)
    wide, y = max(LEAST, widest), 0.0
    views = []  # x, y, width and height of a part on the page, then what of the figure it shows

    def legend(start: float, end: float, boxes: list[tuple[float, float, float, float]]) -> float:
        left, right = min(b[0] for b in boxes) - 3, max(b[2] for b in boxes) + 3
        tall = (end - start) * min(1, wide / (right - left))
        views.append((0.0, y, wide, tall, left, start, right - left, end - start))
        return tall

    y += legend(0, top, above) if above else 0
    for left, right, own in parts:
        x, tall = (wide - widest) / 2, bottom - top
        if not own:
            views.append((x, y, margin, tall, 0.0, top, margin, tall))
            x += margin
        views.append((x, y, right - left, tall, left, top, right - left, tall))
        y += tall + 6
    y += legend(bottom, height, below) if below else 0
    tree.remove(figure)
    ElementTree.SubElement(tree, f"{SVG}defs").append(figure)
    for view in views:
        numbers = [f"{number:.2f}" for number in view]
        place = dict(zip(("x", "y", "width", "height"), numbers, strict=False))
        inner = ElementTree.SubElement(tree, f"{SVG}svg", place, viewBox=" ".join(numbers[4:]))
        ElementTree.SubElement(inner, f"{SVG}use", href="#figure_1")
    tree.set("viewBox", f"0 0 {wide:.2f} {y:.2f}")
    tree.set("width", f"{wide:.2f}pt"), tree.set("height", f"{y:.2f}pt")
    return ElementTree.tostring(tree, "unicode")


def apart(svg: str) -> tuple[str, str | None]:
    """A figure, and its drawing for phones if :func:`ccnotes.page.drawn` put one inside."""
    before, found, rest = svg.partition("<metadata id='phone'>")
    data, _, after = rest.partition("</metadata>")
    return before + after, gzip.decompress(base64.b64decode(data)).decode() if found else None


def draw(app, error):
    """Stacked figures beside the others, and each page's choice between them."""
    if error or app.builder.format != "html":
        return
    images = Path(app.outdir, "_images")
    for path in images.glob("*.svg"):
        if not path.stem.endswith(("-dark", "-narrow")):
            svg, small = apart(path.read_text())
            there = path.with_stem(f"{path.stem}-narrow")
            if there.exists() and not small:  # of an earlier build, which took it out of the figure
                continue
            if small := small or stacked(svg):
                there.write_text(small)
            path.write_text(svg)
    names = {path.stem.removesuffix("-narrow") for path in images.glob("*-narrow.svg")}

    def choice(image: re.Match[str]) -> str:
        folder, name, dark = image[1], image[2], image[3] or ""
        if name not in names:
            return image[0]
        source = f'<source media="{NARROW}" srcset="{folder}{name}-narrow{dark}.svg">'
        return f"<picture>{source}{image[0]}</picture>"

    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text()
        if (chosen := IMAGE.sub(choice, text)) != text:
            page.write_text(chosen)


def setup(app):
    app.connect("build-finished", draw, priority=400)  # before dark.py draws all in dark
