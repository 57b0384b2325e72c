"""The claims that chapters and ledger judge, a family for each chapter, from published records.

Of planted parts; every seed that there is counts. Each claim is oriented: above 0 bears it out.
"""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd
import torch

from ccnotes.attribution import group_similarity, share_on, spread
from ccnotes.claims import at_best, shared_part_used
from ccnotes.collapse import ends
from ccnotes.parts import SIZE, parts
from ccnotes.records import Record, best_and_last, every_seed
from ccnotes.verdicts import Claim, Judgement, judgements

PLAIN = "parts-at"
ACCURACY, LOSS, SIMILARITY = "robust accuracy", "robust loss, nats", "similarity"
CLEAN = "clean accuracy"
RANK = "rank correlation"
LONGER = "longer_accuracy"  # under many more steps, of chapter 9's runs
MAPPED = 10  # seeds of plain AT whose Grad-CAM maps are on record
SIMILAR = f"{PLAIN}-contrast-up-0.1"  # whose similarity of pairs is forced
USING, PLACEBO = f"{PLAIN}-use-shared", f"{PLAIN}-use-own"  # which part's use is forced
KINDS = (  # of training, of which ten seeds are on record
    PLAIN,
    *(f"{PLAIN}-{name}" for name in ("distilled-0.9", "smoothing-0.3", "uniform", "permuted")),
    *(f"{PLAIN}-{name}" for name in ("averaged", "head-frozen", "head-simplex")),
    SIMILAR,
    USING,
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
    looks = [
        record.table.select_dtypes("number").assign(used=shared_part_used(record).numpy())
        for record in records
    ]
    start, end = (pd.DataFrame([look.iloc[i] for look in looks], seeds) for i in (0, -1))
    nearest = [
        look[look.epoch == at_best(of).epoch] for of, look in zip(records, looks, strict=True)
    ]
    near = pd.concat(nearest).set_axis(seeds)
    best, last = (
        table[table.checkpoint == which].assign(
            beyond=lambda of: of.inside - of.across,
            used=between.used,
            single=[
                inside.item() - across.item()
                for inside, across in (
                    group_similarity(r.arrays[f"{which}_{single}"], r.groups) for r in records
                )
            ],
        )
        for which, between in (("best", near), ("last", end))
    )
    return Figures(best, last, start, near, end)


def fall(of: Figures, column: str) -> "pd.Series[float]":
    """What a column loses from the best epoch to the last, by seed.

    The column ``used``, the use of the shared part, is that between epochs, near the best one.
    """
    return of.best[column] - of.last[column]


def goes_on(of: Figures, other: Figures, column: str) -> "pd.Series[float]":
    r"""How much of a fall of others goes on, as a share: 1 as with them, 0 where nothing falls.

    Of the seeds ``s`` that both have, a number for each. With the falls f and those of the others g

    .. math:: R + (f_s - R g_s) / \bar g, \qquad R = \bar f / \bar g

    so that their mean is the ratio of the mean falls, and Student's interval of them that of the
    ratio estimator (Cochran, Sampling Techniques, 1977, chapter 6).

    >>> plain, forced = figures("parts-at"), figures("parts-at-contrast-up-0.1")
    >>> f"{goes_on(forced, plain, 'robust_accuracy').mean():.2f}"
    '0.93'
    """
    mine, theirs = fall(of, column).align(fall(other, column), join="inner")
    ratio = mine.mean() / theirs.mean()
    return ratio + (mine - ratio * theirs) / theirs.mean()


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
            "CAS of clean images falls more after training with an attack",
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

    Each network beside another one of its seed, at its last epoch where nothing else is said.

    >>> soft_labels()[0].claim.says
    "A teacher's labels: more robust than plain"
    """
    free, taught, smooth, even, averaged = (
        figures(f"{PLAIN}{name}")
        for name in ("", "-distilled-0.9", "-smoothing-0.3", "-uniform", "-averaged")
    )
    plain, alike = free.last, "classes that share stay more alike"
    rows = [
        *beside("A teacher's labels", taught.last, "plain", plain, "0.462, 0.425"),
        *beside("Averaged labels", averaged.last, "plain", plain),
        *beside("Smoothed labels", smooth.last, "plain", plain),
        *beside("Even labels", even.last, "plain", plain),
        *beside("A teacher's labels", taught.last, "even labels", even.last),
        *beside("A teacher's labels", taught.last, "averaged labels", averaged.last),
        *spared("A teacher's labels", taught, free),
        *spared("Even labels", even, free),
    ]
    for title, of in (
        ("A teacher's labels", taught),
        ("Smoothed labels", smooth),
        ("Even labels", even),
    ):
        gain = of.best.robust_accuracy - free.best.robust_accuracy
        rows.append((f"{title}: best network more robust than plain", ACCURACY, gain, ""))
    rows += [
        (f"A teacher's labels: {alike}", SIMILARITY, taught.last.inside - plain.inside, ""),
        (f"Smoothed labels: {alike}", SIMILARITY, smooth.last.inside - plain.inside, ""),
        (
            f"Averaged labels: {alike} than a teacher's",
            SIMILARITY,
            averaged.last.inside - taught.last.inside,
            "",
        ),
        ("Even labels: the shared part is still used", "pair accuracy", even.end.used, ""),
    ]
    return judged(rows)


def overfitting() -> list[Judgement]:
    """Chapter 6: does what keeps shared features keep robust accuracy?

    >>> overfitting()[0].claim.unit
    'rank correlation'
    """
    kinds = {name: figures(name) for name in KINDS}
    plain, similar, using = (kinds[name] for name in (PLAIN, SIMILAR, USING))
    kept = kept_together(kinds.values())
    cas, accuracy = (
        [of.best[column] for of in kinds.values()] for column in ("robust_cas", "robust_accuracy")
    )
    over, together = f"Over {len(KINDS)} kinds", "and accuracy are kept together"
    rows = [
        (f"{over}, CAS {together}", RANK, kept.CAS, ""),
        (f"{over}, contrast {together}", RANK, kept.contrast, ""),
        (f"{over}, use of the shared part {together}", RANK, kept.use, ""),
        (f"{over}, best networks with more CAS are more robust", RANK, ranks(cas, accuracy), ""),
        (
            "Similarity forced: contrast is higher at the end",
            SIMILARITY,
            similar.last.beyond - plain.last.beyond,
            "",
        ),
        (
            "Similarity forced: use of the shared part falls less",
            "pair accuracy",
            fall(plain, "used") - fall(similar, "used"),
            "",
        ),
        *spared("Similarity forced", similar, plain),
        (
            "Use forced: use of the shared part falls less",
            "pair accuracy",
            fall(plain, "used") - fall(using, "used"),
            "",
        ),
        *spared("Use forced", using, plain),
        *spared("Use forced, beside its placebo", using, figures(PLACEBO)),
        *spared("Nothing to share", figures(f"{PLAIN}-shared-0"), plain),
        *spared("Twice as much to share", figures(f"{PLAIN}-shared-2"), plain),
    ]
    of_maps = pd.DataFrame([lost_by_maps(record) for record in every_seed(PLAIN)[:MAPPED]])
    share = "share of the map"
    rows += [
        ("Grad-CAM maps cover less at the last epoch", "share of places", of_maps[0], "pictures"),
        (
            "Grad-CAM maps lie less on the shared part at the last epoch",
            share,
            of_maps[1],
            "pictures",
        ),
    ]
    return judged(rows)


def kept_together(kinds: Iterable[Figures]) -> pd.DataFrame:
    """Whether kinds of training that keep more of a measure keep more robust accuracy.

    Spearman's rank correlation over ``kinds``, by seed, of what is kept of CAS, of contrast and
    of the use of the shared part with what is kept of robust accuracy.

    >>> plain, taught = figures("parts-at"), figures("parts-at-distilled-0.9")
    >>> kept_together([plain, taught]).use.round(3).tolist()[:3]
    [1.0, 1.0, 1.0]
    """
    of = [*kinds]
    accuracy = [-fall(one, "robust_accuracy") for one in of]
    kept = {
        "CAS": [-fall(one, "robust_cas") for one in of],
        "contrast": [-fall(one, "beyond") for one in of],
        "use": [-fall(one, "used") for one in of],
    }
    return pd.DataFrame({name: ranks(values, accuracy) for name, values in kept.items()})


def ranks(one: list["pd.Series[float]"], other: list["pd.Series[float]"]) -> "pd.Series[float]":
    """Spearman's rank correlation over kinds of training, of each seed that all of them have."""
    first, second = (pd.concat(of, axis=1, ignore_index=True).dropna() for of in (one, other))
    return first.corrwith(second, axis=1, method="spearman")


def lost_by_maps(record: Record) -> list[float]:
    """What Grad-CAM maps lose from the best epoch to the last.

    Of their spread, and of the share that lies on the shared part: means over the final test
    images, whose parts are drawn once more.
    """
    e = record.configuration
    drawn = parts(len(record.cams["best"]), e.parts, seed=e.seed, split="test")
    best, last = (
        torch.stack(
            [spread(maps), share_on(maps, drawn.shared_corners, SIZE, drawn.images.shape[-1])]
        ).nanmean(1)
        for maps in (record.cams["best"], record.cams["last"])
    )
    lost: list[float] = (best - last).tolist()
    return lost


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


def spared(
    what: str, of: Figures, other: Figures
) -> list[tuple[str, str, "pd.Series[float]", str]]:
    """Two rows of a family: networks lose less from the best epoch to the last than others."""
    rows = (
        ("accuracy falls less", ACCURACY, "robust_accuracy", 1),
        ("loss rises less", LOSS, "robust_loss", -1),
    )
    return [
        (f"{what}: {says}", unit, sign * (fall(other, column) - fall(of, column)), "")
        for says, unit, column, sign in rows
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
        rows += spared(title, of, free)
    return judged(rows)


def neighbours() -> tuple[list[Judgement], list[str]]:
    """Chapter 8: what is said of one step and of smoothing, and which of it no run here tests.

    >>> judgements, untested = neighbours()
    >>> untested[0]
    'Without projection FGSM-RS holds to 11/255'
    """
    others = {"n-fgsm": "N-FGSM", "gradalign": "GradAlign", "pgd2": "PGD-2"}
    others["gradalign-strong"] = "GradAlign, 1.6 times as strong,"
    vat = "parts-vat"
    told: list[tuple[str, str, str, str, str]] = []  # a column of some runs, less that of others
    for eps, at in ((8, ""), (12, "-eps12"), (16, "-eps16")):
        where, fgsm = f"at {eps}/255", f"fast-fgsm{at}"
        told.append((f"FGSM collapses {where}", ACCURACY, "fooled", fgsm, ""))
        for name, title in others.items():
            says = f"{title} stays more robust than FGSM {where}"
            told.append((says, ACCURACY, LONGER, f"fast-{name}{at}", fgsm))
    fast, noise, taught, even, rs, loose = (
        f"fast-{name}-eps12"
        for name in (
            "fgsm",
            "n-fgsm",
            "fgsm-distilled",
            "fgsm-uniform",
            "fgsm-rs",
            "fgsm-rs-unprojected",
        )
    )
    told += [
        ("A teacher's labels keep FGSM more robust, at 12/255", ACCURACY, LONGER, taught, fast),
        ("A teacher's labels do so more than even labels", ACCURACY, LONGER, taught, even),
        ("FGSM-RS is more robust without projection, at 12/255", ACCURACY, LONGER, loose, rs),
        ("CAS is lower after the collapse, at 12/255", "CAS", "robust_cas", noise, fast),
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
