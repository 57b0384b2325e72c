"""What is folded on the pages: the rule on cells made for it, then on the book's own."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from docutils import nodes

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "book/_ext"))

import folding  # noqa: E402

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.mark.parametrize(
    ("source", "called"),
    [
        ("import torch\nfrom ccnotes import plots, moving", "Imports"),
        ("from ccnotes import moving\n\nmoving.scrubber(r, 't')", "Code for this figure"),
        ("from json import loads\n\nMarkdown(loads(text))", "Code for these numbers"),
        ("import torch\n\nadv = pgd(model, x, y, attack)", None),
        ("figure, ax = plt.subplots()\nax.plot(x)", "Code for this figure"),
        ("records = every_seed('a')\nplots.curves(records)", "Code for this figure"),
        ("Playground(\n    caption='Drag.'\n)", "Code for this figure"),
        ("verdicts = ledger.heads()\nHTML(cards.rows(verdicts))", "Code for this figure"),
        ("photographs.matrices(full);", "Code for this figure"),
        ("Markdown(photographs.credits_list())", "Code for these numbers"),
        ("print(len(x))", "Code for these numbers"),
        ("own = torch.eye(6)", "Code"),
        ("adv = pgd(model, x, y, attack)\nplots.image_grid(adv)", None),
        ("for x in batches:\n    loss(x).backward()", None),
        ("a = class_attribution(features, labels, head)", None),
        ("Markdown(f'CAS is {cas(similarity)}')", None),
        ("EPS, DATA = 8 / 255, None\nMEAN = (0.5, 0.5)", None),
        ("cascade(x)", "Code"),  # not every word with such letters
    ],
)
def test_what_a_cell_is_about_stays_open_and_the_rest_has_a_name(source, called):
    assert folding.prompt(source, []) == called


def test_the_set_up_cell_and_tables_under_a_figure_are_folded_whatever_they_call():
    assert folding.prompt("%pip install x\ncas(x)", ["setup"]) == "Set-up"
    assert folding.prompt("Markdown(cas(x))", ["hide-output"]) == "The numbers, and their code"


def test_a_page_is_read_with_the_tags_that_its_file_lacks():
    source = ["plots.curves(\n", "records)"]
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["remove-output"]}, "source": source},
        {"cell_type": "code", "metadata": {"mystnb": {"code_prompt_show": "Own"}}, "source": ["1"]},
        {"cell_type": "code", "metadata": {}, "source": ["pgd(model, x, y, attack)"]},
        {"cell_type": "markdown", "metadata": {}, "source": ["plots.curves(records)"]},
        {"cell_type": "code", "metadata": {"tags": ["hide-output"]}, "source": ["Markdown(x)"]},
    ]
    content = [json.dumps({"cells": cells})]
    folding.fold(SimpleNamespace(), "page", content)
    first, second, third, fourth, fifth = (c["metadata"] for c in json.loads(content[0])["cells"])
    assert first["tags"] == ["remove-output", "hide-input"]
    assert first["mystnb"] == {
        f"code_prompt_{of}": "Code for this figure" for of in ("show", "hide")
    }
    assert second["mystnb"] == {f"code_prompt_{of}": "Own" for of in ("show", "hide")}
    assert "hide-input" not in third.get("tags", [])
    assert fourth == {}
    assert fifth["tags"] == ["hide-output", "hide-cell"]  # one bar for code and numbers
    text = ["# A page of Markdown"]
    folding.fold(SimpleNamespace(), "page", text)
    assert text == ["# A page of Markdown"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_rule_alone_decides(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags", [])
            assert "hide-input" not in tags, "folding.py folds by what a cell does"
            folding.prompt(cell.source, tags)  # each can be read


def test_training_attack_attribution_and_cas_are_open_in_the_chapters_that_introduce_them():
    """By hand, from the first chapter and the third: cells by their ids."""
    found = {}
    for name in ("01_adversarial_training", "03_attribution"):
        cells = nbformat.read(ROOT / f"book/{name}.ipynb", as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        found |= {c.id: folding.prompt(c.source, c.metadata.get("tags", [])) for c in code}
    training, attack, adversarial = "6d596d18", "0e87d3e2", "ccc68f33"
    attribution, similarity, cas = "d286f5c9", "da984ffa", "9c392738"
    for cell in (training, attack, adversarial, attribution, similarity, cas):
        assert found[cell] is None, cell
    assert found["18b33909"] == "Imports"
    assert found["57038d32"] == found["38629205"] == "Code for this figure"


def cell(name, *, folded=True, output=False):
    """A code cell as myst-nb has it, of one word of code and one of output."""
    code = nodes.paragraph("", f"code of {name}")
    made = nodes.container("", nb_element="cell_code")
    if folded:
        made += folding.HideCodeCellNode("", code, prompt_show=name, prompt_hide=name)
    else:
        made += code
    if output:
        made += nodes.paragraph("", f"output of {name}")
    return made


def gathered(*children):
    """What stands on the page, in order: the names of folds, and words that are in sight or not."""
    page = nodes.section("", *children)
    for made in list(page.findall(nodes.container)):
        folding.gather(made)
    shown = []
    for node in page.findall(lambda n: isinstance(n, folding.HideCodeCellNode | nodes.paragraph)):
        shown.append(node["prompt_show"] if "prompt_show" in node else node.astext())
    return shown


def test_cells_that_fold_one_after_another_are_one_fold_below_what_they_lead_to():
    shown = gathered(cell("Set-up"), cell("Imports"), cell("Figure", output=True))
    assert shown == [
        "output of Figure",
        "Figure",
        *(f"code of {n}" for n in ("Set-up", "Imports", "Figure")),
    ]
    text = nodes.paragraph("", "Text.")
    shown = gathered(cell("Set-up"), cell("Imports"), text, cell("Code"))
    assert shown == ["Set-up", "code of Set-up", "code of Imports", "Text.", "Code", "code of Code"]


def test_numbers_keep_their_fold_and_open_cells_stay_as_they_are():
    numbers = folding.NUMBERS
    shown = gathered(cell("Figure", output=True), cell(numbers), cell("Code"))
    wanted = ["output of Figure", "Figure", "code of Figure", numbers, f"code of {numbers}"]
    assert shown == [*wanted, "Code", "code of Code"]
    shown = gathered(cell("Imports"), cell("attack", folded=False, output=True))
    assert shown == ["Imports", "code of Imports", "code of attack", "output of attack"]
