"""What helps readers find their way: terms explained in place, search by section, a first page."""

import html
import json
import posixpath
import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

NO_WORDS = (nodes.math_block, nodes.literal_block, nodes.doctest_block, nodes.raw, nodes.comment)
NO_WORDS += (nodes.title, addnodes.desc_signature, addnodes.toctree, addnodes.index)

CODE = (nodes.literal, nodes.literal_block, nodes.doctest_block, nodes.raw, nodes.comment)


def is_place(node):
    """Whether a node is a section with a title, a term, or a function of the package."""
    if isinstance(node, nodes.section):
        return isinstance(node.next_node(), nodes.title)
    term = isinstance(node, nodes.definition_list_item) and node[0]["ids"]
    return term or isinstance(node, addnodes.desc)


def words(node, titles):
    """The text below a node, less formulas, code, and what stands in a section of its own.

    ``titles`` are the pages'; other references without words of their own have theirs only later.
    """
    if isinstance(node, nodes.Text):
        return str(node)
    if isinstance(node, addnodes.pending_xref) and not node.get("refexplicit"):
        page = posixpath.join(posixpath.dirname(node.get("refdoc", "")), node["reftarget"])
        if node["reftype"] == "doc" and page in titles:
            return titles[page].astext()
        if node["refdomain"] in ("std", "prf", "cite") and node["reftype"] != "term":
            return "…"
    if isinstance(node, nodes.math):
        return "…"
    inner = (n for n in node.children if not (isinstance(n, NO_WORDS) or is_place(n)))
    space = "" if isinstance(node, nodes.TextElement | nodes.Inline) else " "
    return space + space.join(words(inside, titles) for inside in inner) + space


def sections(env):
    """Page, title, address and text of every section, and of every function of the package."""
    for page in sorted(env.found_docs):
        name = env.titles[page].astext()
        for part in env.get_doctree(page).findall(is_place):
            head = part if isinstance(part, nodes.section) else part[0]
            title = head.get("fullname") or part[0].astext()
            body = part[-1] if isinstance(head, nodes.term) else part
            place = f"#{head['ids'][0]}" if head["ids"] and name != title else ""
            yield name, title, f"{page}.html{place}", " ".join(words(body, env.titles).split())


def write_index(app, error):
    """The sections' words, and the script that searches them in place of Sphinx's pages."""
    if error or app.builder.format != "html":
        return
    listed = json.dumps([*sections(app.env)], ensure_ascii=False)
    script = (Path(__file__).parent / "search.js").read_text()
    # Not in _static itself, whose scripts Jupyter Book links on every page.
    target = Path(app.outdir, "_static/vendor/sections.js")
    target.parent.mkdir(exist_ok=True)
    target.write_text(f"const sections = {listed};\n{script}")
    page = Path(app.outdir, "search.html")
    page.write_text(
        re.sub(r'"searchindex\.js[^"]*"', '"_static/vendor/sections.js"', page.read_text())
    )


def explained(env):
    """The first sentence of each term's definition, by its place in the glossary.

    Without citations; from a formula on it would be no plain text, so there it stops.
    """
    for item in env.get_doctree("book/glossary").findall(nodes.definition_list_item):
        said = "".join(
            part.astext() if not isinstance(part, nodes.math) else symbols(part.astext())
            for part in item[-1][0].children
            if not (isinstance(part, addnodes.pending_xref) and part["refdomain"] == "cite")
        )
        first = re.split(r"(?<=\.)\s+(?=[A-Z])", re.sub(r"\s+(?=[.,:;])", "", said))[0]
        for term in item.findall(nodes.term):
            yield term["ids"][0], " ".join(first.split())


SYMBOLS = {r"\varepsilon": "ε", r"\ell": "ℓ", r"\infty": "∞", r"\sum": "Σ", r"\neq": "≠"}
SYMBOLS |= {r"\dots": "…", r"\max": "max", r"\cos": "cos", r"\mathrm": "", "{": "", "}": ""}


def symbols(formula):
    """A short formula in plain characters: those of the glossary's first sentences."""
    formula = re.sub(r"_\{([^{}]*)\}", lambda found: f"_{found[1].replace(' ', '')}", formula)
    for tex, plain in SYMBOLS.items():
        formula = formula.replace(tex, plain)
    return formula


def explain_terms(app, doctree, page):
    """Every link to a term says what it means, in place (_static/terms.js)."""
    meaning = dict(explained(app.env))
    for link in doctree.findall(nodes.reference):
        target, _, place = link.get("refuri", "").partition("#")
        if target.endswith("glossary.html") and place in meaning:
            link["reftitle"] = meaning[place]
            link["classes"].append("term")


def keep_percents(app, doctree, page):
    """No line breaks between a number and its percent sign."""
    for text in [*doctree.findall(nodes.Text)]:
        if " %" in text and not isinstance(text.parent, CODE):
            kept = re.sub(r"(?<=[\d)]) %", "\u00a0%", text)
            text.parent.replace(text, nodes.Text(kept))


def fit_tables(app, doctree, page):
    """Marks what phones show otherwise (ccnotes.css): columns of words, and tables of texts.

    Rows of such a table, of three columns or more, become cards, in which each text has the name of
    its column.
    """
    for table in doctree.findall(nodes.tgroup):
        head, *rows = (row.children for row in table.findall(nodes.row))
        longest = [
            max(len(entry.astext()) for entry in of) for of in zip(head, *rows, strict=False)
        ]
        if len(head) > 2 and max(longest) > 100:
            table.parent["classes"].append("as-cards")
            for row in rows:
                for name, entry in [*zip(head, row, strict=False)][1:]:
                    if entry.astext():
                        entry.insert(0, nodes.inline("", name.astext(), classes=["column-name"]))
            continue
        for entries in (head, *rows):
            for entry, letters in zip(entries, longest, strict=False):
                if letters > 16:
                    entry["classes"].append("many-words" if letters > 40 else "words")


FIRST = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{meta}
<link rel="canonical" href="{site}{first}">
<link rel="icon" href="_static/favicon.svg">
<meta http-equiv="refresh" content="0; url={first}">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1.1rem/1.6 sans-serif; max-width: 34rem; margin: 15vh auto; padding: 1rem }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><a href="{first}">Read the book</a></p>
</body>
</html>
"""


def write_first_page(app, error):
    """The root leads to the book, and previews of links to it elsewhere show title and picture."""
    if error or app.builder.format != "html":
        return
    first, site = f"{app.config.root_doc}.html", app.config.html_baseurl
    tags = re.findall(
        r'<meta (?:property="og:|name="(?:twitter|description))[^>]*>',
        Path(app.outdir, first).read_text(),
    )
    meta = "\n".join(tags).replace(f'content="{site}{first}"', f'content="{site}"')
    title = html.escape(app.config.html_title)
    Path(app.outdir, "index.html").write_text(
        FIRST.format(title=title, meta=meta, site=site, first=first)
    )


def setup(app):
    app.connect("doctree-resolved", explain_terms)
    app.connect("doctree-resolved", keep_percents)
    app.connect("doctree-resolved", fit_tables)
    app.connect("build-finished", write_index, priority=900)
    app.connect("build-finished", write_first_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
