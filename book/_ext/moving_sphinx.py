"""Moving figures: one script, made from vl-convert's bundle, linked where it is needed."""

from pathlib import Path

HERE = Path(__file__).parent
SCRIPT, STYLE = "vendor/moving.js", "vendor/moving.css"


def write(app):
    # Into the output folder: Jupyter Book links every script of the source's _static on every page.
    if app.builder.format != "html":
        return
    import vl_convert

    from ccnotes.moving import VEGA_LITE

    out = Path(app.outdir, "_static")
    (out / SCRIPT).parent.mkdir(parents=True, exist_ok=True)
    bundle = vl_convert.javascript_bundle((HERE / "moving.js").read_text(), vl_version=VEGA_LITE)
    bundle = "(()=>{" + bundle + "})()"  # its names clash with the theme's
    (out / SCRIPT).write_text(bundle, encoding="utf-8")
    (out / STYLE).write_text((HERE / "moving.css").read_text())


def link(app, pagename, templatename, context, doctree):
    if "<moving-figure" in (context.get("body") or ""):
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_css_file(STYLE)


def setup(app):
    app.connect("builder-inited", write)
    app.connect("html-page-context", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
