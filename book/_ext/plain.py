"""Chapters in plain Markdown, as GitHub and Colab read it: neither roles nor directives.

No library does this: jupytext and nbconvert keep both as they are, and mystmd parts with the
numbers and addresses that Sphinx gives.
"""

import base64
import html
import re
from collections.abc import Callable
from itertools import takewhile

import nbformat
from folding import prompt

Link = Callable[[str, str], tuple[str, str]]  # of a role and what it names: text, address

FENCE = re.compile(r" *(?P<fence>:{3,}|`{3,}|~{3,})(?:\{(?P<name>[\w:-]+)\})? *(?P<title>.*)")
OPTION = re.compile(r":([\w-]+): *(.*)")
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
EXPLICIT = re.compile(r"(.*?) *<([^<>]+)>$")
PAGE = re.compile(r"(?<=\]\()([\w./-]+\.(?:md|ipynb)(?:#[\w-]+)?)(?=\))")
CAPTION = re.compile(r"<figcaption>(.*?)</figcaption>", re.DOTALL)
CAPTIONED = re.compile('<moving-figure|class="claim-rows"')  # what loses its caption below
NOTHING = re.compile(r"^(?:\([\w-]+\)=|\{[.#][^}]*\}|\+\+\+.*|%.*)\n?", re.M)  # targets

WIDGET = "application/vnd.jupyter.widget-view+json"  # dead without its kernel
NUMBERED = {"exercise"}  # and what sphinx-proof brings, prf:theorem and its kin
BOXES = {"note", "tip", "hint", "important", "warning", "caution", "attention", "seealso"}
BARE = {"grid", "grid-item", "grid-item-card", "card", "div", "container", "margin", "admonition"}
CODE = {"code", "code-block", "sourcecode"}


def plain(text: str, link: Link) -> str:
    """``text`` with roles as links, directives as headings, quotations and foldable parts.

    Raises ValueError for a role or a directive without a plain form.

    >>> plain("See {doc}`the end <z>`.", lambda role, name: ("End", f"https://x/{name}.html"))
    'See [the end](https://x/z.html).'
    """
    done, prose, lines = [], [], iter(text.splitlines())

    def finish() -> None:
        if prose:
            done.append(inline("\n".join(prose), link))
            prose.clear()

    for line in lines:
        if fence := FENCE.fullmatch(line):
            finish()
            end = re.compile(rf" *{fence['fence'][0]}{{{len(fence['fence'])},}} *")
            inside = list(takewhile(lambda line, end=end: not end.fullmatch(line), lines))
            done.append(block(line, fence, inside, link))
        else:
            prose.append(line)
    finish()
    return "\n".join(done)


def inline(text: str, link: Link) -> str:
    """Prose without fences."""
    text = PAGE.sub(lambda found: link("page", found[1])[1], NOTHING.sub("", text))
    return ROLE.sub(lambda found: role(found[1], " ".join(found[2].split()), link), text)


def role(name: str, said: str, link: Link) -> str:
    if name == "math":
        return f"${said}$"
    if name == "code":
        return f"`{said}`"
    if name.startswith("cite"):
        cited = [link("cite", key.strip()) for key in said.split(",")]
        if name.endswith(":t"):
            return "; ".join(f"[{re.sub(', (?=[^,]*$)', ' (', t)})]({url})" for t, url in cited)
        return f"({'; '.join(f'[{text}]({url})' for text, url in cited)})"
    explicit = EXPLICIT.fullmatch(said)
    text, url = link(name, explicit[2] if explicit else said)
    return f"[{explicit[1] if explicit else text}]({url})"


def block(line: str, fence: re.Match[str], lines: list[str], link: Link) -> str:
    """A directive, or a listing, with what is inside."""
    name, title = fence["name"], fence["title"]
    if not name:
        return "\n".join([line, *lines, fence["fence"]])
    options = dict(o.groups() for o in takewhile(bool, map(OPTION.fullmatch, lines)))
    lines = lines[len(options) :]
    if name in CODE:
        return "\n".join([f"```{title}", *lines, "```"])
    if name == "math":
        return "\n".join(["$$", *lines, "$$"])
    inside = plain("\n".join(lines), link).strip("\n")
    if name == "raw":
        return ""
    if name in ("button-ref", "button-link"):
        url = title if name == "button-link" else link(options.get("ref-type", "doc"), title)[1]
        return f"[**{inside}**]({url})"
    if name in ("figure", "image"):
        return f"![{options.get('alt', '')}]({link('image', title)[1]})\n\n{inside}".rstrip()
    if "dropdown" in (name, options.get("class")) or name == "solution":
        summary = "Solution" if name == "solution" else html.escape(title or name.capitalize())
        return f"<details>\n<summary><b>{summary}</b></summary>\n\n{inside}\n\n</details>"
    if name in NUMBERED or name.startswith("prf:"):
        number = link("ref", options["label"])[0] if "label" in options else name[4:].capitalize()
        return f"#### {number}{f' ({inline(title, link)})' if title else ''}\n\n{inside}"
    if name in BOXES:
        quoted = f"**{inline(title, link) or name.capitalize()}**\n\n{inside}".splitlines()
        return "\n".join(f"> {line}".rstrip() for line in quoted)
    if name == "grid-item-card" and "link" in options:
        picture = f"![{options.get('img-alt', '')}]({link('image', options['img-top'])[1]})"
        return f"{picture}\n\n[**{title}**]({link('doc', options['link'])[1]}): {inside}"
    if name in BARE:
        return f"**{inline(title, link)}**\n\n{inside}" if title and name != "grid" else inside
    raise ValueError(
        f"The directive {{{name}}} has no plain form for GitHub and Colab: use another, "
        "or give it one in book/_ext/plain.py."
    )


def notebook(executed: nbformat.NotebookNode, link: Link, note: str) -> nbformat.NotebookNode:
    """A copy with outputs, without what needs the book; ``note`` stands below its title."""
    copy = nbformat.from_dict(executed)
    copy.cells = [part for cell in copy.cells for part in captioned(cell)]
    copy.metadata.pop("widgets", None)
    for cell in copy.cells:
        cell.metadata.pop("execution", None)
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, link)
        elif "remove-input" in tags or prompt(cell.source, tags):  # for Colab, and for Jupyter
            cell.metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
        if cell.cell_type == "code":
            cell.outputs = [
                still(output, link)
                for output in ([] if "remove-output" in tags else cell.outputs)
                if output.get("name") != "stderr" and WIDGET not in output.get("data", {})
            ]
    first = copy.cells[0]
    first.source = re.sub(r"\A# .*", lambda title: f"{title[0]}\n\n{note}", first.source, count=1)
    return copy


def captioned(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """A cell, and below it the caption that the book gives to its figure: still, moving, rows."""
    said = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption")
    for output in cell.get("outputs", []):
        shown = "".join(output.get("data", {}).get("text/html", ""))
        if CAPTIONED.search(shown) and (told := CAPTION.search(shown)):
            said = html.unescape(told[1])
    if said is None:
        return [cell]
    return [cell, nbformat.v4.new_markdown_cell(f"*{said}*", id=f"{cell.id}-caption")]


def still(output: nbformat.NotebookNode, link: Link) -> nbformat.NotebookNode:
    """Markdown made plain; of a figure that moves by the book's script, its picture."""
    data = output.get("data", {})
    if CAPTIONED.search(inside := "".join(data.get("text/html", ""))):
        data["text/html"] = CAPTION.sub("", inside)
    if "text/markdown" in data:
        data["text/markdown"] = plain("".join(data["text/markdown"]), link)
    shown = re.search(r'src="data:(image/[\w+]+);base64,([^"]+)"', data.get("text/html", ""))
    if shown and "<moving-figure" in data["text/html"]:
        del data["text/html"]
        vector = shown[1] == "image/svg+xml"
        data[shown[1]] = base64.b64decode(shown[2]).decode() if vector else shown[2]
    return output
