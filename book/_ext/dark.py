"""Figures on the page's own dark ground: a second drawing of each, which dark mode shows."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap, to_hex
from PIL import Image

INK, GROUND = (206, 214, 221), (18, 18, 18)  # the theme's text and ground in dark mode
SVG = "{http://www.w3.org/2000/svg}"
IMAGE = re.compile(r'<img\b[^>]*src="[^"]*_images/[^"/]*\.svg"[^>]*>')
LINK, FILL = "{http://www.w3.org/1999/xlink}href", r"\bfill: (#[0-9a-f]{6})"
GREY = re.compile(r"#([0-9a-f]{2})\1\1\b")

# What stands for a colour map in the dark: 0 is nearly the ground; white numbers read on all.
NOTHING, BLUE, RED = "#1d2023", ["#265e97", "#2a78c8"], ["#9a3b2e", "#cf4632"]
RANGES = {
    "RdBu_r": [*BLUE[::-1], NOTHING, *RED],
    "Blues": [NOTHING, *BLUE],
    "Oranges": [NOTHING, "#9c4a17", "#e8772b"],
}

# What stands for pale bars behind lit ones, grey names, and purple (ccnotes.moving has them).
PALES = {"#9fc5e4": "#4c7ca6", "#eeba98": "#b06c40", "#767676": "#a3a3a3", "#7b5ea7": "#a88fd0"}

ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def steps(colours: np.ndarray) -> list[str]:
    return [to_hex(colour) for colour in colours]


# Each of the 256 colours of a map, and the one that stands for it; pictures have them truncated.
TURNED: dict[str, dict[str, str]] = {}
for name, stops in RANGES.items():
    places = np.arange(256)
    there = steps(LinearSegmentedColormap.from_list(name, stops)(places))
    here, pictured = colormaps[name](places), colormaps[name](places, bytes=True) / 255
    TURNED[name] = dict(zip([*steps(here), *steps(pictured)], there * 2, strict=True))


def map_of(colours: set[str]) -> dict[str, str] | None:
    """The colour map that all these colours are of, if there is one."""
    return next((turned for turned in TURNED.values() if colours and colours <= {*turned}), None)


def recoloured(mesh: ElementTree.Element) -> bool:
    """Turns the cells of a heat map, or a picture of one, if its colour map is known."""
    if mesh.tag == f"{SVG}image":
        encoded = mesh.get(LINK, "").partition("base64,")[2]
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))
        flat, where = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
        names = [to_hex(colour[:3] / 255) for colour in flat]
        if turned := map_of({name for name, c in zip(names, flat, strict=True) if c[3]}):
            for colour, name in zip(flat, names, strict=True):
                colour[:3] = [*bytes.fromhex(turned[name][1:])] if colour[3] else 0
            data = io.BytesIO()
            Image.fromarray(flat[where].reshape(pixels.shape)).save(data, "png")
            mesh.set(LINK, f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}")
        return bool(turned)
    turned = map_of({*re.findall(FILL, ElementTree.tostring(mesh, "unicode"))})
    for cell in mesh.iter() if turned else ():
        if drawn := re.search(FILL, style := cell.get("style", "")):
            cell.set("style", style.replace(drawn[1], turned[drawn[1]]))
    return bool(turned)


def grey(found: re.Match[str]) -> str:
    """White becomes the ground, black the ink, what is between stays between."""
    white = int(found[1], 16) / 255
    mixed = (round(white * g + (1 - white) * i) for g, i in zip(GROUND, INK, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def box(axes: ElementTree.Element) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of a panel, that of its first patch."""
    path = axes.find(f"{SVG}g/{SVG}path")
    drawn = "" if path is None else path.get("d", "")
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", drawn)]
    across, down = numbers[::2], numbers[1::2]
    return (min(across), min(down), max(across), max(down)) if down else None


def on_colours(axes: ElementTree.Element) -> tuple[set[ElementTree.Element], str | None]:
    """Parts that keep their colours: heat maps, pictures, what is written on them; its colour.

    Maps in known colours turn here. What is written on them is white then, else as it was.
    """
    kept = {e for e in axes.iter() if e.get("id", "").startswith("QuadMesh")}
    maps = kept | {*axes.iter(f"{SVG}image")}
    if not maps:
        return set(), None
    turned = [recoloured(part) for part in maps]
    for text in axes.findall(f"{SVG}g"):
        source = ElementTree.tostring(text, "unicode")
        place = re.search(r"translate\((-?[\d.]+) (-?[\d.]+)\)", source)
        if text.get("id", "").startswith("text") and place and (edges := box(axes)):
            x, y = map(float, place.groups())
            if edges[0] <= x <= edges[2] and edges[1] <= y <= edges[3]:
                kept.add(text)
    return kept, "#ffffff" if any(turned) else None


def darkened(svg: str) -> str:
    """A figure of matplotlib with its greys turned over, colours and pictures as they are.

    >>> darkened('<svg xmlns="http://www.w3.org/2000/svg"><path style="fill: #ffffff"/></svg>')
    '<svg xmlns="http://www.w3.org/2000/svg" fill="#ced6dd"><path style="fill: #121212" /></svg>'
    """
    tree = ElementTree.fromstring(svg)
    tree.set("fill", "#{:02x}{:02x}{:02x}".format(*INK))  # black is what needs not be said
    kept: dict[ElementTree.Element, str | None] = {}
    for group in tree.iter(f"{SVG}g"):
        if group.get("id", "").startswith("axes_"):
            parts, white = on_colours(group)
            kept |= dict.fromkeys(parts, white)

    def turn(part: ElementTree.Element) -> None:
        if part in kept:
            part.set("fill", white := kept[part] or "#000000")
            for inner in (
                part.iter() if kept[part] and part.get("id", "").startswith("text") else ()
            ):
                inner.set("style", GREY.sub(white, inner.get("style", "")))
            return
        if style := part.get("style"):
            style = re.sub("|".join(PALES), lambda found: PALES[found[0]], style)
            part.set("style", GREY.sub(grey, style))
        for inner in part:
            turn(inner)

    turn(tree)
    return ElementTree.tostring(tree, "unicode")


def twin(image: re.Match[str]) -> str:
    """Both drawings in the place of one; without scripts the light one stays."""

    def of(classes: str, tag: str) -> str:
        found = re.search(r'class="([^"]*)"', tag)
        if found:
            return tag.replace(found[0], f'class="{found[1]} {classes}"')
        return tag.replace("<img", f'<img class="{classes}"', 1)

    dark = of("only-dark pst-js-only", image[0]).replace(".svg", "-dark.svg")
    dark = re.sub(r"(<img\b)(?![^>]*loading=)", r'\1 loading="lazy"', dark)
    return of("only-light", image[0]) + dark


def show_both(app, pagename, templatename, context, doctree):
    context["body"] = IMAGE.sub(twin, context.get("body") or "")


def draw(app, error):
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir, "_images").glob("*.svg"):
        if not path.stem.endswith("-dark"):
            path.with_stem(f"{path.stem}-dark").write_text(darkened(path.read_text()))


def setup(app):
    app.connect("html-page-context", show_both, priority=900)
    app.connect("build-finished", draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
