"""The chapters keep the house rules, before they run and as they are rendered."""

import ast
import functools
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
COPY = ROOT / "_check"  # `make test` executes the book into it, and renders it
HTML = COPY / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if path.stem not in ("index", "ledger", "records_made")]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def listed(toc):
    """Every file of the table of contents."""
    if isinstance(toc, list):
        return [name for item in toc for name in listed(item)]
    if isinstance(toc, dict):
        own = [toc[key] for key in ("root", "file") if key in toc]
        return own + listed([toc.get(key) for key in ("parts", "chapters", "sections")])
    return []


PAGES = listed(yaml.safe_load((ROOT / "_toc.yml").read_text()))
each_page = pytest.mark.parametrize("page", PAGES)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_page_is_listed_and_every_listed_page_is_there():
    sources = [p for p in (ROOT / "book").glob("*") if p.suffix in (".md", ".ipynb")]
    assert sorted(PAGES) == sorted(f"book/{path.stem}" for path in sources)


def test_every_module_is_in_the_api_and_the_other_way_round():
    package = ROOT / "ccnotes"
    files = [p.relative_to(package).with_suffix("") for p in package.rglob("[!_]*.py")]
    modules = [".".join(path.parts) for path in files]
    api = "".join(path.read_text() for path in (ROOT / "book").glob("api_*.md"))
    assert sorted(re.findall(r"automodule:: ccnotes\.(\S+)", api)) == sorted(modules)


@each_notebook
def test_notebook_is_valid_and_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    for cell in code_cells(path):
        assert not cell.outputs, cell.source
        assert cell.execution_count is None, cell.source


@each_notebook
def test_setup_cell_comes_first_and_is_the_same_everywhere(path):
    first = code_cells(NOTEBOOKS[0])[0]
    setup, *others = code_cells(path)
    assert "setup" in setup.metadata.tags
    assert setup.source == first.source
    assert not [cell for cell in others if "setup" in cell.metadata.get("tags", [])]


@each_notebook
def test_cells_are_short_and_leave_the_work_to_the_package(path):
    """Imports aside. No definitions either, but for the one that ipywidgets calls."""
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        work = [line for line in lines if not line.startswith(("import ", "from "))]
        assert len(work) <= 15, cell.source
        own = re.sub(r"^@interact.*\ndef ", "", cell.source, flags=re.M)
        assert not re.search(r"sys\.path|^\s*(def|class) ", own, re.M), cell.source


@each_notebook
def test_every_static_figure_has_its_takeaway_as_a_caption(path):
    for cell in code_cells(path):
        told = cell.metadata.get("mystnb", {})
        if told.get("image", {}).get("alt"):
            caption = told.get("figure", {}).get("caption", "")
            assert re.fullmatch(r"[A-Z].{20,160}\.", caption), (path.name, caption)
            assert caption != told["image"]["alt"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_drawing_of_claims_in_a_chapter_has_its_takeaway_as_a_caption(path):
    for cell in code_cells(path):
        if re.search(r"\bcards\.(rows|measured)\(", cell.source):
            assert re.search(r", caption\)+$", cell.source), (path.name, cell.source)
            given = re.search(r"^caption = (.*?)\nHTML", cell.source, re.M | re.S)[1]
            assert re.fullmatch(r"[A-Z].{18,158}\.", ast.literal_eval(given)), (path.name, given)


GLOSSARY = (ROOT / "book/glossary.md").read_text().partition("{glossary}")[2]
TERMS = [re.sub("s$", "", term) for term in re.findall(r"^\w.*", GLOSSARY, re.M)]
LONGEST_FIRST = "|".join(sorted(TERMS, key=len, reverse=True)).replace(" ", r"\s+")
USES = re.compile(
    r"^```.*?^```|\$\$.*?\$\$|\$[^$]+\$"  # no prose: code and mathematics,
    r"|^\#[^\n]+|^:[^\n]+|^\*Reading time[^*]+"  # headings, directives, what a chapter asks for;
    r"|\{term\}`(?:[^`]*<)?(?P<linked>[^`<>]+)>?`"
    r"|`[^`]+`|\]\([^)]+\)"  # inline code, what other roles take, addresses
    rf"|\b(?P<plain>(?:{LONGEST_FIRST})s?)\b",
    re.I | re.M | re.S,
)


@each_notebook
def test_glossary_terms_are_linked_where_they_first_stand_and_only_there(path):
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    met = set()
    for use in USES.finditer(prose):
        if words := use["linked"] or use["plain"]:
            term = " ".join(words.lower().split()).rstrip("s")
            around = prose[max(use.start() - 60, 0) : use.end() + 60]
            is_so = "linked again" if use["linked"] else "not linked"
            assert bool(use["linked"]) == (term not in met), (
                f"{words!r} is {is_so} here: {around!r}\n"
                "A chapter links a term of the glossary where it first stands, and only there: "
                "{term}`term`, or {term}`as it reads <term>`."
            )
            met.add(term)


def test_the_glossary_has_a_letter_to_jump_by_for_each_first_letter():
    page = (ROOT / "book/glossary.md").read_text().partition("{glossary}")[0]
    letters = re.findall(r"^\{term\}`(\w) <(.+)>`", page, re.M)
    firsts = {}
    for term in re.findall(r"^\w.*", GLOSSARY, re.M):
        firsts.setdefault(term[0].upper(), term)
    assert letters == [*firsts.items()]


BLOCK = re.compile(r"^:{3,}\{(exercise|solution)\} *(.*)\n((?::.+\n)*)", re.M)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_has_exercises_each_with_one_folded_solution_after_it(path):
    cells = nbformat.read(path, as_version=4).cells
    blocks = BLOCK.findall("\n".join(cell.source for cell in cells))
    assert blocks
    assert [kind for kind, *_ in blocks] == ["exercise", "solution"] * (len(blocks) // 2)
    for (_, title, options), solution in zip(blocks[::2], blocks[1::2], strict=True):
        label = options.removeprefix(":label: ").strip()
        assert title, f"{label} has no title, by which the list of exercises names it"
        assert re.fullmatch(r"ex-[a-z]+-\d+", label), (
            f"{title}: {label!r} is no label like ex-own-1"
        )
        assert solution[1:] == (label, ":class: dropdown\n"), f"the solution after {label}"


SETTINGS = """import book_build
extensions, root_doc = ["myst_nb", "folding"], "a"
nb_execution_mode, nb_execution_raise_on_error, nb_execution_timeout = "cache", True, 60
def setup(app):
    app.connect("env-before-read-docs", book_build.execute)
    app.connect("source-read", book_build.with_outputs, priority=900)
"""


def test_a_build_executes_two_chapters_at_once_and_what_has_not_changed_never_again(
    tmp_path, monkeypatch
):
    """Each of two waits for the other; what fails is told with its cell."""
    (source := tmp_path / "source").mkdir()

    def write(name, *code):
        cells = [new_markdown_cell(f"# {name}"), new_code_cell("\n".join(code))]
        nbformat.write(new_notebook(cells=cells), source / f"{name}.ipynb")

    def build():
        with docutils_namespace():
            Sphinx(*[source] * 2, *[tmp_path / "built/html"] * 2, "dummy", status=None).build()

    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    (source / "conf.py").write_text(SETTINGS)
    for mine, other in ("ab", "ba"):
        begun = f"Path('{mine}').open('a').write('begun ')"
        meet = f"while not Path('{other}').exists(): time.sleep(0.05)"
        write(mine, "import time", "from pathlib import Path", begun, meet, "print('met')")
    build()
    for name in "ab":  # from which the plain notebooks are made
        (cell,) = code_cells(tmp_path / f"built/jupyter_execute/{name}.ipynb")
        assert cell.outputs[0].text == "met\n"
    write("b", "1 / 0")
    with pytest.raises(ExtensionError, match=r"(?s)b\.ipynb: .*1 / 0.*ZeroDivisionError"):
        build()
    assert [(source / name).read_text() for name in "ab"] == ["begun "] * 2


class Tags(HTMLParser):
    """The attributes of every tag, by the tag's name."""

    def __init__(self, page):
        super().__init__()
        self.found = {}
        if not (file := HTML / f"{page}.html").exists():
            pytest.skip(f"{file.relative_to(ROOT)} is not there: `make test` makes it")
        self.feed(file.read_text())

    def handle_starttag(self, tag, attributes):
        self.found.setdefault(tag, []).append(dict(attributes))


parsed = functools.cache(Tags)  # since a page of a megabyte takes a second


def tagged(page, name):
    """The attributes of every tag of one name."""
    return parsed(page).found.get(name, [])


@pytest.mark.rendered
@each_notebook
def test_executed_without_errors_or_warnings(path):
    if not (executed := COPY / "book" / path.name).exists():
        pytest.skip(f"{executed.relative_to(ROOT)} is not there: `make test` makes it")
    for cell in code_cells(executed):
        assert cell.execution_count or not cell.source.strip(), f"not executed:\n{cell.source}"
        for output in cell.outputs:
            assert output.output_type != "error", f"{output.evalue}\nin\n{cell.source}"
            if output.get("name") == "stderr":
                assert "Warning" not in output.text, f"{output.text}\nfrom\n{cell.source}"


@pytest.mark.rendered
@each_page
def test_every_picture_has_a_text(page):
    for image in tagged(page, "img"):
        text = image.get("alt")
        assert text is not None, image["src"][:80]
        assert not re.search(r"\.(png|svg|jpe?g)$|^[0-9a-f]{32}", text), (
            f"the text of a picture is a file name, {text}: give its cell the metadata "
            '"mystnb": {"image": {"alt": "what it shows"}}'
        )


@pytest.mark.rendered
@each_page
def test_figures_are_sharp_at_any_size(page):
    drawn = [image["src"] for image in tagged(page, "img") if "/_images/" in image["src"]]
    assert all(source.endswith(".svg") for source in drawn), drawn


@functools.cache
def places(file):
    return set(re.findall(r'\b(?:id|name)="([^"]*)"', file.read_text()))


@pytest.mark.rendered
@each_page
def test_no_link_into_the_book_leads_nowhere(page):
    """Neither to a page nor to a place on it that is not there. Other hosts are not asked."""
    for href in {a.get("href", "") for a in tagged(page, "a")}:
        address = urlsplit(href)
        if address.scheme or address.netloc or not href or href == "#":
            continue
        source = HTML / f"{page}.html"
        target = (source.parent / unquote(address.path)).resolve() if address.path else source
        assert target.is_file(), f"{page} links to {href}"
        if address.fragment and target.suffix == ".html":
            assert unquote(address.fragment) in places(target), f"{page} links to {href}"


@pytest.mark.rendered
def test_the_list_of_exercises_links_each_exactly_once():
    there = [
        f"{page.removeprefix('book/')}.html#{div['id']}"
        for page in PAGES
        for div in tagged(page, "div")
        if "exercise" in (div.get("class") or "").split()
    ]
    links = [a.get("href", "") for a in tagged("book/exercises", "a")]
    assert there
    assert sorted(link for link in links if "#ex-" in link) == sorted(there)


class InSight(HTMLParser):
    """The text of a page's article that is not folded away, and the code that is or is not."""

    def __init__(self, page):
        super().__init__()
        self.folded, self.open, self.text, self.code, self.names = 0, [], "", [], []
        if not (file := HTML / f"{page}.html").exists():
            pytest.skip(f"{file.relative_to(ROOT)} is not there: `make test` makes it")
        self.feed(file.read_text().partition("<article")[2])

    def handle_starttag(self, tag, attributes):
        if tag == "details":
            self.folded += 1
        if tag in ("pre", "summary", "script", "style"):
            self.open.append(tag)
            (self.code if tag == "pre" else self.names).append([self.folded, ""])

    def handle_endtag(self, tag):
        self.folded -= tag == "details"
        if tag in self.open:
            self.open.remove(tag)

    def handle_data(self, data):
        if self.open:
            (self.code if self.open[-1] == "pre" else self.names)[-1][1] += data
        elif not self.folded:
            self.text += data


INTERVAL = re.compile(r"[-−+]?\d[\d,]*\.?\d*%? to [-−+]?\d")


@pytest.mark.rendered
@each_page
def test_figures_are_numbered_without_a_gap(page):
    text = (HTML / f"{page}.html").read_text() if tagged(page, "html") else ""
    found = re.findall(
        r'<span class="caption-number">Fig\. [\d.]*?(\d+) </span><span class="caption-text">', text
    )
    assert [*map(int, found)] == [*range(1, len(found) + 1)]


@pytest.mark.rendered
@each_page
def test_at_most_thirty_intervals_are_in_sight(page):
    """Figures show them; numbers fold out below."""
    seen = InSight(page)
    assert len(seen.text) > 300
    assert len(INTERVAL.findall(seen.text)) <= 30


@pytest.mark.rendered
def test_chapters_print_intervals_at_all():
    """In the form that the test above counts."""
    assert INTERVAL.search(InSight("book/01_adversarial_training").text)


@pytest.mark.rendered
@each_notebook
def test_plumbing_is_folded_and_what_a_chapter_is_about_is_open(path):
    """Read from the page: no imports in sight, no attack, training or attribution folded."""
    seen = InSight(f"book/{path.stem}")
    for folded, code in seen.code:
        if not folded:
            prose = path.stem == "index"  # which shows in its text how to begin
            assert prose or not code.startswith(("import ", "from ", "try:")), code
            assert not re.match(r"(plt|plots|figure|moving|explorers)\b", code), code
        else:
            assert not re.search(r"\bpgd\(|\.backward\(|\bclass_attribution\(", code), code


@pytest.mark.rendered
@each_page
def test_pages_are_light(page):
    """2.5 MB with their pictures, the scripts that all pages share left out."""
    sources = {image["src"] for image in tagged(page, "img")}
    files = [HTML / f"{page}.html"]
    files += [(files[0].parent / s).resolve() for s in sources if not s.startswith("data:")]
    assert sum(file.stat().st_size for file in files) < 2_500_000


@pytest.mark.rendered
@each_page
def test_preview_elsewhere_shows_title_first_words_and_picture(page):
    found = tagged(page, "meta")
    tags = {tag.get("property", tag.get("name")): tag.get("content") for tag in found}
    owner, name = REPOSITORY.split("/")[-2:]
    site = f"https://{owner.lower()}.github.io/{name}/"
    assert tags["og:url"] == f"{site}{page}.html"
    picture = tags["og:image"].removeprefix(site)
    assert Image.open(HTML / picture).size == (1200, 630)
    assert tags["og:title"]
    assert 40 < len(tags["og:description"]) <= 200
    assert "Reading time" not in tags["og:description"]
    assert tags["description"] == tags["og:description"]


@pytest.mark.rendered
@each_page
def test_links_to_colab_open_plain_notebooks_that_are_published(page):
    """CI puts them on the branch ``notebooks``, below the tag; see test_outside.py."""
    links = [a.get("href", "") for a in tagged(page, "a")]
    launch = [unquote(link) for link in links if "colab.research.google.com" in link]
    assert bool(launch) == (ROOT / f"{page}.ipynb").exists()
    for link in launch:
        assert (HTML / "notebooks" / link.split("/blob/notebooks/v")[1].split("/")[1]).is_file()


@pytest.mark.rendered
@each_page
def test_pages_without_a_formula_do_without_mathjax(page):
    text = (HTML / f"{page}.html").read_text() if tagged(page, "html") else ""
    assert ("mathjax/tex-chtml.js" in text) == ('class="math' in text)


@pytest.mark.rendered
@each_page
def test_terms_say_on_hover_what_they_mean(page):
    """In one sentence, without the source of a formula."""
    for link in tagged(page, "a"):
        if "glossary.html#term-" in link.get("href", "") and page != "book/glossary":
            assert 20 < len(link["title"]) < 300, link
            assert not re.search(r"[\\{}]|\w\.\s+[A-Z]", link["title"]), link
            if link["href"].endswith("#term-class-specific-feature"):
                assert link["title"] == "A feature that a single class has: the cabin of a car."


@pytest.mark.rendered
@each_page
def test_every_page_links_the_book_as_one_pdf(page):
    owner, name = REPOSITORY.split("/")[-2:]
    pdf = f"https://{owner.lower()}.github.io/{name}/ccnotes.pdf"
    assert pdf in [a.get("href") for a in tagged(page, "a")]
    assert "_build/ccnotes.pdf _build/html/" in (ROOT / ".github/workflows/pages.yml").read_text()


@pytest.mark.rendered
def test_the_root_has_title_and_card_and_leads_to_the_book():
    tags = {t.get("property", t.get("name")): t.get("content") for t in tagged("index", "meta")}
    first = {
        t.get("property", t.get("name")): t.get("content") for t in tagged("book/index", "meta")
    }
    for name in ("og:title", "og:description", "og:image", "og:image:alt", "twitter:card"):
        assert tags[name] == first[name]
    assert tags["og:url"] == first["og:url"].removesuffix("book/index.html")
    assert "<title>Cross-class features" in (HTML / "index.html").read_text()
    assert [a["href"] for a in tagged("index", "a")] == ["book/index.html"]


@pytest.mark.rendered
def test_the_search_knows_sections_their_places_and_no_formulas_or_code():
    if not (script := HTML / "_static/vendor/sections.js").exists():
        pytest.skip("no rendered copy: `make test` makes it")
    listed = json.loads(re.match(r"const sections = (.*);\n", script.read_text())[1])
    assert {href.split(".html")[0] for *_, href, _ in listed} >= set(PAGES)
    titles = {(page, title) for page, title, *_ in listed}
    assert ("A model you can solve", "Three classes, six features") in titles
    assert ("Glossary", "perturbation ball") in titles
    assert ("Networks, attacks and measures", "pgd") in titles
    for _, title, href, text in listed:
        page, _, place = href.partition("#")
        assert (HTML / page).is_file(), href
        assert not place or place in places(HTML / page), href
        assert title, href
        assert not re.search(r"\\[a-z]{3}|^import |>>>|\b0\d_[a-z]+_", text), f"{href}: {text}"
