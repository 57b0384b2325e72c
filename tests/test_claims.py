"""The numbers behind the predictions, on records made by hand."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from ccnotes import claims
from ccnotes.records import Record

EYE, ONES = torch.eye(3), torch.ones(3, 3)


def record(**fields):
    """Best: all classes share all features, and one head row. Last: neither."""
    table = pd.DataFrame({"epoch": [2, 4, 6], "train_robust_cas": [5.0, 4.0, 3.0]})
    arrays = {"best_robust_class_means": ONES, "last_robust_class_means": EYE + 0.1}
    arrays |= {"best_head.weight": ONES, "last_head.weight": EYE}
    best = {"epoch": 3, "robust_cas": 6.0, "robust_accuracy": 0.5} | fields.pop("best", {})
    made = Record(folder=Path(), content={"best": best, "last": {"robust_accuracy": 0.4}})
    vars(made).update({"table": table, "arrays": arrays} | fields)  # in the place of its files
    return made


def test_what_is_kept_of_cas_after_each_swap():
    """Six pairs of cosine 1 at best; with the last means (1.1 against 0.1) 6 of 0.23 / 1.23."""
    found = [claims.cas_kept_by(record(), what) for what in ("features", "head", "neither")]
    assert found == pytest.approx([0.23 / 1.23, 0.0, 0.0], abs=1e-6)


def test_the_evaluation_at_the_best_epoch_is_the_nearest_of_two_the_earlier():
    assert claims.at_best(record()).epoch == 2
    assert claims.at_best(record(best={"epoch": 5.5})).epoch == 6
    assert claims.last_to_best(record(), "train_robust_cas") == pytest.approx(3 / 5)
    assert claims.fall_of_accuracy(record()) == pytest.approx(0.1)


def test_cas_of_swaps_has_features_in_rows_and_heads_in_columns():
    vectors = {"test_robust_class_means": torch.stack([ONES, EYE + 0.1])}
    vectors["head_weight"] = torch.stack([ONES, EYE])
    found = claims.cas_of_swaps(record(vectors=vectors), "test")
    torch.testing.assert_close(found, torch.tensor([[6.0, 0.0], [6 * 0.23 / 1.23, 0.0]]))


def test_what_the_best_head_and_a_temperature_win_back():
    swaps = {
        "accuracy": torch.tensor([[0.6, 0.58], [0.45, 0.4]]),
        "loss": torch.tensor([[1.0, 1.2], [1.5, 2.0]]),
        "calibrated_loss": torch.tensor([[0.9, 1.0], [1.0, 1.2]]),
    }
    assert claims.accuracy_won_back(record(swaps=swaps)) == pytest.approx(0.05 / 0.2)
    assert claims.loss_won_back(record(swaps=swaps)) == pytest.approx(1 - 0.3 / 1.0)


def test_accuracies_of_swaps_bear_the_names_of_their_features_and_heads():
    made = record(swaps={"accuracy": torch.tensor([[0.6, 0.58], [0.45, 0.4]])})
    found = claims.accuracies_of_swaps({"mine": [made]}).set_index("network")
    assert found.accuracy["best features, last head"] == pytest.approx(0.58)
    assert found.accuracy["last features, best head"] == pytest.approx(0.45)
    assert found.group.unique().tolist() == ["mine"]


@pytest.mark.parametrize(
    ("values", "rule", "said"),
    [
        ([0.9, 0.92, 0.91], {"at_least": 0.85, "refuted": 0.6}, "as predicted"),
        ([0.9, 0.8, 1.0], {"at_least": 0.85, "refuted": 0.6}, "undecided"),
        ([0.5, 0.51, 0.49], {"at_least": 0.85, "refuted": 0.6}, "refuted"),
        ([0.1, 0.11, 0.09], {"at_most": 0.2, "refuted": 0.5}, "as predicted"),
        ([0.6, 0.61, 0.62], {"at_most": 0.2, "refuted": 0.5}, "refuted"),
        ([0.3, 0.31, 0.32], {"at_most": 0.2, "refuted": 0.5}, "undecided"),
        ([0.9], {"at_least": 0.85, "refuted": 0.6}, ""),
    ],
)
def test_the_whole_interval_must_lie_on_a_side(values, rule, said):
    assert claims.outcome(values, **rule) == said


def test_a_prediction_has_one_side():
    with pytest.raises(ValueError, match="at_least=None, at_most=None: give one of the two"):
        claims.outcome([0.1, 0.2], refuted=0.5)
