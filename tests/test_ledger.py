"""The claims that chapters and ledger judge, on records made by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from ccnotes import ledger
from ccnotes.experiments import Experiment, as_tree
from ccnotes.parts import parts
from ccnotes.records import Record

USE = (6, 8, 0), (4, 2, 5)  # of ten images so many groups are recognised, and without the part
KEPT = 7, 3, 1, 2, 0, 8, 4, 5, 9, 10  # the last of the first, by kind of training


def made(seed, accuracy, cas, similarity, name="parts-at"):
    """A record of two classes that share and a third: at (first, best, last) and between epochs."""
    groups, cas = [0, 0, 1], [float(value) for value in cas]

    def matrix(inside):
        far = inside / 10  # of the third class
        return torch.tensor([[1, inside, far], [inside, 1, far], [far, far, 1]])

    ends = ("best", "last")
    content = {
        end: {
            "epoch": epoch,
            "robust_accuracy": accuracy[place],
            "robust_loss": 1 - accuracy[place],
            "robust_cas": cas[place],
        }
        for place, (end, epoch) in enumerate(zip(ends, (4, 6), strict=True), 1)
    }
    content["dataset"] = {"groups": groups}
    content["experiment"] = as_tree(Experiment(name=name, seed=seed))
    columns = {"test_robust_cas": cas, "train_robust_cas": [2 * value for value in cas]}
    columns |= {"test_clean_cas": [3 * value for value in cas]}
    columns |= {"inside": similarity, "across": [0.1, 0.2, 0.3]}
    columns |= {"test_robust_accuracy": [0.4, 0.6, 0.5]}
    columns |= {"without_shared_robust_accuracy": [0.3, 0.2, 0.4]}
    record = Record(folder=Path(), content=content)
    known, blind = ([[[n, 0, 10 - n]] + 2 * [[0, 0, 0]] for n in of] for of in USE)
    confusions = {"test": known, "without_shared": blind}
    arrays = {f"{images}_robust_confusion": torch.tensor(c) for images, c in confusions.items()}
    arrays |= {
        f"{end}_{kind}_similarity": matrix(similarity[place] / share)
        for place, end in enumerate(ends, 1)
        for kind, share in (("robust", 1), ("clean", 1), ("robust_instance", 2))
    }
    table = pd.DataFrame({"epoch": [2, 4, 6], **columns})
    cams = {"best": torch.ones(6, 5, 5), "last": torch.zeros(6, 5, 5)}
    cams["last"][:, 0, 0] = 3.0  # the places of the image's upper left corner
    vars(record).update({"table": table, "arrays": arrays, "cams": cams})
    return record


@pytest.fixture
def records(monkeypatch):
    """Plain runs of seven seeds, and others of the last of these, by name."""
    found = {
        "parts-at": [
            made(s, (0.4, 0.6, 0.5 - s / 100), (3, 4, 2), (0.5, 0.8, 0.3)) for s in range(7)
        ],
        "parts-at-l2": [made(6, (0.4, 0.6, 0.6), (3, 5, 4), (0.5, 0.8, 0.3))],
        "parts-standard": [made(6, (0.4, 0.6, 0.6), (3, 3, 2.5), (0.5, 0.8, 0.3))],
        "parts-at-head-frozen": [made(s, (0.4, 0.6, 0.5), (3, 4, 3.5), (0, 0, 0)) for s in (6, 1)],
        "parts-at-head-simplex": [made(6, (0.4, 0.7, 0.5), (1, 1, 0.5), (0, 0, 0))],
    }
    for place, name in enumerate(("distilled-0.9", "smoothing-0.3", "uniform")):
        kept = (
            (0.4, 0.6 + 0.02 * place, 0.56 - 0.02 * place),
            (3, 4, 3.5 - place),
            (0.5, 0.8, 0.6 - 0.2 * place),
        )
        found[f"parts-at-{name}"] = [made(s, *kept) for s in (6, 1)]
    more = ("permuted", "averaged", "contrast-up-0.1", "use-shared", "use-own")
    for name in (*more, "shared-0", "shared-2"):
        kept = (0.4, 0.6, 0.3 if name == "shared-2" else 0.5), (3, 4, 1), (0.5, 0.8, 0.7)
        found[f"parts-at-{name}"] = [made(6, *kept)]
    for name, kept in zip(ledger.KINDS, KEPT, strict=True):
        for record in found[name]:
            record.arrays["test_robust_confusion"][-1, 0] = torch.tensor([kept, 0, 10 - kept])
    monkeypatch.setattr(ledger, "every_seed", lambda name: found[name])
    return found


def by_claim(judgements):
    return {j.claim.says: [*map(float, j.claim.differences)] for j in judgements}


def test_the_dynamics_are_differences_from_first_to_best_to_last(records):
    found = by_claim(ledger.dynamics())
    falls = [0.1 + seed / 100 for seed in range(7)]
    assert found["Robust accuracy falls from the best epoch to the last"] == pytest.approx(falls)
    assert found["Robust loss rises"] == pytest.approx(falls)
    assert found["CAS rises before the best epoch"] == pytest.approx([1] * 7)
    assert found["CAS falls from the best epoch to the last"] == pytest.approx([2] * 7)
    assert found["So does CAS of training images"] == pytest.approx([4] * 7)
    assert found["CAS falls in an ℓ2 ball, too"] == pytest.approx([1])
    # From first to last 3 (3 - 2) with an attack, 3 (3 - 2.5) without; of the seed of both.
    assert found["CAS of clean images falls more after training with an attack"] == pytest.approx(
        [1.5]
    )
    rise = "Classes that share grow more alike before the best epoch, beyond the others"
    assert found[rise] == pytest.approx([(0.8 - 0.2) - (0.5 - 0.1)] * 7)
    after = "They grow less alike after it, beyond the others"
    assert found[after] == pytest.approx([0.5 - 0.05] * 7)
    assert found["So do their single images"] == pytest.approx([0.25 - 0.025] * 7)


def test_heads_are_compared_with_free_ones_seed_by_seed(records):
    """Of seeds 1 and 6 free heads lose 0.11 and 0.16 of accuracy, and keep half of their CAS."""
    found = by_claim(ledger.heads())
    used = "Leaving out the shared part costs less accuracy at the end than at the best epoch"
    assert found[used] == pytest.approx([(0.6 - 0.2) - (0.5 - 0.4)] * 7)
    kept = "a head keeps more of its CAS"
    assert found[f"Frozen at the first drop, {kept}"] == pytest.approx([0.875 - 0.5] * 2)
    for says in ("accuracy falls less", "loss rises less"):
        assert found[f"Frozen at the first drop: {says}"] == pytest.approx([0.01, 0.06])
        assert found[f"Fixed as a simplex: {says}"] == pytest.approx([0.16 - 0.2])
    assert found[f"Fixed as a simplex, {kept}"] == pytest.approx([0])


def test_soft_labels_are_compared_at_the_last_epoch_by_their_falls_and_at_the_best(records):
    """Plain networks of seeds 1 and 6 end at 0.49 and 0.44, and at a similarity of 0.3."""
    found = by_claim(ledger.soft_labels())
    for says in ("more robust", "less loss"):
        assert found[f"A teacher's labels: {says} than plain"] == pytest.approx(
            [0.56 - 0.49, 0.56 - 0.44]
        )
        assert found[f"Smoothed labels: {says} than plain"] == pytest.approx([0.05, 0.1])
        assert found[f"Even labels: {says} than plain"] == pytest.approx([0.03, 0.08])
        assert found[f"A teacher's labels: {says} than even labels"] == pytest.approx([0.04, 0.04])
        assert found[f"A teacher's labels: {says} than averaged labels"] == pytest.approx([0.06])
        assert found[f"Averaged labels: {says} than plain"] == pytest.approx([0.5 - 0.44])
    kept = "classes that share stay more alike"
    assert found[f"A teacher's labels: {kept}"] == pytest.approx([0.3, 0.3])
    assert found[f"Smoothed labels: {kept}"] == pytest.approx([0.1, 0.1])
    assert found[f"Averaged labels: {kept} than a teacher's"] == pytest.approx([0.7 - 0.6])
    for says in ("accuracy falls less", "loss rises less"):
        assert found[f"A teacher's labels: {says}"] == pytest.approx([0.11 - 0.04, 0.16 - 0.04])
        assert found[f"Even labels: {says}"] == pytest.approx([0.11 - 0.12, 0.16 - 0.12])
    for title, gain in (
        ("A teacher's labels", 0),
        ("Smoothed labels", 0.02),
        ("Even labels", 0.04),
    ):
        best = f"{title}: best network more robust than plain"
        assert found[best] == pytest.approx([gain] * 2)
    used = [kept / 10 - 0.5 for kept in (KEPT[3], KEPT[3])]
    assert found["Even labels: the shared part is still used"] == pytest.approx(used)


def test_what_is_kept_is_ranked_within_a_seed_that_all_kinds_have(records):
    """Of seed 6."""
    found = by_claim(ledger.overfitting())
    cas = [-2, -0.5, -1.5, -2.5, -3, -3, -0.5, -0.5, -3, -3]
    accuracy = [-0.16, -0.04, -0.08, -0.12, -0.1, -0.1, -0.1, -0.2, -0.1, -0.1]
    (ranks,) = found["Over 10 kinds, CAS and accuracy are kept together"]
    assert ranks == pytest.approx(spearmanr(cas, accuracy).statistic)
    similarity = [-0.5, -0.2, -0.4, -0.6, -0.1, -0.1, 0, 0, -0.1, -0.1]
    contrast = "Over 10 kinds, contrast and accuracy are kept together"
    assert found[contrast] == pytest.approx([spearmanr(similarity, accuracy).statistic])
    use = "Over 10 kinds, use of the shared part and accuracy are kept together"
    assert found[use] == pytest.approx([spearmanr(KEPT, accuracy).statistic])
    best = "Over 10 kinds, best networks with more CAS are more robust"
    assert found[best] == pytest.approx(
        [
            spearmanr(
                [4] * 7 + [1] + [4] * 2, [0.6, 0.6, 0.62, 0.64] + [0.6] * 3 + [0.7] + [0.6] * 2
            ).statistic
        ]
    )


def test_a_force_is_judged_by_what_is_left_by_use_and_by_what_is_lost(records):
    """Of seed 6, whose plain network loses 0.16; where twice as much is shared 0.3 are lost."""
    found = by_claim(ledger.overfitting())
    assert found["Similarity forced: contrast is higher at the end"] == pytest.approx([0.63 - 0.27])
    use = "Similarity forced: use of the shared part falls less"
    assert found[use] == pytest.approx([(0.9 - 0.5) - (0.7 - 0.5)])
    forced = "Use forced: use of the shared part falls less"
    assert found[forced] == pytest.approx([(KEPT[9] - KEPT[0]) / 10])
    for says in ("accuracy falls less", "loss rises less"):
        assert found[f"Use forced: {says}"] == pytest.approx([0.16 - 0.1])
        assert found[f"Use forced, beside its placebo: {says}"] == pytest.approx([0])
        assert found[f"Similarity forced: {says}"] == pytest.approx([0.16 - 0.1])
        assert found[f"Nothing to share: {says}"] == pytest.approx([0.16 - 0.1])
        assert found[f"Twice as much to share: {says}"] == pytest.approx([0.16 - 0.3])


def test_use_of_the_shared_part_is_what_groups_lose_without_it(records):
    """Six of ten less four at first, eight less two near the best epoch, seven less five last."""
    of = ledger.figures("parts-at")
    for moment, used in zip((of.start, of.near, of.end), (0.2, 0.6, 0.2), strict=True):
        assert moment.used.tolist() == pytest.approx([used] * 7)
    assert ledger.fall(of, "used").tolist() == pytest.approx([0.4] * 7)


def test_a_fall_that_goes_on_is_the_ratio_of_mean_falls_with_its_textbook_error():
    """Of two seeds of three falls of .3 and .1, for .2 and .2; then the delta method's error."""

    def losing(falls: dict[int, float]) -> ledger.Figures:
        best = pd.DataFrame({"x": 1.0}, index=[*falls])
        last = pd.DataFrame({"x": [1 - fall for fall in falls.values()]}, index=[*falls])
        return ledger.Figures(best, last, best, best, last)

    few, plain = losing({0: 0.3, 1: 0.1, 5: 9.0}), losing({7: 9.0, 1: 0.2, 0: 0.2})
    assert ledger.goes_on(few, plain, "x").to_dict() == pytest.approx({0: 1.5, 1: 0.5})
    rng = np.random.default_rng(0)
    g = rng.normal(0.07, 0.02, 10)
    f = 0.8 * g + rng.normal(0, 0.01, 10)
    share = ledger.goes_on(*(losing(dict(enumerate(of))) for of in (f, g)), "x")
    cov, ratio = np.cov(f, g), f.mean() / g.mean()
    error = cov[0, 0] / g.mean() ** 2 + ratio**2 * cov[1, 1] / g.mean() ** 2
    error -= 2 * ratio * cov[0, 1] / g.mean() ** 2
    assert share.mean() == pytest.approx(ratio)
    assert share.var() == pytest.approx(error)
    assert (ledger.goes_on(plain, plain, "x") == 1).all()


def test_maps_are_compared_by_the_places_that_they_cover_and_by_where_they_lie(records):
    """All of 25 places at the best epoch, one of them at the last, in the upper left corner."""
    found = by_claim(ledger.overfitting())
    assert found["Grad-CAM maps cover less at the last epoch"] == pytest.approx([24 / 25] * 7)
    on_it = found["Grad-CAM maps lie less on the shared part at the last epoch"]
    for seed, lost in enumerate(on_it):
        corners = parts(6, seed=seed, split="test").shared_corners.double()
        in_corner = (4 - corners).clamp(min=0).prod(1) / 16  # of the place's 4 x 4 pixels
        assert lost == pytest.approx(8 * 8 / 20**2 - in_corner.mean().item())


def test_differences_are_of_the_seeds_that_both_have():
    first, second = pd.Series([3.0, 5.0], index=[1, 2]), pd.Series([1.0, 1.0], index=[2, 9])
    (found,) = ledger.judged([("more", "x", first - second, "")])
    assert found.claim.differences.tolist() == [4.0]


def test_neighbours_claims_rest_on_the_runs_that_there_are(monkeypatch):
    """Of FGSM and N-FGSM at 12/255 two seeds, one in common; what no run bears is listed."""
    robust = {"fast-fgsm-eps12": {0: 0.05, 1: 0.1}, "fast-n-fgsm-eps12": {1: 0.4, 2: 0.5}}
    frames = {
        name: pd.DataFrame({"seed": [*by], "longer_accuracy": [*by.values()]}).assign(
            fooled=[0.4, 0.3], robust_cas=[9.0, 11.0]
        )
        for name, by in robust.items()
    }
    monkeypatch.setattr(ledger, "ends", lambda names: frames.get(*names, pd.DataFrame()))
    judgements, untested = ledger.neighbours()
    assert by_claim(judgements) == {
        "FGSM collapses at 12/255": pytest.approx([0.4, 0.3]),
        "N-FGSM stays more robust than FGSM at 12/255": pytest.approx([0.3]),
        "CAS is lower after the collapse, at 12/255": pytest.approx([9 - 11]),
    }
    assert "FGSM collapses at 8/255" in untested
    assert "GradAlign stays more robust than FGSM at 16/255" in untested
    assert "VAT errs less than random steps" in untested
