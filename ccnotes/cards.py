"""A claim at a glance: a card with a small curve, and the verdict on it as a chip. HTML."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ccnotes.verdicts import Judgement, n_of

WIDTH, HEIGHT, EDGE = 240, 96, 6  # of a sparkline, in its own units


class Card(NamedTuple):
    """One step of an argument."""

    title: str
    says: str
    curve: str  # as :func:`sparkline` draws it
    verdicts: Mapping[str, Judgement]  # by what they are on, in the card's words


def cards(them: Iterable[Card]) -> str:
    """Cards side by side, one below the other where there is little room.

    >>> cards([Card("Rise", "It rises.", "", {})]).count("<p><b>Rise</b> It rises.</p>")
    1
    """
    made = []
    for card in them:
        lines = "".join(
            f"<li>{html.escape(says)} {chip(judgement)}</li>"
            for says, judgement in card.verdicts.items()
        )
        made.append(
            f'<div class="claim-card"><p><b>{html.escape(card.title)}</b> '
            f"{html.escape(card.says)}</p>{card.curve}<ul>{lines}</ul></div>"
        )
    return f'<div class="claim-cards">{"".join(made)}</div>'


def chip(judgement: Judgement) -> str:
    """The verdict with the number of runs; hollow where these are too few for one.

    >>> from ccnotes.verdicts import Claim, judgements
    >>> (judged,) = judgements([Claim("accuracy falls", "accuracy", [0.1, 0.2])])
    >>> chip(judged).replace("\u00a0", " ")
    '<span class="chip chip-none">no verdict, n = 2</span>'
    """
    word = judgement.word or "no verdict"
    kind = judgement.word or "none"
    return f'<span class="chip chip-{kind}">{word}, {n_of(judgement.claim.differences)}</span>'


def sparkline(
    runs: Float[np.ndarray, "runs epochs"],
    epochs: Sequence[float],
    alt: str,
    *,
    lit: tuple[float, float],
    form: str = ".1f",
) -> str:
    """A small curve as SVG: the mean of runs over epochs, thin lines for single runs.

    The mean takes the middle half of the height. Its part from the first to the second epoch of
    ``lit`` stands out, with dots at its ends and their values in ``form`` below. ``alt`` is the
    text for those who do not see it. Raises ValueError for curves that do not fit the epochs, or
    hold NaN, and where less than two epochs are lit.

    >>> curve = sparkline(np.array([[1.0, 3.0, 2.0]]), [4, 8, 12], "Up and down.", lit=(8, 12))
    >>> curve.count("<circle"), "3.0" in curve, "2.0" in curve
    (2, True, True)
    """
    at = np.asarray(epochs, dtype=float)
    part = np.flatnonzero((at >= lit[0]) & (at <= lit[1]))
    if runs.shape[1:] != at.shape or not len(runs) or not np.isfinite(runs).all():
        raise ValueError(
            f"curves of shape {runs.shape} for {len(at)} epochs: give one finite value per run "
            f"and epoch."
        )
    if len(part) < 2:
        raise ValueError(f"lit={lit} has fewer than two of the epochs {list(epochs)}.")
    mean = runs.mean(0)
    low, high = mean.min(), mean.max()
    x = EDGE + (WIDTH - 2 * EDGE) * (at - at[0]) / (at[-1] - at[0])
    scale = HEIGHT / 2 / ((high - low) or 1)
    base = HEIGHT * (3 / 4 if high > low else 1 / 2)

    def points(values: Float[np.ndarray, " epochs"], where: slice) -> list[str]:
        y = base - scale * (values - low)
        return [f"{a:.1f},{b:.1f}" for a, b in zip(x[where], y[where], strict=True)]

    all_of_it, its_part = slice(None), slice(part[0], part[-1] + 1)
    lines = [("one", run, all_of_it) for run in runs]
    lines += [("mean", mean, all_of_it), ("lit", mean, its_part)]
    drawn = "".join(
        f'<polyline class="{kind}" points="{" ".join(points(values, where))}"/>'
        for kind, values, where in lines
    )
    ends = [part[0], part[-1]]
    for point in (points(mean, its_part)[0], points(mean, its_part)[-1]):
        drawn += '<circle r="4" cx="{}" cy="{}"/>'.format(*point.split(","))
    told = ", ".join(f"epoch {at[i]:g}: {format(mean[i], form)}" for i in ends)
    return (
        f'<figure><svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(alt)}">{drawn}</svg><figcaption>{told}</figcaption></figure>'
    )
