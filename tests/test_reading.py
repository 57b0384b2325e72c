"""What the built pages do for readers."""

import sys
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parents[1] / "book/_ext"))

import reading


def table(*rows):
    """As docutils has it."""
    made = [nodes.row("", *(nodes.entry("", nodes.paragraph("", t)) for t in row)) for row in rows]
    return nodes.table("", nodes.tgroup("", nodes.tbody("", *made)))


def test_a_column_of_words_is_marked_by_its_longest_cell_and_one_of_numbers_is_not():
    page = nodes.section("", table(["kind", "n", "why"], ["plain training", "10", "w" * 41]))
    page += table(["x" * 16, "y" * 17])
    reading.fit_tables(None, page, "book/page")
    marks = [entry["classes"] for entry in page.findall(nodes.entry)]
    assert marks == [[], [], ["many-words"]] * 2 + [[], ["words"]]


def test_texts_of_a_table_have_the_names_of_their_columns_and_first_ones_and_pairs_have_none():
    page = nodes.section("", table(["kind", "n", "why"], ["plain", "10", "w" * 101]))
    page += table(["kind", "why"], ["plain", "w" * 101])
    reading.fit_tables(None, page, "book/page")
    texts, pairs = page.findall(nodes.table)
    names = [
        n.parent.astext() for n in texts.findall(nodes.inline) if "column-name" in n["classes"]
    ]
    assert [name.split() for name in names] == [["n", "10"], ["why", "w" * 101]]
    assert texts["classes"] == ["as-cards"]
    assert not [*pairs.findall(nodes.inline)]


def test_a_percent_sign_stays_with_its_number_in_prose_and_code_is_left_alone():
    prose = nodes.paragraph("", "", nodes.Text("95 % of 7 words, 3 (of 4) %, a % b"))
    code = nodes.paragraph("", "", nodes.literal("", "7 % 3"))
    page = nodes.section("", prose, code)
    reading.keep_percents(None, page, "book/page")
    assert prose.astext() == "95\u00a0% of 7 words, 3 (of 4)\u00a0%, a % b"
    assert code.astext() == "7 % 3"
