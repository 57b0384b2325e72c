"""Code that readers came for stays open, the rest folds: one rule for pages and their copies.

Open is a cell that attacks, trains, attributes or computes CAS, and one of settings to edit.
"""

import ast
import json
import re

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.transforms.post_transforms import SphinxPostTransform

NUMBERS = "The numbers, and their code"
WHAT_IT_IS_ABOUT = (
    "pgd backward grad fit margins minimise_cross_entropy "  # attack and training
    "features_of class_attribution class_similarity grad_cam cas evaluate series"
).split()
ABOUT = re.compile(rf"\b(?:{'|'.join(WHAT_IT_IS_ABOUT)})\(")
SHOWS = re.compile(r"\b(?:Markdown|HTML|print|DataFrame)\(")
DRAWS = re.compile(
    r"\b(?:plt|plots|plots_gaussian|sns|moving|explorers|cards)\.|\b[A-Z]\w+\(\s*caption="
    r"|\bphotographs\.(?:matrices|looks)\("
)


def is_settings(source):
    """Whether a cell only gives names to constants, which a reader may change."""
    lines = re.sub(r"^%.*$", "", source, flags=re.M)
    body = ast.parse(lines).body
    constant = (ast.Constant, ast.Tuple, ast.BinOp)
    return all(isinstance(part, ast.Assign) and isinstance(part.value, constant) for part in body)


def prompt(source, tags):
    """What a folded cell is called, or None for one that stays open.

    >>> prompt("plots.curves(records)", [])
    'Code for this figure'
    >>> prompt("adv = pgd(model, x, y, attack)", [])
    """
    if "setup" in tags:
        return "Set-up"
    if "hide-output" in tags:
        return NUMBERS
    if ABOUT.search(source) or is_settings(source):
        return None
    work = re.sub(r"^(import|from) .*$", "", source, flags=re.M)
    if DRAWS.search(work):
        return "Code for this figure"
    if SHOWS.search(work):
        return "Code for these numbers"
    return "Imports" if re.match(r"import |from ", source) else "Code"


def fold(app, docname, content):
    """Tags the cells of a notebook as its page is read; the file has no such tags."""
    if not content[0].lstrip().startswith("{"):
        return
    notebook = json.loads(content[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            tags = cell["metadata"].setdefault("tags", [])
            if called := prompt("".join(cell["source"]), tags):
                tags.append("hide-cell" if {"setup", "hide-output"} & {*tags} else "hide-input")
                names = cell["metadata"].setdefault("mystnb", {})
                called = names.setdefault("code_prompt_show", called)
                names.setdefault("code_prompt_hide", called)  # opened it keeps its name
    content[0] = json.dumps(notebook)


class OneFold(SphinxPostTransform):
    """Cells that fold one after another are one fold, below the output that they lead to.

    So a figure follows the sentence that it answers. Numbers under a figure keep their own fold.
    """

    default_priority = 200  # right after myst-nb's own folds
    formats = ("html",)

    def run(self):
        for cell in list(self.document.findall(nodes.container)):
            gather(cell)


def gather(cell):
    """Move a folded cell's code below its output, or before the code of a folded cell that follows.

    Neither is done for a cell that has no fold above all else, or whose fold holds numbers.
    """
    fold = cell.children[0] if cell.get("nb_element") == "cell_code" and cell.children else None
    if not isinstance(fold, HideCodeCellNode) or fold["prompt_show"] == NUMBERS:
        return
    if len(cell.children) > 1:
        cell.remove(fold)
        cell.append(fold)
        return
    following = cell.next_node(descend=False, siblings=True)
    then = following.children[0] if following is not None and following.children else None
    if isinstance(then, HideCodeCellNode) and then["prompt_show"] != NUMBERS:
        then[:0] = fold.children
        if len(following.children) == 1 and fold["prompt_show"] == "Set-up":
            then["prompt_show"] = then["prompt_hide"] = "Set-up"
        cell.parent.remove(cell)


def setup(app):
    app.connect("source-read", fold)
    app.add_post_transform(OneFold)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
