"""The icons of the pages: every one that a page names is in the small fonts that come with it."""

import io
import re
import sys
from pathlib import Path

import pytest
from fontTools.ttLib import TTFont

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_check/_build/html"
sys.path.append(str(ROOT / "book/_ext"))

import icons  # noqa: E402

FONTS = HTML / "_static" / icons.FONTS
PAGES = sorted(HTML.rglob("*.html"))


def test_icons_are_those_of_pages_and_those_that_the_styles_draw_themselves():
    named = '.fa-sun:before{content:"S"}.fa-moon:before,.fa-night:before{content:"\\f186"}'
    ruled = ':root{--pst-icon-bell:"\\f0f3"}.x:after{content:"\uf064"}.y:after{content:"AB"}'
    assert icons.codes(named, ruled, '<i class="fa-solid fa-night">') == {0xF186, 0xF0F3, 0xF064}


def test_a_font_is_cut_to_what_is_asked_for_and_what_it_has():
    small = icons.cut(icons.STATIC / icons.FONTS / "fa-solid-900.ttf", {0xF185, 0xF09B})
    assert set(TTFont(io.BytesIO(small)).getBestCmap()) == {0xF185}  # 0xF09B is another font's
    assert len(small) < 2500  # of 420 kB


@pytest.mark.rendered
@pytest.mark.skipif(not PAGES, reason="no rendered copy: `make test` makes it")
def test_no_page_loads_the_theme_s_script_of_two_thousand_icons():
    assert [page.name for page in PAGES if "fontawesome.js" in page.read_text()] == []
    assert not [*HTML.rglob("fontawesome.js*")]


@pytest.mark.rendered
@pytest.mark.skipif(not PAGES, reason="no rendered copy: `make test` makes it")
def test_every_icon_has_its_drawing_in_fonts_of_less_than_12_kB():
    """The styles name these fonts, and each character that an icon's class stands for is there."""
    styles = (HTML / "_static" / icons.STYLES).read_text()
    files = sorted(set(re.findall(r"webfonts/([\w.-]+)", styles)))
    assert sum((FONTS / name).stat().st_size for name in files) < 12_000
    drawn = {code for name in files for code in TTFont(FONTS / name).getBestCmap() or {}}
    meant = {
        name: content
        for names, content in icons.NAMED.findall((icons.STATIC / icons.STYLES).read_text())
        for name in re.findall(r"fa-[\w-]+", names)
    }
    used = {
        name
        for page in PAGES
        for tag in re.findall(r'<i class="([^"]*)"', page.read_text())
        for name in tag.split()
        if name in meant
    }
    assert len(used) > 10
    for name in used:
        assert icons.codes(f'.{name}:before{{content:"{meant[name]}"}}', "", name) <= drawn, name
