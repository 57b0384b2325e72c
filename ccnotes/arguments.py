"""What words of the command line mean, and whether this machine can do what they ask for."""

import math
import re
from pathlib import Path
from typing import Any

import torch
import tyro

from ccnotes.data.folders import main_memory
from ccnotes.experiments import Experiment
from ccnotes.models import network_called

MOST_STEPS = 10_000  # of an attack; what it gains ends after some hundreds
MOST_SEEDS = 10_000  # of a sweep
MOST_THREADS = 1024  # above it systems end the process


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


def seeds_in(word: str) -> list[int]:
    """The seeds that a word names, each once. Raises ValueError for one that names none.

    >>> seeds_in("0-3,7")
    [0, 1, 2, 3, 7]
    """
    seeds: list[int] = []
    for part in word.split(","):
        if not re.fullmatch(r"\d{1,9}(-\d{1,9})?", part):
            raise ValueError(f"seeds={word!r} must be whole numbers and ranges, such as 0-3,7.")
        first, _, last = part.partition("-")
        found = range(int(first), int(last or first) + 1)
        if not 0 < len(found) <= MOST_SEEDS:
            raise ValueError(
                f"seeds={word!r} has the range {part}: its end must not be below its beginning, "
                f"and at most {MOST_SEEDS} seeds can be run at once."
            )
        seeds += found
    return list(dict.fromkeys(seeds))


def check_minutes(minutes: float | None) -> None:
    """ValueError for a time limit that is none.

    >>> check_minutes(float("nan"))
    Traceback (most recent call last):
    ValueError: minutes=nan must be above 0 and finite. Leave it out to run to the end.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(
            f"minutes={minutes:g} must be above 0 and finite. Leave it out to run to the end."
        )


def check_steps(**steps: int) -> None:
    """ValueError for an attack, called by the option that sets it, that would hardly end.

    >>> check_steps(eval_steps=10**9)
    Traceback (most recent call last):
    ValueError: eval_steps=1000000000 would hardly end, and steps after some hundreds gain next to \
nothing: give at most 10000.
    """
    for name, number in steps.items():
        if number > MOST_STEPS:
            raise ValueError(
                f"{name}={number} would hardly end, and steps after some hundreds gain next to "
                f"nothing: give at most {MOST_STEPS}."
            )


def check_memory(needed: float, what: str) -> None:
    """ValueError where this machine has no room for ``needed`` bytes.

    >>> check_memory(1e18, "width=1000000")
    Traceback (most recent call last):
    ValueError: width=1000000 takes 1,000,000,000.0 GB at least; this machine has ...: give less.
    """
    if needed > (there := main_memory()):
        raise ValueError(
            f"{what} takes {needed / 1e9:,.1f} GB at least; this machine has {there / 1e9:,.1f} "
            f"GB: give less."
        )


def check_width(model: str, width: int) -> None:
    """ValueError where a network's weights, with gradient and momentum, have no room."""
    if width >= 10**6:  # weights of which cannot even be counted
        raise ValueError(f"width={width} is more than any machine holds: 64 is a full network's.")
    if model.startswith("timm:"):
        return  # which has the width it has
    with torch.device("meta"):  # which takes no memory
        weights = sum(weight.numel() for weight in network_called(model, 10, width).parameters())
    check_memory(3 * 4 * weights, f"width={width}")


def check_run(e: Experiment, minutes: float | None) -> None:
    """ValueError for a run of which is known before it begins that it would never end or fit."""
    check_minutes(minutes)
    check_steps(eval_steps=e.eval_steps, attack_steps=e.attack.steps)
    check_width(e.model, e.width)
    if e.drawn is not None:
        for name in ("train_size", "validation_size", "test_size"):
            images = getattr(e, name) * 3 * e.drawn.image_size**2
            check_memory(4 * images, f"{name}={getattr(e, name)} of images of this size")


def use(threads: int | None) -> None:
    """Compute with so many threads of the processor; with torch's own number for None."""
    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise ValueError(
                f"threads={threads} must be at least 1 and at most {MOST_THREADS}. Leave it out "
                f"for torch's own."
            )
        torch.set_num_threads(threads)
