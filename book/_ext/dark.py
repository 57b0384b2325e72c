"""Figures on the page's own dark ground: a second drawing of each, which dark mode shows."""

import re
from pathlib import Path
from xml.etree import ElementTree

INK, GROUND = (206, 214, 221), (18, 18, 18)  # the theme's text and ground in dark mode
SVG = "{http://www.w3.org/2000/svg}"
IMAGE = re.compile(r'<img\b[^>]*src="[^"]*_images/[^"/]*\.svg"[^>]*>')
GREY = re.compile(r"#([0-9a-f]{2})\1\1\b")

ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


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


def on_colours(axes: ElementTree.Element) -> set[ElementTree.Element]:
    """Parts that keep their colours: cells of heat maps, pictures, and what is written on them."""
    meshes = {e for e in axes.iter() if e.get("id", "").startswith("QuadMesh")}
    if not meshes and axes.find(f".//{SVG}image") is None:
        return set()
    for text in axes.findall(f"{SVG}g"):
        source = ElementTree.tostring(text, "unicode")
        place = re.search(r"translate\((-?[\d.]+) (-?[\d.]+)\)", source)
        if text.get("id", "").startswith("text") and place and (edges := box(axes)):
            x, y = map(float, place.groups())
            if edges[0] <= x <= edges[2] and edges[1] <= y <= edges[3]:
                meshes.add(text)
    return meshes


def darkened(svg: str) -> str:
    """A figure of matplotlib with its greys turned over, colours and pictures as they are.

    >>> darkened('<svg xmlns="http://www.w3.org/2000/svg"><path style="fill: #ffffff"/></svg>')
    '<svg xmlns="http://www.w3.org/2000/svg" fill="#ced6dd"><path style="fill: #121212" /></svg>'
    """
    tree = ElementTree.fromstring(svg)
    tree.set("fill", "#{:02x}{:02x}{:02x}".format(*INK))  # black is what needs not be said
    kept: set[ElementTree.Element] = set()
    for group in tree.iter(f"{SVG}g"):
        if group.get("id", "").startswith("axes_"):
            kept |= on_colours(group)

    def turn(part: ElementTree.Element) -> None:
        if part in kept:
            part.set("fill", "#000000")
            return
        if style := part.get("style"):
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
