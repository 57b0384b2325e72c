"""The rendered pages in a real browser, on a phone and on a desk, with every other host cut off.

A page is opened once for all that is tried on it; each check sets the window's width, the medium
and the colours that it is about.
"""

import functools
import gzip
import http.server
import importlib.util
import re
import threading
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_check" / "_build" / "html"
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
BELOW = f"/{REPOSITORY.split('/')[-1]}"
PAGES = sorted(str(p.relative_to(HTML)) for p in HTML.rglob("*.html") if "_static" not in p.parts)
MOVING = [page for page in PAGES if "<moving-figure" in (HTML / page).read_text()]
PLAYGROUND = [page for page in PAGES if "<gaussian-playground" in (HTML / page).read_text()]
LIVE = [page for page in PAGES if "<live-attack" in (HTML / page).read_text()]
EXERCISES = [page for page in PAGES if 'class="solution' in (HTML / page).read_text()]
PHONE, TABLET, DESK = 390, 700, 1280

pytestmark = [
    pytest.mark.rendered,
    pytest.mark.skipif(not HTML.is_dir(), reason="no rendered copy: `make test` makes it"),
]


class LikeGitHub(http.server.SimpleHTTPRequestHandler):
    """The book lies below the repository's name; wrong addresses get its page for them."""

    def translate_path(self, path):
        return super().translate_path(path[len(BELOW) :] if path.startswith(BELOW) else "/nothing")

    def send_error(self, code, message=None, explain=None):
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write((HTML / "404.html").read_bytes())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    handler = functools.partial(LikeGitHub, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{BELOW}"
        server.shutdown()


@pytest.fixture
def visit(browser, site):
    """A function that opens a page and returns it with the list of what went wrong."""
    contexts = []

    def visit(page, width=DESK, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        tab, wrong = context.new_page(), []

        def ours_only(route):
            if route.request.url.startswith((site, "data:", "blob:")):
                return route.continue_()
            wrong.append(f"asks another host: {route.request.url}")
            return route.abort()

        def failed(request):
            if request.failure != "net::ERR_ABORTED":  # given up by the browser, as icons are
                wrong.append(f"failed: {request.url}, {request.failure}")

        tab.route("**/*", ours_only)
        tab.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text}"))
        tab.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        tab.on("requestfailed", failed)
        tab.on("response", lambda r: r.status >= 400 and wrong.append(f"{r.status}: {r.url}"))
        tab.goto(f"{site}/{page}", wait_until="networkidle")
        return tab, wrong

    yield visit
    for context in contexts:
        context.close()


@pytest.mark.parametrize("page", PAGES)
def test_page(visit, page, subtests):
    tab, wrong = visit(page, PHONE)
    tab.add_style_tag(content="* { transition: none !important }")  # colours change at once
    for check in CHECKS:
        with subtests.test(check.__name__):
            check(tab)
    with subtests.test("nothing went wrong"):
        assert not wrong
    no_serious_barrier(tab)  # last, since axe looks for styles at addresses of its own making


def show(tab, width=DESK, media="screen", scheme="light"):
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(media=media, color_scheme=scheme)
    # Not asked frame by frame: a busy browser may draw none for long.
    tab.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'", polling=100)


def all_is_there(tab):
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert not tab.evaluate(broken)
    # Formulas are typeset: none is left as its source.
    assert not tab.locator(".math:not(:has(mjx-container))").count()
    # Only styles and small scripts are awaited before the first paint.
    awaited = """performance.getEntriesByType('resource')
        .filter(e => e.renderBlockingStatus == 'blocking').map(e => e.decodedBodySize)"""
    assert 0 < sum(tab.evaluate(awaited)) < 800_000


def it_is_no_wider_than_its_window(tab):
    for width in (PHONE, TABLET, DESK):
        show(tab, width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def what_is_too_wide_for_a_phone_scrolls(tab):
    """Formulas, tables, figures and code: none is cut off, folded parts included."""
    show(tab, PHONE)
    folded = tab.locator("details:not([open])").element_handles()
    tab.evaluate("folded => folded.forEach(part => part.open = true)", folded)
    cut = """[...document.querySelectorAll(
          '.bd-article :is(mjx-container, table, img, pre, .moving-view svg)')]
        .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
        .filter(e => {
          for (let box = e; box && box != document.body; box = box.parentElement) {
            const how = getComputedStyle(box).overflowX;
            if (['auto', 'scroll'].includes(how) && box.clientWidth < box.scrollWidth)
              return box.getBoundingClientRect().right > innerWidth + 1;
            if (box != e && ['hidden', 'clip'].includes(how)) return true;
          }
          return true;
        })
        .map(e => e.outerHTML.slice(0, 150))"""
    found = tab.evaluate(cut)
    tab.evaluate("folded => folded.forEach(part => part.open = false)", folded)
    assert not found


def fingers_hit_what_is_there_to_press(tab):
    """At least 24 pixels high and wide; folds, which are many, 32 high."""
    show(tab, PHONE)
    small = """[...document.querySelectorAll(
          '.bd-article :is(input, select, button, summary):not(.live-attack *)')]
        .filter(e => e.checkVisibility({ opacityProperty: true }) && e.offsetWidth > 1)
        .filter(e => Math.min(e.offsetWidth, e.offsetHeight) < (e.matches('summary') ? 32 : 24))
        .map(e => [e.outerHTML.slice(0, 100), e.offsetWidth, e.offsetHeight])"""
    assert not tab.evaluate(small)


def words_in_tables_have_room_on_a_phone(tab):
    """No cell is far taller than wide, unless it has a whole text in it."""
    show(tab, PHONE)
    folded = tab.locator("details:not([open])").element_handles()
    tab.evaluate("folded => folded.forEach(part => part.open = true)", folded)
    tall = """[...document.querySelectorAll('.bd-article table:not(.field-list) :is(th, td)')]
        .filter(e => e.checkVisibility() && e.innerText.length > 16 && e.offsetWidth < 100)
        .map(e => [e.innerText, e.offsetWidth, e.offsetHeight])"""
    found = tab.evaluate(tall)
    tab.evaluate("folded => folded.forEach(part => part.open = false)", folded)
    assert not found


def figures_follow_the_page_s_colours(tab):
    """One of the two drawings shows, on the page's own ground."""
    for scheme in ("light", "dark"):
        show(tab, scheme=scheme)
        wrong = """scheme => [...document.querySelectorAll('.bd-article img[src*="_images/"]')]
            .filter(e => e.src.endsWith('.svg') && !e.closest('details:not([open])'))
            .filter(e => (getComputedStyle(e).display != 'none')
                           != (e.src.includes('-dark.svg') == (scheme == 'dark'))
                         || getComputedStyle(e).backgroundColor != 'rgba(0, 0, 0, 0)')
            .map(e => e.outerHTML.slice(0, 200))"""
        assert not tab.evaluate(wrong, scheme), scheme


def every_numbered_caption_is_in_sight(tab):
    """In the light and in the dark, unless its figure is folded away."""
    for scheme in ("dark", "light"):
        show(tab, scheme=scheme)
        hidden = """[...document.querySelectorAll('figcaption:has(.caption-number)')]
            .filter(e => !e.closest('details:not([open])') && !e.checkVisibility())
            .map(e => e.innerText)"""
        assert not tab.evaluate(hidden), scheme


def figures_that_move_fit_a_phone(tab):
    """As they were drawn when the page was opened on one: panels stack, legends stand below."""
    if not tab.locator("moving-figure").count():
        return
    show(tab, PHONE)
    for figure in tab.locator("moving-figure").all():
        figure.locator("svg").first.wait_for()
        view = figure.locator(".moving-view")
        assert view.evaluate("e => e.scrollWidth <= e.clientWidth")


def other(control):
    """The number of the last option of a list or, where that is chosen, of the first."""
    return control.evaluate("e => e.selectedIndex == e.length - 1 ? 0 : e.length - 1")


def moving_figures_move_by_keyboard_and_by_mouse(tab):
    """Of a slider: a key's step, then a click near the other end of its track."""
    if not tab.locator("moving-figure").count():
        return
    show(tab)
    for figure in tab.locator("moving-figure").all():
        figure.locator("svg").first.wait_for()
        assert not figure.locator(".moving-still").is_visible()
        for slider in figure.get_by_role("slider").all():
            assert slider.evaluate("e => e.labels[0].innerText.trim()")
            key = "ArrowLeft" if slider.evaluate("e => e.value == e.max") else "ArrowRight"
            slider.focus()
            with picture_changes(tab, figure):
                tab.keyboard.press(key)
            box = slider.bounding_box()
            far = 0.9 if slider.evaluate("e => e.value < (+e.min + +e.max) / 2") else 0.1
            with picture_changes(tab, figure):
                slider.click(position={"x": far * box["width"], "y": box["height"] / 2})
        play = figure.get_by_role("button", name=re.compile("Play"))
        assert play.count() == (figure.get_by_role("slider").count() == 1)
        for button in play.all():
            with picture_changes(tab, figure):
                button.click()
            figure.get_by_role("slider").press("End")  # a reader's hand stops it
            assert button.inner_text() == "Play"
        for role, key, pointed in (
            ("checkbox", "Space", lambda control: control.click()),
            ("combobox", "ArrowDown", lambda control: control.select_option(index=other(control))),
        ):
            for control in figure.get_by_role(role).all():
                assert control.evaluate("e => e.labels[0].innerText.trim()")
                control.focus()
                with picture_changes(tab, figure):
                    tab.keyboard.press(key)
                with picture_changes(tab, figure):
                    pointed(control)
        for group in figure.get_by_role("radiogroup").all():
            assert group.get_attribute("aria-label")
            group.locator(":checked").focus()
            with picture_changes(tab, figure):
                tab.keyboard.press("ArrowDown")
            with picture_changes(tab, figure):
                group.get_by_role("radio").first.click()


def figures_fill_the_column_in_type_of_12_pixels(tab):
    """On a desk, where those that move are drawn anew; unless they are about square.

    Matplotlib draws letters of a size as a scale.
    """
    show(tab, 1440)
    folded = tab.locator("details:not([open])").element_handles()
    tab.evaluate("folded => folded.forEach(part => part.open = true)", folded)
    found = tab.evaluate("""async () => {
        const found = [];
        for (const image of document.querySelectorAll('.cell_output img.only-light[src$=".svg"]')) {
            const svg = new DOMParser().parseFromString(
                await (await fetch(image.src)).text(), 'image/svg+xml').documentElement;
            const box = image.getBoundingClientRect();
            const scale = box.width / svg.viewBox.baseVal.width;
            const letters = [...svg.querySelectorAll('g[id^=text_] g[transform*=scale]')]
                .map(g => 100 * scale * /scale\\((-?[\\d.]+)/.exec(g.getAttribute('transform'))[1]);
            found.push([image.alt, box.width, box.height, Math.min(...letters)]);
        }
        for (const figure of document.querySelectorAll('moving-figure')) {
            await figure.connectedCallback();
            const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
            const scale = box.width / svg.viewBox.baseVal.width;
            const letters = [...svg.querySelectorAll('text')]
                .map(e => scale * parseFloat(getComputedStyle(e).fontSize));
            const text = figure.querySelector('img').alt;
            found.push([text, box.width, box.height, Math.min(...letters)]);
        }
        return found;
    }""")
    tab.evaluate("folded => folded.forEach(part => part.open = false)", folded)
    for text, width, height, letters in found:
        assert width >= 600 or 0.7 < width / height < 1.4, text
        assert letters > 11.95, text  # pictures are cut to whole points


def figures_on_a_phone_have_type_of_11_pixels(tab):
    """And what they draw is as wide as the text."""
    show(tab, PHONE)
    folded = tab.locator("details:not([open])").element_handles()
    tab.evaluate("folded => folded.forEach(part => part.open = true)", folded)
    found = tab.evaluate("""async () => {
        const found = [];
        for (const image of document.querySelectorAll('.cell_output img.only-light[src$=".svg"]')) {
            image.loading = 'eager';
            const svg = new DOMParser().parseFromString(
                await (await fetch(image.currentSrc)).text(), 'image/svg+xml').documentElement;
            const shown = image.getBoundingClientRect().width;
            const scale = shown / svg.viewBox.baseVal.width;
            const letters = [...svg.querySelectorAll('g[id^=text_] g[transform*=scale]')]
                .map(g => 100 * scale * /scale\\((-?[\\d.]+)/.exec(g.getAttribute('transform'))[1]);
            const column = image.closest('.cell_output').clientWidth;
            found.push([image.alt, shown / column, Math.min(...letters)]);
        }
        return found;
    }""")
    tab.evaluate("folded => folded.forEach(part => part.open = false)", folded)
    for text, wide, letters in found:
        assert wide > 0.99, text
        assert letters > 11, text


def a_table_that_goes_on_to_the_right_fades_there(tab):
    """Until its end is reached."""
    show(tab, PHONE)
    found = tab.evaluate("""async () => {
        const found = [], frame = () => new Promise(done => requestAnimationFrame(done));
        const fade = table => getComputedStyle(table).getPropertyValue('--fade');
        for (const table of document.querySelectorAll('.bd-article table')) {
            if (!table.checkVisibility()) continue;
            const more = table.scrollWidth > table.clientWidth + 1, first = fade(table);
            table.scrollLeft = 1e6;
            await frame(), await frame();
            found.push([more, first, fade(table)]);
            table.scrollLeft = 0;
        }
        return found;
    }""")
    assert all(first == ("48px" if more else "0px") for more, first, _ in found)
    assert all(last == "0px" for *_, last in found)


def code_stays_in_its_box(tab):
    show(tab, 1440)
    wide = """[...document.querySelectorAll('.bd-article .highlight pre')]
        .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
        .map(e => e.innerText.slice(0, 100))"""
    assert not tab.evaluate(wide)


def links_and_rings_are_of_one_colour(tab):
    """Those of buttons, chips and tinted grounds aside, which have a colour of their own."""
    for scheme in ("light", "dark"):
        show(tab, scheme=scheme)
        colours = tab.evaluate("""() => {
            const links = [...document.querySelectorAll('.bd-article :is(p, td, li) a[href]')]
                .filter(e => e.checkVisibility() && e.innerText.trim())
                .filter(e => !e.closest('.chip, .btn, .sd-btn, .proof, .exercise, .chapter-card'))
                .map(e => e.querySelector('code, .pre') ?? e);
            return [...new Set(links.map(e => getComputedStyle(e).color))];
        }""")
        assert len(colours) <= 1, (scheme, colours)
        if tab.locator("live-attack").count():
            tab.locator("live-attack [type=range]").first.focus()
            tab.keyboard.press("ArrowRight")
            ring = "getComputedStyle(document.activeElement).outline"
            own = tab.evaluate(ring)
            tab.keyboard.press("ArrowLeft")
            tab.locator(".bd-article a[href]:visible").first.focus()
            assert tab.evaluate(ring) == own


def networks_are_attacked_by_keyboard_and_by_mouse_and_nothing_moves(tab):
    """From radius 0 to one at which the first network is wrong, another network, another image."""
    if not tab.locator("live-attack").count():
        return
    for width in (PHONE, DESK):
        show(tab, width)
        tab.wait_for_timeout(300)  # until the page has come to rest
        since = tab.evaluate("performance.now()")
        for figure in tab.locator("live-attack").all():
            figure.and_(tab.locator("[data-ready]")).wait_for()
            verdict, slider = figure.locator(".live-verdict"), figure.get_by_role("slider")
            heights = {figure.evaluate("e => e.offsetHeight")}
            label = slider.evaluate("e => e.labels[0].innerText")
            assert label.startswith(("Drag until it is wrong", "Step until it is wrong"))
            assert verdict.get_attribute("data-right") == "true"
            slider.focus()
            tab.keyboard.press("End")
            figure.locator(".live-verdict[data-right=false]").wait_for()
            heights.add(figure.evaluate("e => e.offsetHeight"))
            tab.keyboard.press("Home")
            figure.locator(".live-verdict[data-right=true]").wait_for()
            box = slider.bounding_box()
            slider.click(position={"x": box["width"] - 9, "y": box["height"] / 2})
            figure.locator(".live-verdict[data-right=false]").wait_for()
            for name in ("network", "image"):
                chosen = figure.locator(f"[name={name}]")
                before = figure.locator(".live-bars").inner_text()
                chosen.first.focus()
                tab.keyboard.press("ArrowRight")
                changed = "([e, text]) => e.innerText != text"
                bars = figure.locator(".live-bars")
                tab.wait_for_function(changed, arg=[bars.element_handle(), before])
                heights.add(figure.evaluate("e => e.offsetHeight"))
                chosen.first.check()
            tab.keyboard.press("Enter")  # sends no form
            says = figure.get_by_role("status")
            tab.wait_for_function(changed, arg=[says.element_handle(), ""])
            assert len(heights) == 1
            slider.fill("0")
            figure.locator(".live-verdict[data-right=true]").wait_for()
        assert not shifts(tab, since)
        tab.mouse.move(0, 0)  # over nothing that would light up


def shifts(tab, since=0):
    """How often something within a network to attack has moved, from a time on."""
    return tab.evaluate(
        """(since) => new Promise((done) => {
          const inside = ({ node }) => node?.parentElement?.closest('live-attack');
          const ours = (shift) => shift.startTime > since && shift.sources.some(inside);
          new PerformanceObserver((list) => done(list.getEntries().filter(ours).length))
            .observe({ type: 'layout-shift', buffered: true });
          setTimeout(done, 300, 0);
        })""",
        since,
    )


@contextmanager
def picture_changes(tab, figure):
    """Waits until it does, after what is done inside; five seconds at most."""
    before = figure.evaluate("figure => figure.querySelector('svg').innerHTML")
    yield
    changed = "([figure, before]) => figure.querySelector('svg').innerHTML != before"
    tab.wait_for_function(changed, arg=[figure.element_handle(), before], timeout=5000)


# Of the theme, which is not ours to mend.
THEME = {
    "aria-required-children": "docutils gives lists of citations a role that wants list items",
    "landmark-unique": "two toolbars of the article's head bear no name",
    "scrollable-region-focusable": "the theme's sidebars and code scroll without taking the focus",
}


def no_serious_barrier(tab):
    """For readers with a handicap: what axe-core calls serious or critical, the theme's aside."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    brief = {"resultTypes": ["violations"], "selectors": False}
    colours = {"runOnly": ["color-contrast", "link-in-text-block"]}  # what dark mode changes
    for scheme, options in (("light", brief), ("dark", brief | colours)):
        show(tab, scheme=scheme)
        found = axe.run(tab, options=options).response["violations"]
        grave = {
            v["id"]: [node["html"][:150] for node in v["nodes"][:3]]
            for v in found
            if v["impact"] in ("serious", "critical") and v["id"] not in THEME
        }
        assert not grave, scheme


def paper_shows_what_the_page_folds_and_cuts_nothing_off(tab):
    """Black on white, also from dark mode; proofs and solutions open, buttons gone."""
    show(tab, 718, "print", "dark")  # A4 less its margins
    wide = """[...document.querySelectorAll('.bd-article :is(pre, img, .moving-view svg)')]
        .filter(e => e.getBoundingClientRect().right > innerWidth
                     || e.scrollWidth > e.clientWidth + 1)
        .map(e => e.outerHTML.slice(0, 150))"""
    assert not tab.evaluate(wide)
    for folded in ("details:not(.hide) .sd-card-body", ".solution section"):
        unfolded = tab.locator(f".bd-article {folded}:visible")
        assert unfolded.count() == tab.locator(f".bd-article {folded}").count(), folded
    for gone in ("details.hide", ".bd-sidebar-primary", ".bd-header-article", ".headerlink"):
        assert not tab.locator(f"{gone}:visible").count(), gone
    ink = """[...document.querySelectorAll('.bd-article :is(p, pre span, a, code)')]
        .filter(e => e.checkVisibility() && !e.closest('img, .btn, .sd-btn'))
        .map(e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).map(Number))
        .filter(([r, g, b]) => .3 * r + .6 * g + .1 * b > 150).map(String)"""
    assert not tab.evaluate(ink)


def solutions_are_folded_and_open_by_keyboard(tab):
    if not tab.locator("div.solution").count():
        return
    show(tab)
    for solution in tab.locator("div.solution").all():
        text = solution.locator("section")
        assert not text.is_visible()
        solution.get_by_role("button").first.focus()
        tab.keyboard.press("Enter")
        text.wait_for()
        tab.keyboard.press("Enter")
        text.wait_for(state="hidden")


CHECKS = (  # from narrow to wide, since a page is laid out anew for each width
    all_is_there,
    what_is_too_wide_for_a_phone_scrolls,
    figures_that_move_fit_a_phone,
    figures_on_a_phone_have_type_of_11_pixels,
    a_table_that_goes_on_to_the_right_fades_there,
    networks_are_attacked_by_keyboard_and_by_mouse_and_nothing_moves,
    fingers_hit_what_is_there_to_press,
    words_in_tables_have_room_on_a_phone,
    every_numbered_caption_is_in_sight,
    it_is_no_wider_than_its_window,
    moving_figures_move_by_keyboard_and_by_mouse,
    solutions_are_folded_and_open_by_keyboard,
    links_and_rings_are_of_one_colour,
    code_stays_in_its_box,
    figures_follow_the_page_s_colours,
    figures_fill_the_column_in_type_of_12_pixels,
    paper_shows_what_the_page_folds_and_cuts_nothing_off,
)


def test_there_are_figures_and_exercises_to_try():
    assert MOVING
    assert LIVE
    assert EXERCISES


def test_dark_mode(visit):
    tab, _ = visit("book/index.html", color_scheme="dark")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, ground[4:-1].split(","))) < 64, ground


def test_pdf_has_a_title_a_chapter_and_links_within(browser):
    """The last pages in order stand for all."""
    spec = importlib.util.spec_from_file_location("pdf", ROOT / "book/_ext/pdf.py")
    spec.loader.exec_module(pdf := importlib.util.module_from_spec(spec))
    book = pdf.joined(browser, HTML, "book/glossary.html")
    titles = [item.title for item in book.outline]
    of_package = [path.read_text().split("\n")[0] for path in sorted(ROOT.glob("book/api*.md"))]
    assert titles == ["Glossary", "Bibliography", *(t.removeprefix("# ") for t in of_package)]
    links = [link.get_object().get("/A", {}) for link in book.pages[0].get("/Annots", [])]
    pages = [page.indirect_reference for page in book.pages]
    second = book.get_destination_page_number(book.outline[1])
    assert pages[second] in [link["/D"][0] for link in links if link.get("/S") == "/GoTo"]
    assert "adversarial example" in book.pages[0].extract_text()


def test_search_finds_a_term(visit):
    tab, wrong = visit("search.html?q=bootstrap")
    tab.locator("#search-results li a").first.wait_for()
    assert "glossary" in " ".join(a.get_attribute("href") for a in tab.locator("li a").all())
    assert not wrong


def test_search_leads_to_sections_and_says_so_when_there_is_none(visit):
    """Of all words, whatever their endings, those in a title first; then of a word that is none."""
    tab, wrong = visit("search.html?q=disjoint+group")
    hit = tab.locator("#search-results li").first
    assert "#" in hit.locator("a").get_attribute("href")
    assert {"disjoint", "groups"} <= {m.lower() for m in tab.locator("mark").all_inner_texts()}
    assert hit.locator(".search-page").inner_text()
    hit.locator("a").click()
    tab.wait_for_url(re.compile(r"/book/\w+\.html#."), wait_until="commit")
    tab, more = visit("search.html?q=zzzyx")
    tab.get_by_text("No section has “zzzyx”").wait_for()
    assert "Did you mean" not in tab.locator("main").inner_text()
    assert not wrong + more


@pytest.mark.parametrize(
    ("said", "meant"),
    [("atribution", "attribution"), ("the atribution of cosine", "attribution cosine")],
)
def test_search_for_a_misspelt_word_leads_to_the_book_s_nearest_one(visit, said, meant):
    tab, wrong = visit(f"search.html?q={said.replace(' ', '+')}")
    tab.get_by_text("Did you mean").wait_for()
    link = tab.locator("#search-results a", has_text=meant)
    assert link.inner_text() == meant
    link.click()
    tab.locator("#search-results li mark").first.wait_for()
    assert not wrong


def a_term(tab):
    """A link to the glossary in the text, and the box in which its meaning shows."""
    return tab.locator(".bd-article p a.term").first, tab.locator(".term-says")


def test_a_term_says_what_it_means_on_focus_and_escape_closes_it(visit):
    tab, wrong = visit("book/01_adversarial_training.html", PHONE)
    link, box = a_term(tab)
    meaning = link.get_attribute("aria-description")
    assert not box.is_visible()
    tab.keyboard.press("Tab")  # a focus that scripts give shows only after a key
    link.focus()
    assert box.inner_text() == meaning
    tab.keyboard.press("Escape")
    assert not box.is_visible()
    link.blur(), link.focus()
    place, word = box.bounding_box(), link.bounding_box()
    assert place["x"] >= 0
    assert place["x"] + place["width"] <= PHONE
    assert place["y"] >= word["y"] + word["height"] or place["y"] + place["height"] <= word["y"]
    tab.keyboard.press("Tab")
    assert not box.is_visible()
    link.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url(re.compile("glossary.html#term-"), wait_until="commit")
    assert not wrong


def test_a_term_says_what_it_means_while_the_mouse_is_on_it_or_on_what_it_says(visit):
    """Not as the mouse passes, and without the browser's own box beside it."""
    tab, wrong = visit("book/01_adversarial_training.html")
    link, box = a_term(tab)
    passing = """async (link) => {
        for (const part of [link, document.body]) {
            const it = { bubbles: true, pointerType: 'mouse' };
            part.dispatchEvent(new PointerEvent('pointerover', it));
            await new Promise(done => setTimeout(done, 50));
        }
    }"""
    link.evaluate(passing)
    tab.wait_for_timeout(300)
    assert not box.inner_text()
    link.hover()
    box.wait_for(timeout=1000)
    assert box.inner_text() == link.get_attribute("aria-description")
    assert not link.get_attribute("title")
    box.hover()
    tab.wait_for_timeout(600)
    assert box.is_visible()
    tab.mouse.move(0, 0)
    box.wait_for(state="hidden", timeout=1000)
    link.hover()
    box.wait_for()
    tab.keyboard.press("Escape")
    tab.wait_for_timeout(400)
    assert not box.is_visible()
    assert not wrong


def test_without_scripts_a_term_says_what_it_means_as_a_title(visit):
    tab, _ = visit("book/01_adversarial_training.html", java_script_enabled=False)
    assert tab.locator(".bd-article p a.term").first.get_attribute("title")


def test_a_term_says_what_it_means_on_touch_and_a_second_one_leads_to_the_glossary(visit):
    tab, wrong = visit("book/01_adversarial_training.html", PHONE, has_touch=True)
    link, box = a_term(tab)
    link.tap()
    assert box.inner_text() == link.get_attribute("aria-description")
    tab.locator(".bd-article h1").tap()
    assert not box.is_visible()
    assert "01_adversarial_training" in tab.url
    link.tap(), link.tap()
    tab.wait_for_url(re.compile("glossary.html#term-"), wait_until="commit")
    assert not wrong


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_magnifier_stands_before_what_is_typed_on_the_page_and_in_the_dialog(visit, width):
    for page, within in (("search.html", "main"), ("book/exercises.html", "dialog")):
        tab, _ = visit(page, width)
        form = tab.locator(f"{within} form.bd-search")
        if within == "dialog":
            tab.keyboard.press("Control+k")
            form.wait_for()
        icon, field = form.locator("i").bounding_box(), form.locator("input").bounding_box()
        assert form.locator("i").is_visible()
        assert icon["x"] + icon["width"] <= field["x"]


def test_a_count_of_verdicts_shows_its_rows_alone_and_pressed_again_all(visit):
    """By mouse and by keyboard."""
    tab, wrong = visit("book/ledger.html")
    rows = tab.locator(".claim-row:not(.claim-axis)")
    every = [row.inner_text() for row in rows.all()]
    everything, *buttons = tab.locator(".claim-counts button").all()
    pressed = (
        "[...document.querySelectorAll('.claim-counts [aria-pressed=true]')].map(b => b.value)"
    )
    assert len(buttons) >= 3
    for button, press in zip(buttons, ("mouse", *buttons[1:]), strict=True):
        count, word = button.inner_text().split(maxsplit=1)
        button.click() if press == "mouse" else button.press("Enter")
        assert tab.evaluate(pressed) == [word]
        shown = [row.inner_text() for row in rows.all() if row.is_visible()]
        assert all(word in text for text in shown)
        assert len(shown) == int(count)
    for back in (button, everything):
        back.press("Enter")
        assert [row.inner_text() for row in rows.all() if row.is_visible()] == every
        assert tab.evaluate(pressed) == [""]
        buttons[1].press("Enter")
    assert not wrong


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_verdict_s_rows_come_into_view_below_its_count_and_what_has_none_is_gone(visit, width):
    tab, _ = visit("book/ledger.html", width)
    height = "document.documentElement.scrollHeight"
    before, chosen = tab.evaluate(height), tab.get_by_role("button", name="contradicted")
    chosen.click()
    first = tab.locator(".claim-row:visible").first.bounding_box()
    bar, chips = tab.locator(".bd-header-article").bounding_box(), chosen.bounding_box()
    assert bar["y"] + bar["height"] <= chips["y"]
    assert chips["y"] + chips["height"] <= first["y"] < 900 - first["height"]
    bare = """() => {
        const shown = [...document.querySelectorAll('.claim-row')].filter(e => e.checkVisibility());
        const isAxis = e => e.matches('.claim-axis');
        return shown.filter((e, i) => isAxis(e) && (!i || isAxis(shown[i - 1]))).length;
    }"""
    assert not tab.evaluate(bare)
    tab.wait_for_timeout(200)  # until the list of contents has followed
    for link in tab.locator("#pst-page-toc-nav a.active").all():
        assert tab.locator(link.get_attribute("href")).is_visible()
    empty = [
        part
        for part in tab.locator(".bd-article section section:visible").all()
        if not part.locator(".claim-row:visible").count()
    ]
    assert not empty
    ground = "getComputedStyle(document.querySelector('.claim-counts')).backgroundColor"
    for scheme in ("light", "dark"):
        show(tab, width, scheme=scheme)
        assert tab.evaluate(f"{ground} == getComputedStyle(document.body).backgroundColor")
    tab.evaluate("document.querySelector('#pst-page-toc-nav a[href=\"#withdrawn\"]').click()")
    tab.wait_for_function("scrollY > innerHeight")
    assert tab.locator("#withdrawn").is_visible()
    show(tab, width)
    assert tab.evaluate(height) == before


@pytest.mark.parametrize("page", ["nothing.html", "book/nothing.html", "book/far/away/"])
def test_wrong_address_leads_home(visit, site, page):
    """At any depth, with styles, and through links that all lead somewhere."""
    tab, wrong = visit(page)
    assert f"404: {site}/{page}" in wrong
    assert not [w for w in wrong if page not in w and "status of 404" not in w]
    links = {link.split("#")[0] for link in tab.evaluate("[...document.links].map(a => a.href)")}
    assert {f"{site}/book/index.html", f"{site}/search.html"} <= links
    ours = {link for link in links if "//127.0.0.1" in link} - {tab.url}
    assert not [link for link in ours if not tab.request.get(link).ok]


@pytest.mark.parametrize("page", MOVING)
def test_without_scripts_moving_figures_show_their_still(visit, page):
    tab, _ = visit(page, java_script_enabled=False)
    for figure in tab.locator("moving-figure").all():
        assert figure.locator(".moving-still").is_visible()


def test_the_playground_is_on_the_page_of_the_model_and_moves(visit):
    """Its numbers are tried in test_playground.py; here that the page brings script and style."""
    (page,) = PLAYGROUND
    for width in (PHONE, DESK):
        tab, wrong = visit(page, width)
        figure = tab.locator("gaussian-playground")
        radius = figure.get_by_role("slider", name="Radius")
        before = figure.locator("polyline").first.get_attribute("points")
        radius.press("End")
        assert "dropped" in figure.locator(".play-verdict").inner_text()
        assert figure.locator("polyline").first.get_attribute("points") != before
        first, second = (svg.bounding_box() for svg in figure.locator("svg").all())
        assert (first["y"] == second["y"]) == (width == DESK)
        assert not wrong


def test_above_the_first_section_the_contents_list_lights_nothing(visit):
    """Nor keeps a script of ours from lighting the section that is reached."""
    tab, _ = visit("book/01_adversarial_training.html")
    lit = tab.locator("#pst-page-toc-nav .active")
    assert not lit.count()
    for _ in range(2):
        tab.evaluate("document.querySelector('#training-against-it').scrollIntoView()")
        lit.first.wait_for(state="attached")
        tab.evaluate("scrollTo(0, 0)")
        lit.first.wait_for(state="detached")
        assert not tab.locator("#pst-page-toc-nav [aria-current]").count()


def test_the_contents_list_lights_the_section_that_a_jump_leads_into(visit):
    """The theme lights a heading only as it passes, and so leaves an old one lit."""
    tab, _ = visit("book/01_adversarial_training.html")
    names = [
        link.get_attribute("href") for link in tab.locator("#pst-page-toc-nav .toc-h2 > a").all()
    ]
    for name in (*names[-2::-1], names[1]):  # the last one is short, and lights at the page's end
        tab.evaluate(f"document.querySelector('{name}').scrollIntoView(); scrollBy(0, 60)")
        tab.locator(f"#pst-page-toc-nav a.active[href='{name}'][aria-current]").wait_for()
    tab.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    tab.locator(f"#pst-page-toc-nav a.active[href='{names[-1]}']").wait_for()


@pytest.mark.parametrize("width", [PHONE, 1440])
@pytest.mark.parametrize("page", MOVING)
def test_a_page_stays_in_place_as_its_pictures_come(visit, page, width):
    tab, _ = visit(page, width)
    moved = tab.evaluate("""() => new Promise(done => {
        const all = (list) => list.getEntries().reduce((sum, e) => sum + e.value, 0);
        new PerformanceObserver(list => done(all(list)))
            .observe({ type: 'layout-shift', buffered: true });
        setTimeout(done, 500, 0);
    })""")
    assert moved < 0.1


@pytest.mark.parametrize("page", LIVE)
def test_without_scripts_a_network_to_attack_shows_its_still(visit, page):
    tab, _ = visit(page, java_script_enabled=False)
    for figure in tab.locator("live-attack").all():
        assert figure.locator(".live-still img").is_visible()
        assert "the robust network says" in figure.locator(".live-still p").inner_text()
        assert not figure.locator("form").is_visible()


@pytest.mark.parametrize("page", LIVE)
def test_a_page_with_networks_in_it_is_still_and_weighs_less_than_1200_kB(visit, page):
    """With all that it asks for, as a server sends it, compressed; nothing moves as it comes."""
    bodies = []
    tab, _ = visit("search.html")
    tab.on("response", lambda response: bodies.append(response.body()))
    tab.goto(f"{tab.url.partition('/search')[0]}/{page}", wait_until="networkidle")
    tab.locator("live-attack[data-ready]").first.wait_for()
    assert not shifts(tab)
    assert len(bodies) > 10
    assert sum(len(gzip.compress(body)) for body in bodies) < 1_200_000
