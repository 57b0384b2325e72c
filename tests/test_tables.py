"""Tables say what they are given; names stay letters."""

import string

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from ccnotes.tables import literal, visible

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"]).use(dollarmath_plugin)


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
        "back\\slash \\$ | pipe",
        string.punctuation,
    ],
)
def test_a_literal_name_is_read_as_its_letters(name):
    """By the parser of the book's pages, alone and in a table."""
    (_, text, _) = MARKDOWN.parse(f"x {literal(name)}")
    assert {child.type for child in text.children} <= {"text", "text_special"}
    assert "".join(child.content for child in text.children) == f"x {name}"
    cells = [
        t for t in MARKDOWN.parse(f"| a | b |\n|---|---|\n| {literal(name)} | c |") if t.children
    ]
    shown = ["".join(child.content for child in cell.children) for cell in cells]
    assert shown == ["a", "b", name, "c"]
