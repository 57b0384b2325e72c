"""Records beside one another: best and last epochs, runs of equal seeds, runs at equal loss."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Float

from ccnotes.records.record import Record


def best_and_last(records: Iterable[Record]) -> pd.DataFrame:
    """A row for each record and checkpoint (best, last): its scalars on the final test images.

    Before them its ``experiment``, ``eps`` of training and ``seed``. For planted images also
    ``inside``, ``across`` and so on; see :attr:`Record.table`.

    >>> import ccnotes
    >>> table = best_and_last(ccnotes.runs("planted-at", seeds=[0, 1]))
    >>> table[["seed", "checkpoint"]].values.tolist()
    [[0, 'best'], [0, 'last'], [1, 'best'], [1, 'last']]
    """
    rows = []
    for record in records:
        for which, scalars in (("best", record.best), ("last", record.last)):
            e = record.experiment
            row = {"experiment": e["name"], "eps": e["attack"]["eps"], "seed": e["seed"]}
            row |= {"checkpoint": which, **scalars}
            rows.append(row | {name: v.item() for name, v in record.by_group(which).items()})
    return pd.DataFrame(rows)


def best_minus_last(records: Iterable[Record]) -> pd.DataFrame:
    """A row for each record: ``experiment``, ``eps``, ``seed``, and what each scalar loses.

    That is :func:`best_and_last` at the best epoch less that at the last one.

    >>> import ccnotes
    >>> lost = best_minus_last(ccnotes.runs("planted-at", seeds=[0, 1]))
    >>> (lost.robust_accuracy > 0).tolist()  # robust overfitting
    [True, True]
    """
    run = ["experiment", "eps", "seed"]
    table = best_and_last(records).pivot(index=run, columns="checkpoint")
    return (table.xs("best", axis=1, level=1) - table.xs("last", axis=1, level=1)).reset_index()


def differences(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """Each row less that of the experiment ``base`` with the same seed, and the same checkpoint.

    ``table`` is that of :func:`best_and_last`, or any with the columns ``experiment`` and
    ``seed``; without a ``checkpoint`` it is one row a run. Raises ValueError where a column is
    missing, or ``base`` has not exactly one row to compare with.

    >>> table = pd.DataFrame({"experiment": ["a", "b"], "seed": 0, "robust_cas": [3.0, 5.0]})
    >>> differences(table, "a").robust_cas.tolist()
    [0.0, 2.0]
    """
    if lacking := sorted({"experiment", "seed"} - set(table)):
        raise ValueError(f"rows are compared by experiment and seed, but {lacking} is no column.")
    same = ["seed", "checkpoint"] if "checkpoint" in table else ["seed"]
    values = table.drop(columns="eps", errors="ignore").set_index(["experiment", *same])
    of_base = table.experiment == base
    wanted, there = (
        list(rows[same].itertuples(index=False, name=None)) for rows in (table, table[of_base])
    )
    if missing := set(wanted) - set(there):
        raise ValueError(
            f"{base!r} has no record of seeds {sorted({seed for seed, *_ in missing})} to compare "
            f"with (by {' and '.join(same)}): add them."
        )
    if twice := sorted({key[0] for key in there if there.count(key) > 1}):
        raise ValueError(f"{base!r} has seeds {twice} more than once: leave one row of each.")
    place = {key: number for number, key in enumerate(there)}
    less = values[of_base.to_numpy()].iloc[[place[key] for key in wanted]]
    return (values - less.to_numpy()).reset_index()


def at_equal_loss(
    groups: dict[str, list[Record]], columns: list[str], *, levels: int = 20, log: bool = False
) -> pd.DataFrame:
    """Columns of the records' tables at equal loss: a row for each group and seed.

    The loss is that on attacked training images, the cross-entropy in nats whatever was
    minimised. Of each seed ``levels`` of them are spread evenly over the range that the runs of
    all groups pass through after their first evaluation. Where a run's loss first falls to a
    level its columns are read, between evaluations on straight lines; their means over levels are
    returned. Even levels weigh the early epochs, in which the loss falls fast; ``log=True``
    spreads them evenly in its logarithm. For :func:`differences`, ``experiment`` is the group's
    name. Raises ValueError where the groups have not the same seeds, or a seed's runs no range in
    common.

    >>> import ccnotes
    >>> groups = {name: ccnotes.runs(name) for name in ("parts-at", "parts-at-l2")}
    >>> at_equal_loss(groups, ["test_robust_cas"]).columns.tolist()
    ['experiment', 'seed', 'checkpoint', 'test_robust_cas']
    """
    tables = {
        name: {record.experiment["seed"]: record.table for record in records}
        for name, records in groups.items()
    }
    seeds = {
        name: sorted(r.experiment["seed"] for r in records) for name, records in groups.items()
    }
    first = sorted(next(iter(tables.values())))  # each seed once
    if any(own != first for own in seeds.values()):
        said = "; ".join(f"{name} {own}" for name, own in seeds.items())
        raise ValueError(f"the groups must have the same seeds, each once, but have: {said}.")
    rows = []
    for seed in first:
        losses = [found[seed].train_robust_loss for found in tables.values()]
        low, high = max(loss.min() for loss in losses), min(loss.iloc[0] for loss in losses)
        if not low < high:
            raise ValueError(f"the runs of seed {seed} have no training loss in common.")
        goals = (np.geomspace if log else np.linspace)(high, low, levels + 1)[1:]
        for name, found in tables.items():
            means = {column: at_loss(found[seed], column, goals).mean() for column in columns}
            row = {"experiment": name, "seed": seed, "checkpoint": "equal loss"}
            rows.append(row | means)
    return pd.DataFrame(rows)


def at_loss(
    table: pd.DataFrame, column: str, levels: Float[np.ndarray, " levels"]
) -> Float[np.ndarray, " levels"]:
    """A column of a record's table where ``train_robust_loss`` first falls to each level.

    NaN for a level that is not reached, or was before the first evaluation.

    >>> table = pd.DataFrame({"train_robust_loss": [2.0, 1.0], "test_robust_cas": [4.0, 8.0]})
    >>> at_loss(table, "test_robust_cas", np.array([1.5, 1.0, 0.5])).tolist()
    [6.0, 8.0, nan]
    """
    loss, values = table.train_robust_loss.to_numpy(), table[column].to_numpy()
    after = np.argmax(loss <= levels[:, None], axis=1)  # 0 where there is none, too
    before = np.maximum(after - 1, 0)
    fall = np.where(after > 0, loss[before] - loss[after], np.nan)
    share = (loss[before] - levels) / fall
    return np.asarray(values[before] + share * (values[after] - values[before]))
