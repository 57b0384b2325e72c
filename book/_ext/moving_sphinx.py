"""Moving figures, networks to attack, the playground, rows of claims: numbers, and scripts."""

import hashlib
import html
import json
import re
from pathlib import Path

from dark import PALES, RANGES
from docutils import nodes
from plain import CAPTION
from sphinx.transforms import SphinxTransform

HERE = Path(__file__).parent
# How each is loaded: figures that move wait for the page; the first thing to do on a page does not.
ELEMENTS = {
    "moving": ("moving-figure", "defer"),
    "live": ("live-attack", "async"),
    "playground": ("gaussian-playground", "defer"),
}
NUMBERED = re.compile("|".join([*(f"<{e}" for e, _ in ELEMENTS.values()), 'class="claim-rows"']))
DATA = re.compile(r'<script class="live-data" type="application/json">(.+?)</script>', re.DOTALL)


class Numbered(SphinxTransform):
    """What has a caption in HTML becomes a figure to Sphinx, too, numbered like all others."""

    default_priority = 205  # before Sphinx gives figures the ids by which it numbers them

    def apply(self):
        for output in list(self.document.findall(nodes.raw)):
            inside = output.astext()
            if NUMBERED.search(inside) and CAPTION.search(inside):
                output.replace_self(figure(output, inside))


def figure(output, inside):
    """An element as a figure, whose caption is the element's own, taken out of it."""
    caption = nodes.caption(text=html.unescape(CAPTION.search(inside)[1]))
    element = nodes.raw("", CAPTION.sub("", inside, count=1), **output.attributes)
    return nodes.figure("", element, caption)


def script() -> str:
    """That of moving figures, with the colours of heat maps and pale bars in the dark."""
    ranges = {"redblue": RANGES["RdBu_r"], "blues": RANGES["Blues"]}  # as Vega calls them
    known = f"const inTheDark = {json.dumps(ranges)}, pales = {json.dumps(PALES)};\n"
    return known + (HERE / "moving.js").read_text()


def write(app):
    # Into the output folder: Jupyter Book links every script of the source's _static on every page.
    if app.builder.format != "html":
        return
    import vl_convert

    from ccnotes import live, page

    bundle = vl_convert.javascript_bundle(script(), vl_version=page.VEGA_LITE)
    package = Path(live.__file__).parent
    vendor = {
        "moving.js": "(()=>{" + bundle + "})()",  # its names clash with the theme's
        "moving.css": (HERE / "moving.css").read_text(),
    }
    for name in ("live.js", "live.css", "playground.js", "playground.css"):
        vendor[name] = (package / name).read_text()
    (out := Path(app.outdir, "_static/vendor")).mkdir(parents=True, exist_ok=True)
    for name, text in vendor.items():
        (out / name).write_text(text, encoding="utf-8")


def link(app, pagename, templatename, context, doctree):
    body = context.get("body") or ""
    for name, (element, loading) in ELEMENTS.items():
        if f"<{element}" in body:
            app.add_js_file(f"vendor/{name}.js", loading_method=loading)
            app.add_css_file(f"vendor/{name}.css")

    def to_file(data):
        """Data beside the page, under their hash; as a script, the one form that file:// loads."""
        name = hashlib.sha256(data[1].encode()).hexdigest()[:12]
        Path(app.outdir, f"_static/vendor/{name}.js").write_text(
            f'liveAttack.data["{name}"]={data[1]};'
        )
        address = context["pathto"](f"_static/vendor/{name}.js", resource=True)
        where = f'data-name="{name}" data-src="{address}"'
        return f'<script class="live-data" type="text/plain" {where}></script>'

    if "<live-attack" in body:
        context["body"] = DATA.sub(to_file, body)


def setup(app):
    app.add_transform(Numbered)
    app.connect("builder-inited", write)
    app.connect("html-page-context", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
