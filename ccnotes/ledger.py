"""The claims that chapters and ledger judge, a family for each chapter, from published records.

Of planted parts; every seed that there is counts. Each claim is oriented: above 0 bears it out.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ccnotes.attribution import group_similarity
from ccnotes.claims import at_best
from ccnotes.records import best_and_last, every_seed
from ccnotes.verdicts import Claim, Judgement, judgements

PLAIN = "parts-at"
ACCURACY, LOSS, SIMILARITY = "robust accuracy", "robust loss, nats", "similarity"


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
    return Figures(best, last, start.set_index(seeds), near, end.set_index(seeds))


def less(first: "pd.Series[float]", second: "pd.Series[float]") -> np.ndarray:
    """First less second, of the seeds that both have."""
    return (first - second).dropna().to_numpy()


def dynamics() -> list[Judgement]:
    """Chapter 4: the rise and the fall, in another ball, and without an attack.

    >>> dynamics()[0].claim.says
    'Robust accuracy falls from the best epoch to the last'
    """
    best, last, start, near, end = figures(PLAIN)
    ball, bare = figures("parts-at-l2"), figures("parts-standard")
    fall = "falls from the best epoch to the last"
    return judgements(
        [
            Claim(
                f"Robust accuracy {fall}",
                ACCURACY,
                less(best.robust_accuracy, last.robust_accuracy),
                "0.478 to 0.425",
            ),
            Claim("Robust loss rises", LOSS, less(last.robust_loss, best.robust_loss)),
            Claim(
                "CAS rises before the best epoch",
                "CAS",
                less(near.test_robust_cas, start.test_robust_cas),
                "16.7 to 25.6",
            ),
            Claim(f"CAS {fall}", "CAS", less(best.robust_cas, last.robust_cas), "25.6 to 9.0"),
            Claim(
                "So does CAS of training images",
                "CAS",
                less(near.train_robust_cas, end.train_robust_cas),
            ),
            Claim(
                "CAS falls in an ℓ2 ball, too",
                "CAS",
                less(ball.best.robust_cas, ball.last.robust_cas),
                "22.1 to 10.7",
            ),
            Claim(
                "Clean CAS falls more with an attack than without",
                "CAS",
                less(
                    start.test_clean_cas - end.test_clean_cas,
                    bare.start.test_clean_cas - bare.end.test_clean_cas,
                ),
                "asked by reviewers",
            ),
            Claim(
                "Classes that share grow more alike before the best epoch, beyond the others",
                SIMILARITY,
                less(near.inside - near.across, start.inside - start.across),
            ),
            Claim("They grow less alike after it", SIMILARITY, less(best.inside, last.inside)),
            Claim(
                "So do their single images",
                SIMILARITY,
                less(best.single, last.single),
                "pictures",
            ),
        ]
    )


def heads() -> list[Judgement]:
    """Chapter 7: does a head that cannot move keep CAS, and a network from overfitting?

    >>> heads()[0].claim.says
    'Frozen at the first drop, a head loses less CAS'
    """
    free, rows = figures(PLAIN), []
    for title, name in {
        "Frozen at the first drop": "frozen",
        "Fixed as a simplex": "simplex",
    }.items():
        of = figures(f"{PLAIN}-head-{name}")
        rows += [
            Claim(
                f"{title}, a head loses less CAS",
                "CAS",
                less(
                    of.last.robust_cas - of.best.robust_cas,
                    free.last.robust_cas - free.best.robust_cas,
                ),
            ),
            Claim(
                f"{title}, it loses less robust accuracy",
                ACCURACY,
                less(
                    of.last.robust_accuracy - of.best.robust_accuracy,
                    free.last.robust_accuracy - free.best.robust_accuracy,
                ),
            ),
            Claim(
                f"{title}, it lets the loss rise less",
                LOSS,
                less(
                    free.last.robust_loss - free.best.robust_loss,
                    of.last.robust_loss - of.best.robust_loss,
                ),
            ),
        ]
    return judgements(rows)
