"""Tables of the chapters, and names of classes and data as a page can show them."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ccnotes.verdicts import Judgement, Measured, described, found, n_of, written

Cell = str | float | Collection[float] | Float[Tensor, "*runs"]


def tabulated(columns: str, rows: Iterable[Sequence[Cell]], form: str = ".3f") -> str:
    r"""A table in Markdown: each row a name and its cells.

    ``columns`` holds the titles, divided by "|". A cell that is a text stays as it is, a number is
    written in ``form``, values over seeds are as :func:`ccnotes.verdicts.described` has them.
    ``form`` is one for all columns, or one for each after the names, divided by spaces. Raises
    ValueError for rows and forms that do not fit the columns.

    >>> rows = [["accuracy", [0.4, 0.5] * 2, 0.25], ["epoch", [61, 63], "the last"]]
    >>> print(tabulated("test images | best | last", rows, ".1f .2f").replace("\u00a0", " "))
    | test images | best | last |
    |---|---|---|
    | accuracy | 0.5 (0.4 to 0.5, n = 4) | 0.25 |
    | epoch | 61.0, 63.0 (n = 2) | the last |
    """
    titles = [title.strip() for title in columns.split("|")]
    forms = form.split(" ") if " " in form else [form] * (len(titles) - 1)
    if len(forms) != len(titles) - 1:
        raise ValueError(f"form={form!r} must be one form, or one for each of {titles[1:]}.")
    table = [titles]
    for name, *cells in rows:
        if len(cells) != len(forms):
            raise ValueError(f"{name!r} has {len(cells)} cells: give one for each of {titles[1:]}.")
        table.append([str(name), *map(shown, cells, forms)])
    for row in table:
        if re.search(r"(?<!\\)\||\n", " ".join(row)):
            raise ValueError(f"a line break or a bare '|' in {row}: see ccnotes.tables.literal.")
    head, *lines = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|---" * len(titles) + "|", *lines])


def shown(cell: Cell, form: str) -> str:
    if isinstance(cell, str):
        return cell
    values = np.asarray(cell, dtype=float)
    return described(values, form) if values.ndim else written(values.item(), form)


def judged(judgements: Iterable[Judgement]) -> str:
    """A table in Markdown of what runs say of claims: difference, p-values, verdict.

    What the paper says stands beside them, where it says something of one of them.

    >>> from ccnotes.verdicts import Claim, judgements
    >>> table = judged(judgements([Claim("accuracy falls", "accuracy", [0.25] * 6, "0.05")]))
    >>> print(table.splitlines()[2].replace("\u00a0", " "))
    | accuracy falls | 0.05 | +0.250 (+0.250 to +0.250, n = 6) accuracy | 0.031, 0.031 | supported |
    """
    given = list(judgements)
    told = any(j.claim.paper for j in given)
    rows = [
        [
            j.claim.says,
            *([j.claim.paper] if told else []),
            f"{found(j.claim.differences)} {j.claim.unit}",
            f"{j.p:.2g}, {j.corrected:.2g}" if j.word else f"{j.p:.2g}",
            j.word or f"no verdict ({n_of(j.claim.differences)})",
        ]
        for j in given
    ]
    paper = " | the paper" if told else ""
    return tabulated(f"claim{paper} | above 0: as claimed | exact p, Holm's | verdict", rows)


def measured(them: Iterable[Measured], form: str = ".3f") -> str:
    """A table in Markdown of what was measured and, where there is such, predicted.

    >>> table = measured([Measured("CAS", "share", [0.25] * 4, 0.5, "0.2 or less", at_most=0.2)])
    >>> print("\\n".join(table.splitlines()[::2]).replace("\u00a0", " "))
    | number | predicted | found | full size | outcome |
    | CAS, share | 0.2 or less | 0.250 (0.250 to 0.250, n = 4) | 0.500 | not as predicted |
    """
    given = list(them)
    told, full = any(m.predicted for m in given), any(m.full is not None for m in given)
    columns = ["number", *["predicted"] * told, "found", *["full size"] * full]
    rows = [
        [
            f"{m.says}, {m.unit}",
            *[m.predicted] * told,
            m.runs,
            *["not made" if m.full is None else m.full] * full,
            *[m.outcome] * told,
        ]
        for m in given
    ]
    return tabulated(" | ".join([*columns, *["outcome"] * told]), rows, form)


def visible(name: str) -> str:
    r"""``name`` with what is no sign of its own, such as ESC or a line break, written as in Python.

    So it can stand in a figure, a page or a terminal, whatever a folder was called.

    >>> visible("cats\x1b[31m and dogs\n")
    'cats\\x1b[31m and dogs\\n'
    """
    signs = (unicodedata.category(sign) for sign in name)
    return "".join(
        sign.encode("unicode_escape").decode() if kind[0] == "C" or kind in ("Zl", "Zp") else sign
        for sign, kind in zip(name, signs, strict=True)
    )


def literal(name: str) -> str:
    r"""``name`` for a page's Markdown, letter by letter: no markup, formula or HTML of its own.

    >>> print(literal("cost in $ <b>or</b> a_b_c"))
    cost in \$ \<b\>or\</b\> a\_b\_c
    """
    return re.sub(r"[\\`*_{}\[\]<>|$~&]", r"\\\g<0>", visible(name))
