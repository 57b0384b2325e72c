"""The claims that chapters and ledger judge, a family for each chapter, from published records.

Of planted parts; every seed that there is counts. Each claim is oriented: above 0 bears it out.
"""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from ccnotes.attribution import group_similarity
from ccnotes.claims import at_best
from ccnotes.collapse import ends
from ccnotes.records import best_and_last, every_seed
from ccnotes.verdicts import Claim, Judgement, judgements

PLAIN = "parts-at"
ACCURACY, LOSS, SIMILARITY = "robust accuracy", "robust loss, nats", "similarity"
CLEAN = "clean accuracy"


class Figures(NamedTuple):
    """What is known of the runs of an experiment, a row a seed, at five moments."""

    best: pd.DataFrame  # on the final test images
    last: pd.DataFrame
    start: pd.DataFrame  # between epochs: at the first evaluation
    near: pd.DataFrame  # at the one nearest to the best epoch
    end: pd.DataFrame  # at the last


def figures(name: str) -> Figures:
    """The figures of a named experiment, of all seeds that are published.

    >>> figures("planted-at-swa").last.robust_accuracy.index.tolist()
    [0, 1, 2, 3, 4]
    """
    records = every_seed(name)
    seeds = pd.Index([record.configuration.seed for record in records], name="seed")
    table = best_and_last(records).set_index("seed")
    single = "robust_instance_similarity"
    best, last = (
        table[table.checkpoint == which].assign(
            single=[
                group_similarity(r.arrays[f"{which}_{single}"], r.groups)[0].item() for r in records
            ]
        )
        for which in ("best", "last")
    )
    looks = [record.table.select_dtypes("number") for record in records]
    start, end = (pd.DataFrame([look.iloc[i] for look in looks], seeds) for i in (0, -1))
    near = pd.DataFrame([at_best(record).to_dict() for record in records], seeds)
    return Figures(best, last, start, near, end)


def fall(of: Figures, column: str) -> "pd.Series[float]":
    """What a column loses from the best epoch to the last, by seed."""
    return of.best[column] - of.last[column]


def dynamics() -> list[Judgement]:
    """Chapter 4: the rise and the fall, in another ball, and without an attack.

    >>> dynamics()[0].claim.says
    'Robust accuracy falls from the best epoch to the last'
    """
    plain, ball, bare = figures(PLAIN), figures("parts-at-l2"), figures("parts-standard")
    start, near, end = plain.start, plain.near, plain.end
    clean = [of.start.test_clean_cas - of.end.test_clean_cas for of in (plain, bare)]
    apart = [of.inside - of.across for of in (near, start)]
    grow = "Classes that share grow more alike before the best epoch, beyond the others"
    falls = "falls from the best epoch to the last"
    rows = [
        (f"Robust accuracy {falls}", ACCURACY, fall(plain, "robust_accuracy"), "0.478 to 0.425"),
        ("Robust loss rises", LOSS, -fall(plain, "robust_loss"), ""),
        (
            "CAS rises before the best epoch",
            "CAS",
            near.test_robust_cas - start.test_robust_cas,
            "16.7 to 25.6",
        ),
        (f"CAS {falls}", "CAS", fall(plain, "robust_cas"), "25.6 to 9.0"),
        ("So does CAS of training images", "CAS", near.train_robust_cas - end.train_robust_cas, ""),
        ("CAS falls in an ℓ2 ball, too", "CAS", fall(ball, "robust_cas"), "22.1 to 10.7"),
        (
            "Clean CAS falls more with an attack than without",
            "CAS",
            clean[0] - clean[1],
            "asked by reviewers",
        ),
        (grow, SIMILARITY, apart[0] - apart[1], ""),
        ("They grow less alike after it", SIMILARITY, fall(plain, "inside"), ""),
        ("So do their single images", SIMILARITY, fall(plain, "single"), "pictures"),
    ]
    return judged(rows)


def heads() -> list[Judgement]:
    """Chapter 7: does a head that cannot move keep CAS, and a network from overfitting?

    >>> heads()[0].claim.says
    'Frozen at the first drop, a head loses less CAS'
    """
    free, rows = figures(PLAIN), []
    for title, name in (("Frozen at the first drop", "frozen"), ("Fixed as a simplex", "simplex")):
        of = figures(f"{PLAIN}-head-{name}")
        for what, unit, column, sign in (
            ("a head loses less CAS", "CAS", "robust_cas", 1),
            ("it loses less robust accuracy", ACCURACY, "robust_accuracy", 1),
            ("it lets the loss rise less", LOSS, "robust_loss", -1),
        ):
            spared = sign * (fall(free, column) - fall(of, column))
            rows.append((f"{title}, {what}", unit, spared, ""))
    return judged(rows)


def neighbours() -> tuple[list[Judgement], list[str]]:
    """Chapter 8: what is said of one step and of smoothing, and which of it no run here tests.

    >>> judgements, untested = neighbours()
    >>> untested[0]
    'Without projection FGSM-RS holds to 11/255'
    """
    others = {"n-fgsm": "N-FGSM", "gradalign": "GradAlign", "pgd2": "PGD-2"}
    vat = "parts-vat"
    told: list[tuple[str, str, str, str, str]] = []  # a column of some runs, less that of others
    for eps, at in ((8, ""), (12, "-eps12"), (16, "-eps16")):
        where, fgsm = f"at {eps}/255", f"fast-fgsm{at}"
        told.append((f"FGSM collapses {where}", ACCURACY, "fooled", fgsm, ""))
        for name, title in others.items():
            says = f"{title} stays more robust than FGSM {where}"
            told.append((says, ACCURACY, "longer_accuracy", f"fast-{name}{at}", fgsm))
    fast, noise = "fast-fgsm-eps12", "fast-n-fgsm-eps12"
    told += [
        ("CAS is lower after it, at 12/255", "CAS", "robust_cas", noise, fast),
        ("VAT errs less than random steps", CLEAN, "clean_accuracy", vat, f"{vat}-random"),
        ("VAT errs less than labels alone", CLEAN, "clean_accuracy", vat, f"{vat}-supervised"),
        ("VAT with entropy errs less still", CLEAN, "clean_accuracy", f"{vat}-entropy", vat),
    ]
    rows, untested = [], ["Without projection FGSM-RS holds to 11/255"]
    for says, unit, column, more, less in told:
        found = [ends([name]) for name in (more, less) if name]
        if all(map(len, found)):
            values = [of.set_index("seed")[column] for of in found]
            rows.append((says, unit, values[0] - values[1] if less else values[0], ""))
        else:
            untested.append(says)
    return judged(rows), untested


def judged(rows: Iterable[tuple[str, str, "pd.Series[float]", str]]) -> list[Judgement]:
    """What the runs say of a family of claims, of the seeds that all of a claim's figures have."""
    return judgements(
        Claim(says, unit, of.dropna().to_numpy(), told) for says, unit, of, told in rows
    )
