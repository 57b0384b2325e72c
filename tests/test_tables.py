"""Tables say what they are given; names stay letters."""

import string

import numpy as np
import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_role import myst_role_plugin
from mdit_py_plugins.substitution import substitution_plugin

from ccnotes.tables import judged, literal, measured, tabulated, visible
from ccnotes.verdicts import Claim, Measured, described, judgements

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
for plugin in (dollarmath_plugin, myst_role_plugin, substitution_plugin):
    MARKDOWN.use(plugin)


def test_signs_that_cannot_be_seen_are_written_as_in_python():
    assert visible("a\x1b[31m\t\n\x00\x85") == r"a\x1b[31m\t\n\x00\x85"
    assert visible("\u2028\u202e\udcff") == r"\u2028\u202e\udcff"  # line, direction, no UTF-8
    assert (
        visible("n\u00a0= 5, café, \u732b, \U0001f600 $<_\\")
        == "n\u00a0= 5, café, \u732b, \U0001f600 $<_\\"
    )


@pytest.mark.parametrize(
    "name",
    [
        "cost $5 or $6",
        "<b>bold</b> <!-- no --> &amp; &lt;",
        "_a_ __b__ *c* **d** ~~e~~ `f`",
        "[a](b) ![c](d) {term}`e` {{ f }}",
        "back\\slash \\$ | pipe \\*a\\*",
        "\x1b[31mred\n",
        string.punctuation,
    ],
)
def test_a_literal_name_is_read_as_its_letters(name):
    """By the parser of the book's pages, alone and in a table."""
    (_, text, _) = MARKDOWN.parse(f"x {literal(name)}")
    assert {child.type for child in text.children} <= {"text", "text_special"}
    assert "".join(child.content for child in text.children) == f"x {visible(name)}"
    cells = [
        t for t in MARKDOWN.parse(f"| a | b |\n|---|---|\n| {literal(name)} | c |") if t.children
    ]
    shown = ["".join(child.content for child in cell.children) for cell in cells]
    assert shown == ["a", "b", visible(name), "c"]


def test_a_table_holds_texts_numbers_and_values_over_seeds():
    rows = [
        ["a", "*text*", 0.456, pd.Series([1.0, 2.0])],
        [3, "", torch.tensor(-0.001), np.array([4.0])],
    ]
    spoken = described([1.0, 2.0], "+.1f")
    assert tabulated("name | b | c | d", rows, ".1% .2f +.1f") == (
        "| name | b | c | d |\n"
        "|---|---|---|---|\n"
        f"| a | *text* | 0.46 | {spoken} |\n"
        "| 3 |  | 0.00 | +4.0 (n\u00a0=\u00a01) |"
    )


def test_one_form_is_for_all_columns_and_the_empty_one_suits_the_interval():
    less, more = [0.10, 0.12] * 2, [10.0, 12.0] * 2
    rows = [["a", less, more]]
    expected = f"| a | {described(less, '')} | {described(more, '')} |"
    assert tabulated("n | b | c", rows, "").splitlines()[-1] == expected
    assert tabulated("n | b", [["a", 0.25]]).splitlines()[-1] == "| a | 0.250 |"


@pytest.mark.parametrize(
    ("columns", "rows", "form", "says"),
    [
        ("a | b | c", [["x", 1.0]], ".1f", r"'x' has 1 cells: give one for each of \['b', 'c'\]"),
        ("a | b", [["x", 1.0, 2.0]], ".1f", r"'x' has 2 cells: give one for each of \['b'\]"),
        ("a | b | c", [["x", 1.0, 2.0]], ".1f .2f .3f", "must be one form, or one for each of"),
        ("a | b", [["x", "y | z"]], ".1f", r"a bare '\|' in \['x', 'y \| z'\]"),
        ("a | b", [["x\ny", 1.0]], ".1f", "a line break"),
    ],
)
def test_what_a_page_would_cut_off_or_shift_is_refused(columns, rows, form, says):
    """A Markdown table silently drops a cell too many, and fills one that lacks."""
    with pytest.raises(ValueError, match=says):
        tabulated(columns, rows, form)


def test_a_pipe_that_is_written_as_a_letter_stays_in_its_cell():
    rows = [[literal("a|b"), "c"]]
    cells = [t.content for t in MARKDOWN.parse(tabulated("x | y", rows)) if t.children]
    assert cells == ["x", "y", "a|b", "c"]


def test_claims_have_a_column_for_the_paper_where_it_says_something_and_few_runs_no_interval():
    silent, told = (Claim("it falls", "nats", [0.1, 0.3], paper) for paper in ("", "0.2"))
    head, _, row = judged(judgements([silent])).replace("\u00a0", " ").splitlines()
    assert head == "| claim | above 0: as claimed | exact p, Holm's | verdict |"
    assert row == "| it falls | +0.100, +0.300 (n = 2) nats | 0.5 | no verdict (n = 2) |"
    table = judged(judgements([silent, told])).splitlines()
    assert [line.split(" | ")[1] for line in table[::2]] == ["the paper", ""]
    assert table[3].split(" | ")[1] == "0.2"


def test_what_was_measured_has_columns_for_what_there_is():
    """A prediction, its outcome and the run at full size."""
    runs = [0.3, 0.31, 0.32, 0.31]
    bare = Measured("CAS", "share", runs)
    told = bare._replace(predicted="0.2 or less", at_most=0.2)
    full = bare._replace(full=0.5)
    head, _, row = measured([bare]).splitlines()
    assert head == "| number | found |"
    assert row == f"| CAS, share | {described(runs)} |"
    head, _, first, second = measured([told, full]).splitlines()
    assert head == "| number | predicted | found | full size | outcome |"
    assert first.split(" | ")[1:] == [
        "0.2 or less",
        described(runs),
        "not made",
        "not as predicted |",
    ]
    assert second.split(" | ")[1:] == ["", described(runs), "0.500", " |"]
