"""What runs over several seeds bear out, as numbers and in words."""

import math
import re
from collections.abc import Collection, Iterable, Sequence, Sized
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy import stats
from torch import Tensor

FEW = 4  # runs from which on an interval is shown; of fewer it says nothing but that they are few
LEVEL = 0.05  # of p-values, corrected, up to which a claim gets a verdict


def interval(values: Collection[float]) -> tuple[float, float]:
    """Student's 95 % confidence interval for the mean of independent runs, such as seeds.

    Raises ValueError for fewer than two values, which have no interval.

    >>> [round(end, 2) for end in interval([1, 2, 3])]  # 2 -+ 4.303 / sqrt(3)
    [-0.48, 4.48]
    """
    runs = per_run(values)
    if len(runs) < 2:
        raise ValueError(f"an interval needs two values or more, got {len(runs)}: add seeds.")
    half = stats.t.ppf(0.975, len(runs) - 1) * stats.sem(runs)
    return float(runs.mean() - half), float(runs.mean() + half)


def per_run(values: Collection[float]) -> Float[np.ndarray, " runs"]:
    """The values as an array. Raises ValueError unless there is one number per run, and a run."""
    runs = np.asarray(values, dtype=float)
    if runs.ndim != 1 or not len(runs):
        raise ValueError(
            f"values of shape {runs.shape}, where one number per run is wanted, of at least one "
            f"run: are there finished runs?"
        )
    return runs


class Claim(NamedTuple):
    """What somebody says of runs, and one difference for each of them."""

    says: str
    unit: str  # of the differences
    differences: Collection[float]  # above 0 where a run bears the claim out
    paper: str = ""  # what the paper reports


class Judgement(NamedTuple):
    """What the runs say of a claim; made by :func:`judgements`."""

    claim: Claim
    p: float  # exact, of no difference
    corrected: float  # that p for the family that the claim stands in; NaN without a word
    word: str  # supported, contradicted, undecided; none where the runs are too few to say


def judgements(family: Iterable[Claim]) -> list[Judgement]:
    """A verdict on each claim of a family.

    "supported" or "contradicted" where the p-value of :func:`sign_flip`, corrected by
    :func:`holm`, is at most :data:`LEVEL`, 0.05; else "undecided". Fewer than six runs cannot reach
    that whatever they say: they get no word, and count for nothing in the correction. Raises
    ValueError for a claim without a run, and for NaN.

    >>> falls = Claim("accuracy falls", "accuracy", [0.1, 0.2, 0.1, 0.3, 0.2, 0.1])
    >>> rises = Claim("loss rises", "nats", [0.1, 0.2])
    >>> [judgement.word for judgement in judgements([falls, rises])]
    ['supported', '']
    """
    claims = list(family)
    for claim in claims:
        runs = per_run(claim.differences)
        if not np.isfinite(runs).all():
            raise ValueError(
                f"{claim.says!r} rests on {runs.tolist()}, with NaN or infinity in it, so no "
                f"verdict follows: look at what these runs measured, or leave them out."
            )
    p = [sign_flip(claim.differences) for claim in claims]
    able = [i for i, claim in enumerate(claims) if 2 * 0.5 ** len(claim.differences) <= LEVEL]
    corrected = dict(zip(able, holm([p[i] for i in able]), strict=True))
    found = []
    for i, claim in enumerate(claims):
        after = corrected.get(i, math.nan)
        word = "undecided" if i in corrected else ""
        if after <= LEVEL:
            word = "supported" if per_run(claim.differences).mean() > 0 else "contradicted"
        found.append(Judgement(claim, p[i], after, word))
    return found


class Measured(NamedTuple):
    """A number of each of several runs, and what was predicted of it, if something was."""

    says: str  # what was measured
    unit: str
    runs: Collection[float]
    full: float | None = None  # of the one run at full size, where that was made
    predicted: str = ""  # in words
    at_least: float | None = None  # the predicted limit, one of the two
    at_most: float | None = None
    refuted: float | None = None  # the value beyond which the prediction is refuted

    @property
    def outcome(self) -> str:
        """As :func:`outcome` has it; none where nothing was predicted."""
        if self.at_least is None and self.at_most is None:
            return ""
        return outcome(
            self.runs, at_least=self.at_least, at_most=self.at_most, refuted=self.refuted
        )


def outcome(
    values: Collection[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    refuted: float | None = None,
) -> str:
    """What runs of several seeds say of a prediction, by the 95 % interval of their mean.

    "as predicted" where all of it is ``at_least`` or ``at_most`` so much, "not as predicted" where
    none of it is, and "refuted" where, moreover, all of it lies on the other side of ``refuted``;
    else "could be either". Of fewer than :data:`FEW` runs, 4, nothing is said.

    >>> outcome([0.9, 0.91, 0.92, 0.93], at_least=0.85, refuted=0.6)
    'as predicted'
    >>> outcome([0.3, 0.31, 0.32, 0.33], at_most=0.2), outcome([0.9], at_least=0.85)
    ('not as predicted', '')
    """
    if (at_least is None) == (at_most is None):
        raise ValueError(f"at_least={at_least}, at_most={at_most}: give one of the two.")
    if len(values) < FEW:
        return ""
    low, high = interval(values)
    if at_most is not None:  # the same, seen in a mirror
        low, high, at_least = -high, -low, -at_most
        refuted = None if refuted is None else -refuted
    assert at_least is not None
    if low >= at_least:
        return "as predicted"
    if refuted is not None and high < refuted:
        return "refuted"
    return "not as predicted" if high < at_least else "could be either"


def sign_flip(differences: Collection[float]) -> float:
    """Exact two-sided p-value of differences that are as likely to be positive as negative.

    The share of all ways to give them signs whose sum is at least as far from 0 as theirs
    (Fisher, 1935). Of n runs it cannot be below 2 / 2**n. At most 24 of them.

    >>> sign_flip([1.0, 2.0, 3.0])  # of eight ways, all + and all -
    0.25
    """
    runs = per_run(differences)
    if len(runs) > 24:
        raise ValueError(f"{len(runs)} runs have too many signs to try all: give at most 24.")
    sums = np.zeros(1)
    for size in np.abs(runs):
        sums = np.concatenate([sums + size, sums - size])
    rounding = 1e-9 * np.abs(runs).sum()
    return float((np.abs(sums) >= abs(runs.sum()) - rounding).mean())


def holm(p: Sequence[float]) -> list[float]:
    """The p-values of a family, each corrected for the number of them (Holm, 1979).

    The least times their number, the next times one less, and so on, none below one before.

    >>> holm([0.03, 0.01, 0.04])
    [0.06, 0.03, 0.06]
    """
    order = np.argsort(p)
    steps = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return [float(value) for value in corrected]


def mcnemar(
    first: Int[Tensor, " samples"] | UInt8[Tensor, " samples"],
    second: Int[Tensor, " samples"] | UInt8[Tensor, " samples"],
) -> float:
    """Exact p-value for equal accuracy of two models, from who is right (1) on the same images.

    Of the images on which one of the two is right, each is as likely as the other to be it
    (McNemar, 1947).

    >>> first, second = torch.tensor([1, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 0, 1])
    >>> round(mcnemar(first, second), 6)  # 2 / 2**5
    0.0625
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(
            f"{tuple(first.shape)} and {tuple(second.shape)} answers: give both models' to the "
            f"same images, and at least one."
        )
    if wrong := sorted({*first.tolist(), *second.tolist()} - {0, 1}):
        raise ValueError(
            f"answers are {wrong[0]}, where 1 is right and 0 is wrong: give whether each is right, "
            f"as (logits.argmax(1) == labels).byte() does."
        )
    gained, lost = int((second > first).sum()), int((second < first).sum())
    return float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def described(values: Collection[float], form: str = ".3f") -> str:
    """Mean, interval and number of runs, in words: "0.41 (0.38 to 0.44, n = 5)".

    Of fewer than :data:`FEW` runs, 4, an interval says nothing: each of them stands there instead,
    "0.40, 0.42 (n = 2)". The forms "" and "+" give two digits of the interval's half width or,
    where there is none, three of the largest value.

    >>> described([0.4, 0.5, 0.6, 0.5], ".2f").replace("\u00a0", " ")
    '0.50 (0.37 to 0.63, n = 4)'
    >>> described([0.4, 0.5, 0.6], ".2f").replace("\u00a0", " ")
    '0.40, 0.50, 0.60 (n = 3)'
    """
    runs = per_run(values)
    few = len(runs) < FEW
    low, high = (runs[0], runs[0]) if few else interval(runs)
    if form in ("", "+"):
        half, size = (high - low) / 2, np.abs(runs).max()
        scale, digits = (half, 2) if half > 1e-9 * size else (size, 3)
        first = math.floor(math.log10(scale)) if 0 < scale < math.inf else 0
        form += f".{max(0, digits - 1 - first)}f"
    if few:
        return f"{', '.join(written(run, form) for run in runs)} ({n_of(runs)})"
    mean, *ends = (written(value, form) for value in (runs.mean(), low, high))
    return f"{mean} ({ends[0]} to {ends[1]}, {n_of(runs)})"


def found(differences: Collection[float]) -> str:
    """What the runs of a claim show, in words: as :func:`described`, with their signs.

    >>> found([0.123, -0.25]).replace("\u00a0", " ")
    '+0.123, -0.250 (n = 2)'
    """
    return described(differences, "+")


def written(value: float, form: str) -> str:
    """``value`` in that form; what rounds to zero has no sign.

    >>> written(-0.001, ".2f"), written(-0.001, ".3f")
    ('0.00', '-0.001')
    """
    text = format(value, form)
    return text if re.search("[1-9]", text) else text.lstrip("+-")


def n_of(runs: Sized) -> str:
    """The number of runs, in one piece: "n = 5" with spaces at which no line breaks.

    >>> print(*n_of([0.4, 0.5, 0.6]).split())
    n = 3
    """
    return f"n\u00a0=\u00a0{len(runs)}"


def bootstrapped(value: float, draws: Float[Tensor, " draws"], form: str = ".1f") -> str:
    """A figure and the 95 % of its bootstrap draws, in words: "3.7 (1.0 to 6.5)".

    >>> bootstrapped(50, torch.arange(101.0))
    '50.0 (2.5 to 97.5)'
    """
    if not len(draws) or not draws.isfinite().all():
        raise ValueError(
            f"{len(draws)} draws, of which {int(draws.isfinite().sum())} are finite: give a few "
            f"hundred draws that are, as cas_draws(..., draws=1000) does."
        )
    low, high = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{written(value, form)} ({written(low, form)} to {written(high, form)})"
