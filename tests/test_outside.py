"""Notebooks as GitHub and Colab show them, and figures in dark mode: what book/_ext makes."""

import base64
import importlib.util
import io
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from ccnotes import page
from ccnotes.cards import rows
from ccnotes.verdicts import Claim, judgements

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_check" / "_build" / "html"
NOTEBOOKS = sorted(path.name for path in (ROOT / "book").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


sys.path.append(str(ROOT / "book/_ext"))  # whose files find each other, as in a build


def extension(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"book/_ext/{name}.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


plain, dark, narrow = extension("plain"), extension("dark"), extension("narrow")
CITED = {"a": "Ann et al., 2020", "b": "Bob, Jr., 2021"}


def link(role, target):
    """Of everything a text and an address."""
    return CITED.get(target, target.upper()), f"https://x/{role}#{target}"


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("a {term}`ball <perturbation\nball>`.", "a [ball](https://x/term#perturbation ball)."),
        ("{prf:ref}`both` and {func}`~f.g`", "[BOTH](https://x/prf:ref#both) and [~F.G](https://x/func#~f.g)"),
        ("{cite:t}`a` say", "[Ann et al. (2020)](https://x/cite#a) say"),
        ("so {cite:p}`a, b`.", "so ([Ann et al., 2020](https://x/cite#a); [Bob, Jr., 2021](https://x/cite#b))."),
        ("{math}`x^2` {code}`y`", "$x^2$ `y`"),
        ("(here)=\n## Here\n% unseen\n{.wide}\ntext", "## Here\ntext"),
        ("[p](predictions.md#q)", "[p](https://x/page#predictions.md#q)"),
        ("```python\n{a}`b`\n:::{note}\n```", "```python\n{a}`b`\n:::{note}\n```"),
        ("```{code-block} python\n:name: z\nx = {1}\n```", "```python\nx = {1}\n```"),
        (
            ":::{exercise} Half\n:label: ex-1\nIs {term}`a`?\n:::",
            "#### EX-1 (Half)\n\nIs [Ann et al., 2020](https://x/term#a)?",
        ),
        (
            ":::{solution} ex-1\n:class: dropdown\nYes.\n\n```python\n1\n```\n:::",
            "<details>\n<summary><b>Solution</b></summary>\n\nYes.\n\n```python\n1\n```\n\n</details>",
        ),
        (
            "::::{dropdown} a < b\nx\n\n:::{note}\nInside.\n:::\n::::\nafter",
            "<details>\n<summary><b>a &lt; b</b></summary>\n\nx\n\n"
            "> **Note**\n>\n> Inside.\n\n</details>\nafter",
        ),
        (":::{prf:theorem} Two\nBody\n:::", "#### Theorem (Two)\n\nBody"),
        ("::::{grid} 1 3\n:gutter: 2\n\n:::{grid-item}\none\n:::\n::::", "one"),
        ("```{button-ref} z\n:ref-type: ref\nGo\n```", "[**Go**](https://x/ref#z)"),
        ("```{button-link} https://y\nGo\n```", "[**Go**](https://y)"),
        ("```{figure} p.png\n:alt: A cat\nCaption\n```", "![A cat](https://x/image#p.png)\n\nCaption"),
        (
            ":::{grid-item-card} Rise\n:link: z\n:img-top: p.png\n:img-alt: A cat\n\nUp.\n:::",
            "![A cat](https://x/image#p.png)\n\n[**Rise**](https://x/doc#z): Up.",
        ),
        ("$$\n\\{x\\}\n$$", "$$\n\\{x\\}\n$$"),
    ],
)  # fmt: skip
def test_roles_and_directives_become_plain_markdown(source, wanted):
    assert plain.plain(source, link) == wanted


def test_a_directive_without_a_plain_form_is_refused():
    with pytest.raises(ValueError, match=r"^The directive \{mermaid\} has no plain form"):
        plain.plain("```{mermaid}\nx\n```", link)


def test_a_plain_notebook_has_outputs_that_need_no_book_and_hides_the_code_that_the_page_hides():
    new = nbformat.v4
    picture = '<img src="data:image/png;base64,QUJD">'
    still = f"<moving-figure>{picture}<script>{{}}</script></moving-figure>"
    outputs = [
        new.new_output("stream", name="stderr", text="80 %"),
        new.new_output("display_data", {"text/html": still, "text/plain": "<Chart>"}),
        new.new_output("display_data", {"text/markdown": "See {doc}`z`."}),
        new.new_output("display_data", {"text/html": "<b>kept</b>"}),
        new.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}),
    ]
    cells = [
        new.new_markdown_cell("# Title\n\nText"),
        new.new_code_cell("plots.curves(x)", outputs=outputs),
        new.new_code_cell("cas(x)", outputs=outputs, metadata={"tags": ["remove-output"]}),
    ]
    book = new.new_notebook(cells=cells, metadata={"widgets": {"state": 1}})
    copy = plain.notebook(book, link, "*Note*")
    nbformat.validate(copy)
    assert "widgets" not in copy.metadata
    title, shown, silent = copy.cells
    assert title.source == "# Title\n\n*Note*\n\nText"
    assert shown.metadata.cellView == "form"
    assert shown.metadata.jupyter["source_hidden"]
    assert [output.data for output in shown.outputs] == [
        {"image/png": "QUJD", "text/plain": "<Chart>"},
        {"text/markdown": "See [Z](https://x/doc#z)."},
        {"text/html": "<b>kept</b>"},
    ]
    assert not silent.outputs
    assert "cellView" not in silent.metadata


def test_a_plain_notebook_has_the_captions_of_figures_below_them():
    new = nbformat.v4
    figure = {"mystnb": {"figure": {"caption": "It falls."}}}
    picture = '<img src="data:image/png;base64,QUJD"><figcaption>Now &amp; then.</figcaption>'
    moves = {"text/html": f"<moving-figure>{picture}</moving-figure>"}
    claims = {"text/html": rows(judgements([Claim("it falls", "accuracy", [0.1])]), "One & all.")}
    cells = [
        new.new_markdown_cell("# Title"),
        new.new_code_cell("plots.curves(x)", metadata=figure, id="falls"),
        new.new_code_cell("moving.x()", outputs=[new.new_output("display_data", moves)]),
        new.new_code_cell("cards.rows()", outputs=[new.new_output("display_data", claims)]),
        new.new_code_cell("cas(x)"),
    ]
    copy = plain.notebook(new.new_notebook(cells=cells), link, "*Note*")
    nbformat.validate(copy)
    told = ["plots.curves(x)", "*It falls.*", "moving.x()", "*Now & then.*"]
    told += ["cards.rows()", "*One & all.*", "cas(x)"]
    assert [cell.source for cell in copy.cells[1:]] == told
    assert "it falls" in copy.cells[5].outputs[0].data["text/html"]
    assert "One &amp; all." not in copy.cells[5].outputs[0].data["text/html"]  # not twice
    assert copy.cells[2].id == "falls-caption"


SVG = '<svg xmlns="http://www.w3.org/2000/svg">{}</svg>'
GROUND = '<g id="patch_2"><path d="M 0 0 L 9 0 L 9 9 z" style="fill: #ffffff"/></g>'
PANEL = f'<g id="axes_1">{GROUND}{{}}</g>'
SAID = '<g id="text_{}"><g style="fill: {}" transform="translate({}) scale(0.1 -0.1)"/></g>'


def test_in_dark_mode_white_is_the_page_black_its_ink_and_colours_stay():
    lines = "".join(f'<path style="stroke: {c}"/>' for c in ("#ffffff", "#000000", "#2a7fc4"))
    turned = re.findall(r"stroke: (#\w+)", dark.darkened(SVG.format(lines)))
    assert turned == ["#121212", "#ced6dd", "#2a7fc4"]


def test_in_dark_mode_heat_maps_and_what_is_written_on_them_stay():
    """What stands above the panel, its title, does not."""
    mesh = '<g id="QuadMesh_1"><path style="fill: #f7f7f7"/></g>'
    written = mesh + SAID.format(1, "#262626", "4 5") + SAID.format(2, "#262626", "4 -3")
    turned = dark.darkened(SVG.format(PANEL.format(written)))
    fills = re.findall(r"fill: (#\w+)", turned)
    assert fills[:3] == ["#121212", "#f7f7f7", "#262626"]
    assert fills[3] not in ("#262626", "#121212")
    alone = SAID.format(1, "#262626", "4 5")
    assert "#262626" not in dark.darkened(SVG.format(PANEL.format(alone)))


def picture_of(colours):
    """One row of pixels as matplotlib writes it."""
    data = io.BytesIO()
    Image.fromarray(np.uint8([colours])).save(data, "png")
    code = base64.b64encode(data.getvalue()).decode()
    link = 'xmlns:xlink="http://www.w3.org/1999/xlink" xlink:href="data:image/png;base64,'
    return f'<image {link}{code}"/>'


def pixels(svg):
    code = re.search('base64,([^"]*)', svg)[1]
    return np.array(Image.open(io.BytesIO(base64.b64decode(code))))[0, :, :3].tolist()


@pytest.mark.parametrize("name", ["RdBu_r", "Blues", "Oranges"])
def test_in_dark_mode_a_heat_map_of_known_colours_goes_through_the_ground(name):
    """As cells, with white numbers, and as a picture; 0 is dark, and the top is told from it."""
    steps = colormaps[name](np.arange(256), bytes=True)  # truncated, as pictures have them
    zero = 128 if name == "RdBu_r" else 0
    cells = "".join(f'<path style="fill: {to_hex(c / 255)}"/>' for c in steps[[zero, 255]])
    mesh = f'<g id="QuadMesh_1">{cells}</g>' + SAID.format(1, "#262626", "4 5")
    turned = dark.darkened(SVG.format(PANEL.format(mesh)))
    low, high, number = re.findall(r"fill: (#\w+)", turned)[1:]
    assert max(int(low[i : i + 2], 16) for i in (1, 3, 5)) < 48
    assert max(int(high[i : i + 2], 16) for i in (1, 3, 5)) > 180
    assert number == "#ffffff"
    drawn = pixels(dark.darkened(SVG.format(PANEL.format(picture_of(steps)))))
    assert [to_hex(np.array(drawn[i]) / 255) for i in (zero, 255)] == [low, high]


def test_in_dark_mode_a_picture_of_other_colours_stays_as_it_is():
    seen = [[200, 40, 90, 255], [247, 251, 255, 255]]  # the second is a colour of "Blues"
    drawn = dark.darkened(SVG.format(PANEL.format(picture_of(seen))))
    assert pixels(drawn) == [colour[:3] for colour in seen]


def test_a_drawing_for_phones_inside_a_figure_is_taken_out_of_it():
    figure = plt.figure(figsize=(8, 3))
    figure.subplots()
    svg, small = narrow.apart(page.drawn(figure))
    assert "metadata id=" not in svg
    assert svg.endswith("</svg>\n")
    sizes = [float(ElementTree.fromstring(s).get("viewBox").split()[2]) for s in (small, svg)]
    assert sizes[0] < 0.6 * sizes[1]
    assert narrow.apart(svg) == (svg, None)


def test_a_figure_has_two_drawings_with_one_text_and_scripts_are_needed_for_the_dark_one_alone():
    html = '<p><img alt="A <b>" class="wide" src="../_images/a1.svg" /></p>'
    both = dark.IMAGE.sub(dark.twin, html.replace("<b>", "curve"))
    light, dim = re.findall("<img[^>]*>", both)
    assert 'class="wide only-light" src="../_images/a1.svg"' in light
    assert 'class="wide only-dark pst-js-only" src="../_images/a1-dark.svg"' in dim
    assert 'loading="lazy"' in dim
    assert both.count('alt="A curve"') == 2


def written(name):
    if not (path := HTML / "notebooks" / name).exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not there: `make test` makes it")
    return nbformat.read(path, as_version=4)


def texts(book):
    for cell in book.cells:
        if cell.cell_type == "markdown":
            yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("data", {}).get("text/markdown", "")


@pytest.mark.rendered
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_plain_notebook_shows_a_role_or_a_directive(name):
    """By the book's own parser: what it takes for a role, a directive or a target is raw."""
    from myst_parser.config.main import MdParserConfig
    from myst_parser.mdit_to_docutils.base import DocutilsRenderer
    from myst_parser.parsers.mdit import create_md_parser

    parser = create_md_parser(
        MdParserConfig(enable_extensions={"colon_fence", "dollarmath", "attrs_block"}),
        DocutilsRenderer,
    )
    book = written(name)
    nbformat.validate(book)
    assert any(cell.get("outputs") for cell in book.cells)
    for text in texts(book):
        tokens = parser.parse(text)
        tokens += [child for token in tokens for child in token.children or ()]
        for token in tokens:
            raw = token.type in ("myst_role", "myst_target", "myst_block_break", "colon_fence")
            assert not raw, token
            assert not (token.type == "fence" and token.info.startswith("{")), token
        assert not re.search(r"\{[\w:-]+\}`|:::|^[`~]{3,}\{", text, re.M), text
    for cell in book.cells:
        for output in cell.get("outputs", []):
            assert "<moving-figure" not in str(output)
            assert "vnd.jupyter.widget" not in str(output.get("data", {}).keys())


@pytest.mark.rendered
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_of_plain_notebooks_lead_to_pages_and_places_that_are_there(name):
    owner, repo = PROJECT["urls"]["Repository"].split("/")[-2:]
    site = f"https://{owner.lower()}.github.io/{repo}/"
    links = [url for text in texts(written(name)) for url in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert any(url.startswith(site) for url in links)
    for url in links:
        assert url.startswith(("https://", "http://")), f"{name} links to {url}"
        if url.startswith(site):
            page, _, place = url.removeprefix(site).partition("#")
            assert (HTML / page).is_file(), url
            places = re.findall(r'\b(?:id|name)="([^"]*)"', (HTML / page).read_text())
            assert not place or place in places, url


@pytest.mark.rendered
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_to_plain_notebooks_name_the_tag_that_their_first_cell_installs(name):
    """On the page below the title and among the buttons, and in the notebook itself."""
    book, repository = written(name), PROJECT["urls"]["Repository"]
    installed = re.search(r"git\+(\S+)@(v[\d.]+)", "".join(c.source for c in book.cells))
    assert installed.groups() == (repository, f"v{PROJECT['version']}")
    path = f"{repository.removeprefix('https://github.com/')}/blob/notebooks/{installed[2]}/{name}"
    colab, github = f"https://colab.research.google.com/github/{path}", f"https://github.com/{path}"
    page = (HTML / "book" / name).with_suffix(".html").read_text()
    below = re.search(r'</h1>\s*<p class="outside">(.*?)</p>', page, re.S)[1]
    assert re.findall('href="([^"]*)"', below) == [colab, github]
    assert page.count(f'href="{colab}"') >= 2
    assert f'href="../notebooks/{name}"' in page
    assert f"]({colab})" in book.cells[0].source
    readme = (HTML / "notebooks/README.md").read_text()
    assert f"]({name})" in readme
    assert f"]({colab})" in readme


def test_a_build_after_a_build_keeps_the_drawing_that_a_figure_brought_for_phones(tmp_path):
    (tmp_path / "_images").mkdir()
    figure, small = plt.subplots(1, 2, figsize=(9, 3))[0], Figure(figsize=(page.PHONE, 5))
    small.text(0.1, 0.5, "on a phone")
    (tmp_path / "_images/own.svg").write_text(page.drawn(page.on_phones(figure, small)))
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    for _ in range(2):
        narrow.draw(app, None)
        assert "on a phone" in (tmp_path / "_images/own-narrow.svg").read_text()
        assert "metadata id=" not in (tmp_path / "_images/own.svg").read_text()


def test_a_page_shows_the_column_on_phones_alone(tmp_path):
    (tmp_path / "_images").mkdir()
    two, one = tmp_path / "_images/two.svg", tmp_path / "_images/one.svg"
    two.write_text(page.drawn(plt.subplots(1, 2, figsize=(9, 3))[0]))
    one.write_text(page.drawn(plt.subplots(figsize=(4, 3))[0]))
    shown = tmp_path / "a.html"
    shown.write_text(
        '<img src="_images/two.svg"/><img src="_images/two-dark.svg"/><img src="_images/one.svg"/>'
    )
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    narrow.draw(app, None)
    once = shown.read_text()
    sources = re.findall(
        r'<picture><source media="([^"]*)"[^>]* srcset="([^"]*)"><img[^>]* src="([^"]*)"', once
    )
    assert [found[1:] for found in sources] == [
        ("_images/two-narrow.svg", "_images/two.svg"),
        ("_images/two-narrow-dark.svg", "_images/two-dark.svg"),
    ]
    assert {found[0] for found in sources} == {"screen and (max-width: 600px)"}
    for size, path in re.findall(r'width="(\d+)" height="\d+"[^>]* src(?:set)?="([^"]*)"', once):
        drawn = ElementTree.parse(tmp_path / path.replace("-dark", "")).getroot()
        assert int(size) == round(float(drawn.get("width").removesuffix("pt")) * 4 / 3)
    assert once.count(" height=") == 5  # each drawing says how much room it takes
    narrow.draw(app, None)  # a build after a build
    assert shown.read_text() == once
