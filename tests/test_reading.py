"""What the built pages do for readers."""

import sys
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parents[1] / "book/_ext"))

import reading


def test_a_percent_sign_stays_with_its_number_in_prose_and_code_is_left_alone():
    prose = nodes.paragraph("", "", nodes.Text("95 % of 7 words, 3 (of 4) %, a % b"))
    code = nodes.paragraph("", "", nodes.literal("", "7 % 3"))
    page = nodes.section("", prose, code)
    reading.keep_percents(None, page, "book/page")
    assert prose.astext() == "95\u00a0% of 7 words, 3 (of 4)\u00a0%, a % b"
    assert code.astext() == "7 % 3"
