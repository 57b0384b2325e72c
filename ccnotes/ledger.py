"""The claims that chapters and ledger judge, a family for each chapter, from published records.

Of planted parts; every seed that there is counts. Each claim is oriented: above 0 bears it out.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from ccnotes.attribution import group_similarity, spread
from ccnotes.claims import at_best
from ccnotes.collapse import ends
from ccnotes.records import best_and_last, every_seed
from ccnotes.verdicts import Claim, Judgement, judgements

PLAIN = "parts-at"
ACCURACY, LOSS, SIMILARITY = "robust accuracy", "robust loss, nats", "similarity"
CLEAN = "clean accuracy"
RANK = "rank correlation"
MAPPED = 10  # seeds of plain AT whose Grad-CAM maps are on record
PUSHED = f"{PLAIN}-contrast-up-0.1"
KINDS = (  # of training, of which ten seeds are on record
    PLAIN,
    *(f"{PLAIN}-{name}" for name in ("distilled-0.9", "smoothing-0.3", "uniform", "permuted")),
    *(f"{PLAIN}-{name}" for name in ("averaged", "head-frozen", "head-simplex")),
    PUSHED,
)


class Figures(NamedTuple):
    """What is known of the runs of an experiment, a row a seed, at five moments."""

    best: pd.DataFrame  # on the final test images
    last: pd.DataFrame
    start: pd.DataFrame  # between epochs: at the first evaluation
    near: pd.DataFrame  # at the one nearest to the best epoch
    end: pd.DataFrame  # at the last


def figures(name: str) -> Figures:
    """The figures of a named experiment, of all seeds that are published.

    >>> figures("parts-at-l2").last.robust_accuracy.index.tolist()
    [0, 1, 2, 3, 4]
    """
    records = every_seed(name)
    seeds = pd.Index([record.configuration.seed for record in records], name="seed")
    table = best_and_last(records).set_index("seed")
    single = "robust_instance_similarity"
    best, last = (
        table[table.checkpoint == which].assign(
            beyond=lambda of: of.inside - of.across,
            single=[
                inside.item() - across.item()
                for inside, across in (
                    group_similarity(r.arrays[f"{which}_{single}"], r.groups) for r in records
                )
            ],
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
        ("They grow less alike after it, beyond the others", SIMILARITY, fall(plain, "beyond"), ""),
        ("So do their single images", SIMILARITY, fall(plain, "single"), "pictures"),
    ]
    return judged(rows)


def soft_labels() -> list[Judgement]:
    """Chapter 5: what soft labels keep, and whether by their entropy or by what they say.

    Each network at its last epoch, beside another one of its seed.

    >>> soft_labels()[0].claim.says
    'Distilled: more robust than plain'
    """
    plain = figures(PLAIN).last
    taught, smooth, even, permuted, averaged = (
        figures(f"{PLAIN}-{name}").last
        for name in ("distilled-0.9", "smoothing-0.3", "uniform", "permuted", "averaged")
    )
    alike = "classes that share stay more alike"
    rows = [
        *beside("Distilled", taught, "plain", plain, "0.462, 0.425"),
        (f"Distilled: {alike}", SIMILARITY, taught.inside - plain.inside, ""),
        *beside("Smoothed", smooth, "plain", plain, "0.463, 0.425"),
        (f"Smoothed: {alike}", SIMILARITY, smooth.inside - plain.inside, ""),
        *beside("Even labels", even, "plain", plain),
        *beside("Distilled", taught, "even labels", even),
        *beside("Distilled", taught, "permuted labels", permuted),
        *beside("Distilled", taught, "averaged labels", averaged),
        (
            f"Averaged labels: {alike} than distilled",
            SIMILARITY,
            averaged.inside - taught.inside,
            "",
        ),
    ]
    return judged(rows)


def overfitting() -> list[Judgement]:
    """Chapter 6: does what keeps shared features keep robust accuracy?

    >>> overfitting()[0].claim.unit
    'rank correlation'
    """
    kinds = {name: figures(name) for name in KINDS}
    plain, pushed = kinds[PLAIN], kinds[PUSHED]
    accuracy_kept, cas_kept, similarity_kept = (
        pd.DataFrame({name: -fall(of, column) for name, of in kinds.items()}).dropna()
        for column in ("robust_accuracy", "robust_cas", "beyond")
    )
    ranks = [
        kept.corrwith(accuracy_kept, axis=1, method="spearman")
        for kept in (cas_kept, similarity_kept)
    ]
    worlds = {0: figures(f"{PLAIN}-shared-0"), 1: plain, 2: figures(f"{PLAIN}-shared-2")}
    rows = [
        (
            f"In {len(KINDS)} kinds of training CAS and accuracy are kept together",
            RANK,
            ranks[0],
            "",
        ),
        ("So are the similarity of pairs, beyond the others, and accuracy", RANK, ranks[1], ""),
        (
            "A push on the contrast leaves more of it",
            SIMILARITY,
            pushed.last.beyond - plain.last.beyond,
            "",
        ),
        *beside("Pushed so", pushed.last, "plain", plain.last),
    ]
    for says, unit, column, sign in (
        ("The more classes share, the more accuracy falls", ACCURACY, "robust_accuracy", 1),
        ("The more classes share, the more loss rises", LOSS, "robust_loss", -1),
    ):
        falls = pd.DataFrame({n: sign * fall(of, column) for n, of in worlds.items()}).dropna()
        slopes = np.polyfit(list(worlds), falls.to_numpy().T, 1)[0]
        rows.append((says, unit, pd.Series(slopes, falls.index), ""))
    maps = [record.cams for record in every_seed(PLAIN)[:MAPPED]]
    covered = [{end: spread(of).nanmean().item() for end, of in cams.items()} for cams in maps]
    less = pd.Series([of["best"] - of["last"] for of in covered])
    rows.append(("Grad-CAM maps cover less at the last epoch", "share of places", less, "pictures"))
    return judged(rows)


def beside(
    what: str, of: pd.DataFrame, than: str, other: pd.DataFrame, told: str = ""
) -> list[tuple[str, str, "pd.Series[float]", str]]:
    """Two rows of a family: networks end more robust than others, and with less loss."""
    accuracy = of.robust_accuracy - other.robust_accuracy
    loss = other.robust_loss - of.robust_loss
    return [
        (f"{what}: more robust than {than}", ACCURACY, accuracy, told),
        (f"{what}: less loss than {than}", LOSS, loss, ""),
    ]


def heads() -> list[Judgement]:
    """Chapter 7: is what classes share used less, and does a head that cannot move keep it?

    Of CAS the share is judged that is left at the end: heads differ in how much they have at best.

    >>> heads()[1].claim.says
    'Frozen at the first drop, a head keeps more of its CAS'
    """
    free = figures(PLAIN)
    best, last = (of.test_robust_accuracy - of.without_shared_robust_accuracy for of in free[3:])
    used = "Leaving out the shared part costs less accuracy at the end than at the best epoch"
    rows = [(used, ACCURACY, best - last, "features are dropped")]
    for title, name in (("Frozen at the first drop", "frozen"), ("Fixed as a simplex", "simplex")):
        of = figures(f"{PLAIN}-head-{name}")
        kept, others = (f.last.robust_cas / f.best.robust_cas for f in (of, free))
        rows.append((f"{title}, a head keeps more of its CAS", "share of CAS", kept - others, ""))
        for what, unit, column, sign in (
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
