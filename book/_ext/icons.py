"""The icons that the pages use: a font of these alone, in place of 1.5 MB of the theme's script."""

import io
import logging
import re
from pathlib import Path

import pydata_sphinx_theme
from fontTools import subset

STATIC = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme/static"
STYLES, FONTS = "styles/pydata-sphinx-theme.css", "vendor/fontawesome/webfonts"
SCRIPT = re.compile(r'<script defer src="[^"]*/fontawesome\.js[^"]*"></script>')
NAMED = re.compile(r"((?:\.fa-[\w-]+:before,?)+)\{content:\"(\\?[^\"]+)\"\}")
FACE = re.compile(r'url\(([^)]*)\.woff2\) format\("woff2"\),url\([^)]*\.ttf\) format\("truetype"\)')

logging.getLogger("fontTools").setLevel("WARNING")


def codes(named: str, styles: str, pages: str) -> set[int]:
    """Which characters draw icons: of classes that pages have, and of the styles' own rules.

    >>> named = '.fa-sun:before{content:"S"}.fa-moon:before{content:"M"}'
    >>> sorted(map(hex, codes(named, r'.menu:after{content:"\\f107"}', '<i class="fa-sun">')))
    ['0x53', '0xf107']
    """
    used = {*re.findall(r"\bfa-[\w-]+", pages)}
    found = {c for names, c in NAMED.findall(named) if used & {*re.findall(r"fa-[\w-]+", names)}}
    found |= {*re.findall(r'"(\\[ef][\da-f]{3}|[\ue000-\uf8ff])"', NAMED.sub("", named + styles))}
    return {ord(c[-1]) if len(c) < 3 else int(c[1:], 16) for c in found}


def cut(font: Path, characters: set[int]) -> bytes:
    """A font with these of its characters alone, as every browser reads it."""
    options = subset.Options(flavor="woff")
    loaded = subset.load_font(font, options)
    only = subset.Subsetter(options)
    only.populate(unicodes=characters)
    only.subset(loaded)
    subset.save_font(loaded, target := io.BytesIO(), options)
    return target.getvalue()


def write(app, error):
    """Pages without the script, styles with the small fonts."""
    if error or app.builder.format != "html":
        return
    static, texts = Path(app.outdir, "_static"), []
    for page in Path(app.outdir).rglob("*.html"):
        texts.append(page.read_text())
        if (without := SCRIPT.sub("", texts[-1])) != texts[-1]:
            page.write_text(without)
    texts.append((STATIC / "scripts/pydata-sphinx-theme.js").read_text())  # adds icons itself
    theme = (STATIC / STYLES).read_text()
    others = [path.read_text() for path in static.rglob("*.css") if path != static / STYLES]
    characters = codes(theme, "".join(others), "".join(texts))
    for font in (STATIC / FONTS).glob("*.ttf"):
        (static / FONTS / f"{font.stem}.woff").write_bytes(cut(font, characters))
        for kind in ("ttf", "woff2"):
            (static / FONTS / f"{font.stem}.{kind}").unlink(missing_ok=True)
    (static / STYLES).write_text(FACE.sub(r'url(\1.woff) format("woff")', theme))
    for script in static.glob("scripts/fontawesome.js*"):
        script.unlink()


def setup(app):
    app.connect("build-finished", write, priority=960)  # the pages are complete
    return {"parallel_read_safe": True, "parallel_write_safe": True}
