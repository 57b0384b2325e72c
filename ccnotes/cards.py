"""Claims and numbers at a glance, as HTML: a card with a curve, or a row of a dot for each run."""

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator

from ccnotes.verdicts import (
    FEW,
    Judgement,
    Measured,
    described,
    found,
    interval,
    n_of,
    written,
)

WIDTH, HEIGHT, EDGE = 240, 96, 6  # of a sparkline, in its own units
MINUS = "\u2212"
FILLED, HOLLOW = 'fill="currentColor"', 'class="hollow" fill="#fff" stroke="currentColor"'
OUTCOMES = {  # of a prediction: how it looks
    "as predicted": "supported",
    "not as predicted": "contradicted",
    "refuted": "contradicted",
    "could be either": "undecided",
    "": "none",
}
COLOURS = {"supported": "#2a7fc4", "contradicted": "#d9651b"}  # where no style sheet says others


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


def counts(judgements: Iterable[Judgement]) -> str:
    """How many of the claims have which verdict, a chip each; verdicts that none has left out.

    >>> from ccnotes.verdicts import Claim, judgements
    >>> counts(judgements([Claim("accuracy falls", "accuracy", [0.1, 0.2])]))
    '<ul class="claim-counts"><li><span class="chip chip-none">1 no verdict</span></li></ul>'
    """
    words = [judgement.word or "no verdict" for judgement in judgements]
    chips = [
        f'<li><span class="chip chip-{word.replace("no verdict", "none")}">'
        f"{words.count(word)} {word}</span></li>"
        for word in ("supported", "contradicted", "undecided", "no verdict")
        if word in words
    ]
    return f'<ul class="claim-counts">{"".join(chips)}</ul>'


def rows(judgements: Iterable[Judgement], caption: str = "") -> str:
    """A row a claim: a dot for each run, their mean and its 95 % interval; right of 0 bears it out.

    That side is tinted. Claims of one unit share an axis. The mean is filled where the claim is
    supported or contradicted, else hollow. Fewer than four runs are dots only. With a ``caption``,
    the takeaway, the book numbers the rows as a figure.

    >>> from ccnotes.verdicts import Claim, judgements
    >>> shown = rows(judgements([Claim("accuracy falls", "accuracy", [0.1, 0.2])]))
    >>> shown.count("<circle"), "accuracy falls" in shown
    (2, True)
    """
    given = list(judgements)
    made = ""
    for unit in dict.fromkeys(judgement.claim.unit for judgement in given):
        mine = [judgement for judgement in given if judgement.claim.unit == unit]
        ends = [0.0, *(end for j in mine for end in reach(j.claim.differences))]
        made += "".join(row(judgement, axis_for(ends)) for judgement in mine) + ruler(ends, unit)
    return together(made, caption)


def together(made: str, caption: str) -> str:
    """Rows as one figure, its caption below them."""
    said = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="claim-rows">{made}{said}</figure>'


def row(judgement: Judgement, axis: tuple[float, float]) -> str:
    """One of :func:`rows`, on an axis from the first to the second value."""
    claim, kind = judgement.claim, judgement.word or "none"
    zero = percent(0, axis)
    rest = f"{100 - float(zero[:-1]):.2f}%"
    line = (
        f'<rect class="bears" x="{zero}" width="{rest}" height="26" fill="#2a7fc4" opacity=".08"/>'
    )
    line += f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="26" stroke="#888"/>'
    label = (
        f"{claim.says}: {found(claim.differences)} {claim.unit}, {judgement.word or 'no verdict'}"
    )
    words = f"{html.escape(claim.says)} <b>{chip(judgement)}</b>"
    return framed(label, words, kind, line + dots(claim.differences, axis, kind))


def measured(them: Iterable[Measured], caption: str = "") -> str:
    """A row for each: a dot for each run, their mean and its 95 % interval; grey was predicted.

    Those of one unit and number of runs share an axis. A chip has the outcome of the prediction, a
    diamond is the one run at full size. Fewer than four runs are dots only. A ``caption`` is that
    of :func:`rows`.

    >>> from ccnotes.verdicts import Measured
    >>> given = Measured("CAS kept", "share", [0.4, 0.3], predicted="0.2 or less", at_most=0.2)
    >>> shown = measured([given])
    >>> shown.count("<circle"), shown.count('class="zone"'), ">no verdict<" in shown
    (2, 1, True)
    """
    given = list(them)
    made = ""
    for unit, n in dict.fromkeys((m.unit, len(m.runs)) for m in given):
        mine = [m for m in given if (m.unit, len(m.runs)) == (unit, n)]
        more = [e for m in mine for e in (m.full, m.at_least, m.at_most) if e is not None]
        ends = [*more, *(end for m in mine for end in reach(m.runs))]
        below = f"{unit}, {n_of(mine[0].runs)}"
        if any(m.full is not None for m in mine):
            below += "; \u25c7 the one run at full size"
        made += "".join(measured_row(m, axis_for(ends)) for m in mine) + ruler(ends, below)
    return together(made, caption)


def measured_row(of: Measured, axis: tuple[float, float]) -> str:
    """One of :func:`measured`, on an axis from the first to the second value."""
    kind, drawn = OUTCOMES[of.outcome], ""
    label, words = f"{of.says}: {described(of.runs, '')}", html.escape(of.says)
    if of.predicted:
        said = of.outcome or "no verdict"
        ends = (of.at_least, axis[1]) if of.at_most is None else (axis[0], of.at_most)
        low, high = (percent(axis[0] if end is None else end, axis) for end in ends)
        wide = f"{float(high[:-1]) - float(low[:-1]):.2f}%"
        drawn = f'<rect class="zone" x="{low}" width="{wide}" height="26" fill="#8884"/>'
        label += f", predicted {of.predicted}: {said}"
        words += f"<br><small>predicted: {html.escape(of.predicted).replace('-', MINUS)}</small>"
        words += f' <b><span class="prediction chip chip-{kind}">{said}</span></b>'
    drawn += dots(of.runs, axis, kind)
    if of.full is not None:
        label += f"; at full size {written(of.full, '.3f')}"
        drawn += (
            f'<svg class="full" x="{percent(of.full, axis)}" y="13" overflow="visible">'
            '<path d="M-6 0L0-6L6 0L0 6Z" class="hollow" fill="#fff" stroke="#777" '
            'stroke-width="2"/></svg>'
        )
    return framed(label, words, kind, drawn)


def reach(runs: Collection[float]) -> list[float]:
    """All values that are drawn of runs: each one, and the ends of the interval if there is one."""
    return [*map(float, runs), *(interval(runs) if len(runs) >= FEW else ())]


def axis_for(values: Sequence[float]) -> tuple[float, float]:
    """An axis with room for all values, and for half of a tick's label, on a phone, too."""
    edge = 0.07 * (max(values) - min(values) or 1)
    return min(values) - edge, max(values) + edge


def ruler(values: Sequence[float], caption: str) -> str:
    """The ticks of the axis for these values, and below them what it is of."""
    first, last = min(values), max(values)
    ticks = MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]).tick_values(first, last)
    labels = "".join(
        f'<text x="{percent(tick, axis_for(values))}" y="13" font-size="13" text-anchor="middle" '
        f'fill="currentColor">{f"{tick:.6g}".replace("-", MINUS)}</text>'
        for tick in ticks
        if first <= tick <= last
    )
    return (
        f'<div class="claim-row claim-axis"><svg width="100%" height="18" '
        f'aria-hidden="true">{labels}</svg><p>{html.escape(caption)}</p></div>'
    )


def dots(runs: Collection[float], axis: tuple[float, float], kind: str) -> str:
    """A dot for each run and, unless they are few, their mean and its interval."""
    few = len(runs) < FEW
    drawn = '<line x1="0" x2="100%" y1="13" y2="13" stroke="#8884"/>'
    look = f'r="3.5" stroke-width="1.5" {HOLLOW}' if few else f'r="2.5" opacity=".45" {FILLED}'
    drawn += "".join(f'<circle {look} cx="{percent(float(r), axis)}" cy="13"/>' for r in runs)
    if few:
        return drawn
    low, high = (percent(end, axis) for end in interval(runs))
    look = FILLED if kind in COLOURS else f'stroke-width="2" {HOLLOW}'
    return drawn + (
        f'<line class="interval" x1="{low}" x2="{high}" y1="13" y2="13" stroke-width="2.5" '
        f'stroke="currentColor"/>'
        f'<circle r="5.5" {look} cx="{percent(float(np.mean([*runs])), axis)}" cy="13"/>'
    )


def framed(label: str, words: str, kind: str, drawn: str) -> str:
    """A row of a text for those who do not see it, words in HTML, and a drawing."""
    return (
        f'<div class="claim-row" role="img" aria-label="{html.escape(label)}"><p>{words}</p>'
        f'<svg class="dots dots-{kind}" width="100%" height="26" '
        f'color="{COLOURS.get(kind, "#777")}">{drawn}</svg></div>'
    )


def percent(value: float, axis: tuple[float, float]) -> str:
    """Where a value lies on an axis, of its width."""
    low, high = axis
    return f"{100 * (value - low) / (high - low):.2f}%"


def sparkline(
    runs: Float[np.ndarray, "runs epochs"],
    epochs: Sequence[float],
    alt: str,
    *,
    lit: tuple[float, float],
    name: str,
    form: str = ".1f",
) -> str:
    """A small curve as SVG: the mean of runs over epochs, thin lines for single runs.

    The mean takes the middle half of the height. Its part from the first to the second epoch of
    ``lit`` stands out, with dots at its ends and their values in ``form`` below, after the name of
    the quantity. ``alt`` is the text for those who do not see it. Raises ValueError for curves that
    do not fit the epochs, or hold NaN, and where less than two epochs are lit.

    >>> runs, text = np.array([[1.0, 3.0, 2.0]]), "Up and down."
    >>> curve = sparkline(runs, [4, 8, 12], text, lit=(8, 12), name="CAS")
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
    told = ", ".join(f"{format(mean[i], form)} at\u00a0epoch\u00a0{at[i]:g}" for i in ends)
    said = f"<figcaption>{html.escape(name)}: {told}</figcaption>"
    return (
        f'<figure><svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(alt)}">{drawn}</svg>{said}</figure>'
    )
