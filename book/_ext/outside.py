"""The book outside the book: plain notebooks with outputs, and the links that open them.

``make notebooks`` writes them, and so does every build, to ``notebooks/`` beside the pages; of a
tag ``v...`` CI also puts them on the branch ``notebooks``, in a folder of the tag's name. The same
tag is what their first cell installs.
"""

import posixpath
import re
from importlib.metadata import version
from pathlib import Path

import nbformat
from plain import notebook
from sphinx.errors import ExtensionError

BRANCH, TAG = "notebooks", f"v{version('ccnotes')}"


def opened_by(app, page):
    """Where Colab and GitHub open a page's plain notebook."""
    repository = app.config.html_theme_options["repository_url"]
    path = f"blob/{BRANCH}/{TAG}/{posixpath.basename(page)}.ipynb"
    colab = "https://colab.research.google.com/github/"
    return f"{repository.replace('https://github.com/', colab)}/{path}", f"{repository}/{path}"


def link_from_the_page(app, pagename, templatename, context, doctree):
    """Below the title and among the buttons above it; the PDF among what can be downloaded."""
    groups = {
        group["label"]: group["buttons"]
        for group in context.get("header_buttons", [])
        if group["type"] == "group"
    }
    pdf = {"type": "link", "text": "whole book, .pdf", "icon": "fas fa-book"}
    pdf |= {"url": f"{app.config.html_baseurl}ccnotes.pdf", "tooltip": "All pages in one file"}
    groups.get("download-buttons", []).append(pdf | {"label": "download-book-button"})
    if not app.env.doc2path(pagename).endswith(".ipynb"):
        return
    colab, github = opened_by(app, pagename)
    local = f"{context['pathto']('notebooks', 1)}/{posixpath.basename(pagename)}.ipynb"
    for button in (button for buttons in groups.values() for button in buttons):
        if button.get("label") == "download-source-button":
            button["url"] = local
        elif button["text"] == "Colab":
            button["url"] = colab
    links = f'<a href="{colab}">Run in Colab</a> <a href="{github}">Read on GitHub</a>'
    context["body"] = context["body"].replace("</h1>", f'</h1>\n<p class="outside">{links}</p>', 1)


def named(app):
    """Text and address of all that roles name, by kind and name."""
    env, found = app.env, {}

    def keep(kind, name, text, page, place=""):
        uri = app.config.html_baseurl + app.builder.get_target_uri(page)
        found[kind, name] = text, f"{uri}#{place}" if place else uri

    for name, shown, kind, page, place, _ in env.get_domain("std").get_objects():
        if kind == "doc":
            keep("doc", name, env.titles[page].astext(), page)
        else:
            keep(kind, name.lower(), shown, page, place)
    for name, _, _, page, place, _ in env.get_domain("py").get_objects():
        keep("py", name, f"`{name}`", page, place)
    for page, kinds in env.toc_fignumbers.items():  # "Theorem 2.3" rather than its title
        for kind, numbers in kinds.items():
            for label, number in numbers.items():
                text = f"{kind.capitalize()} {'.'.join(map(str, number))}"
                keep("label", label.lower(), text, page, label)
    for cited in env.get_domain("cite").citations:
        people = [" ".join(p.prelast_names + p.last_names) for p in cited.entry.persons["author"]]
        names = " and ".join(people) if len(people) < 3 else f"{people[0]} et al."
        text = f"{names}, {cited.entry.fields['year']}"
        keep("cite", cited.key, text, cited.bibliography_key.docname, cited.citation_id)
    return found


KINDS = {"term": "term", "doc": "doc", "page": "doc", "ref": "label", "numref": "label"}
KINDS |= {"prf:ref": "label", "cite": "cite"}
KINDS |= dict.fromkeys(["func", "class", "mod", "meth", "attr", "exc", "data"], "py")


def links_of(app, page, found):
    """What :func:`plain.plain` asks for, on one page."""

    def link(role, target):
        if role == "image":
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            name = app.env.images[path][1] if path in app.env.images else ""
            text, url = "", f"{app.config.html_baseurl}_images/{name}" if name else ""
        else:
            kind = KINDS.get(role.removeprefix("py:"))
            name, _, place = target.lstrip("~").partition("#" if role == "page" else "\0")
            if kind == "doc":
                name = posixpath.join(posixpath.dirname(page), re.sub(r"\.(md|ipynb)$", "", name))
                name = posixpath.normpath(name)
            name = name.lower() if kind in ("term", "label") else name
            text, url = found.get((kind, name), ("", ""))
            url += f"#{place}" if place else ""
            text = f"`{name.rsplit('.', 1)[-1]}`" if target.startswith("~") else text
            text = target if kind == "term" else text  # as the sentence has it
        if not url:
            raise ValueError(f"{{{role}}}`{target}` names nothing that GitHub or Colab could open.")
        return text, url

    return link


def write_notebooks(app, error):
    if error or app.builder.format != "html":
        return
    found, executed = named(app), Path(app.outdir).parent / "jupyter_execute"
    folder = Path(app.outdir, "notebooks")
    folder.mkdir(exist_ok=True)
    root = app.config.root_doc
    rows = ["| notebook | in Colab | in the book |", "|---|---|---|"]
    for page in [root, *app.env.toctree_includes[root]]:
        if not app.env.doc2path(page).endswith(".ipynb"):
            continue
        (title, url), (colab, _) = found["doc", page], opened_by(app, page)
        note = f"*A page of [the book]({url}), where its links lead. [Run it in Colab]({colab}).*"
        name = f"{posixpath.basename(page)}.ipynb"
        try:
            cells = nbformat.read(executed / f"{page}.ipynb", as_version=4)
            copy = notebook(cells, links_of(app, page, found), note)
        except ValueError as problem:
            raise ExtensionError(f"{page}: {problem}") from problem
        nbformat.write(copy, folder / name)
        rows.append(f"| [{title}]({name}) | [run]({colab}) | [read]({url}) |")
    about = f"# {app.config.html_title}\n\nThe notebooks of {TAG}, with outputs.\n\n"
    (folder / "README.md").write_text(about + "\n".join(rows) + "\n")


def setup(app):
    app.connect("html-page-context", link_from_the_page, priority=900)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
