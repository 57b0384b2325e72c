"""What words of the command line mean: numbers such as 8/255, paths that are none."""

from pathlib import Path
from typing import Any

import tyro


def registry() -> tyro.constructors.ConstructorRegistry:
    """The registry of the rules below, for a ``with`` block around tyro's reading."""
    rules = tyro.constructors.ConstructorRegistry()
    rules.primitive_rule(number)
    rules.primitive_rule(path)
    return rules


def number(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Let ``8/255`` stand for a number."""
    if info.type is not float:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda words: fraction(words[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [f"{value:.6g}"],
    )


def fraction(word: str) -> float:
    """``word`` as a number: "0.1", "1e-3" or "8/255". Raises ValueError for any other.

    >>> fraction("1/4")
    0.25
    """
    above, slash, below = word.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except ZeroDivisionError:
        raise ValueError(f"{word} divides by zero") from None


def path(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Let an empty word, such as an unset variable leaves, not stand for this folder."""
    if info.type is not Path:
        return None

    def named(words: list[str]) -> Path:
        if not words[0]:
            raise ValueError("an empty name is no path; . is this folder")
        return Path(words[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=named,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )
