"""Tables of the chapters, and names of classes and data as a page can show them."""

import re
import unicodedata


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
