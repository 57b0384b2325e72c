"""The drawings for phones that figures bring along, each page's choice, and the room it takes."""

import base64
import gzip
import re
from pathlib import Path

NARROW = "screen and (max-width: 600px)"
SIZE = re.compile(r'<svg\b[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"')  # as matplotlib writes it
IMAGE = re.compile(
    r'(?<!svg">)<img\b(?! width)[^>]*src="([^"]*_images/)([^"/]*?)(-dark)?\.svg"[^>]*>'
)


def apart(svg: str) -> tuple[str, str | None]:
    """A figure, and its drawing for phones if :func:`ccnotes.page.drawn` put one inside."""
    before, found, rest = svg.partition("<metadata id='phone'>")
    data, _, after = rest.partition("</metadata>")
    return before + after, gzip.decompress(base64.b64decode(data)).decode() if found else None


def room(path: Path) -> str:
    """The size of a drawing as attributes, so that a page keeps its place until it has come.

    Empty for what is not by matplotlib.
    """
    with path.open() as file:
        found = SIZE.search(file.read(1000))
    if not found:
        return ""
    width, height = (round(float(points) * 4 / 3) for points in found.groups())
    return f' width="{width}" height="{height}"'


def draw(app, error):
    """Drawings for phones beside the others, and each page's choice between them."""
    if error or app.builder.format != "html":
        return
    images = Path(app.outdir, "_images")
    for path in images.glob("*.svg"):
        if not path.stem.endswith(("-dark", "-narrow")):
            svg, small = apart(path.read_text())
            if small:  # else an earlier build has taken it out
                path.with_stem(f"{path.stem}-narrow").write_text(small)
                path.write_text(svg)
    names = {path.stem.removesuffix("-narrow") for path in images.glob("*-narrow.svg")}

    def choice(image: re.Match[str]) -> str:
        folder, name, dark = image[1], image[2], image[3] or ""
        sized = image[0].replace("<img", f"<img{room(images / f'{name}.svg')}", 1)
        if name not in names:
            return sized
        size = room(images / f"{name}-narrow.svg")
        source = f'<source media="{NARROW}"{size} srcset="{folder}{name}-narrow{dark}.svg">'
        return f"<picture>{source}{sized}</picture>"

    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text()
        if (chosen := IMAGE.sub(choice, text)) != text:
            page.write_text(chosen)


def setup(app):
    app.connect("build-finished", draw, priority=400)  # before dark.py draws all in dark
