"""Experiments: what they refuse, their fingerprints, and what a record keeps of them."""

import json
from dataclasses import asdict, replace

import jaxtyping
import numpy as np
import pytest
import torch

from ccnotes.attacks import PGD
from ccnotes.data import KNOWN
from ccnotes.experiments import (
    EXPERIMENTS,
    PARTS,
    PLANTED,
    Experiment,
    changes,
    dataset,
    fingerprint,
    identity_of,
    rebuilt,
    teacher,
)
from ccnotes.objectives import Objective
from ccnotes.onestep import fgsm, n_fgsm
from ccnotes.parts import Parts, parts
from ccnotes.planted import Planted, planted
from ccnotes.training import rate
from tests.helpers import CARRYING, SMALL, folder_of_images, taught


@pytest.mark.parametrize(
    ("settings", "attack"),
    [
        ({}, PGD(eps=0.08, step_size=0.02, steps=20)),
        ({"eval_steps": 5}, PGD(eps=0.08, step_size=0.02, steps=5)),
        ({"eval_eps": 0.04}, PGD(eps=0.04, step_size=0.01, steps=20)),
        ({"eval_eps": 0.0}, PGD(eps=0.0, step_size=0.0, steps=20)),
        (
            {"attack": PGD(norm="l2", eps=0.8, step_size=0.3, random_start=False)},
            PGD(norm="l2", eps=0.8, step_size=0.1, steps=20),
        ),
        (
            {"attack": replace(n_fgsm(0.08), zero_smallest=0.35)},
            PGD(eps=0.08, step_size=0.02, steps=20),
        ),
    ],
)
def test_the_attack_that_evaluates_takes_steps_of_a_quarter_of_its_radius(settings, attack):
    """Of an eighth in an l2 ball; from a random start and projected, whatever training does."""
    trained_on = PGD(eps=0.08, step_size=0.03, steps=3)
    assert Experiment(**{"attack": trained_on} | settings).eval_attack == attack


def pixels(split):
    """The set of a split's images."""
    return {image.numpy().tobytes() for image in split.images}


def test_planted_splits_are_drawn_of_one_world_each_for_itself():
    data = dataset(replace(SMALL, seed=3))
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, split in splits.items():
        drawn = planted({"test": 30}.get(name, 24), seed=3, split=name)
        assert torch.equal(split.images, drawn.images)
        assert torch.equal(split.labels, drawn.labels)
    assert len(set.union(*map(pixels, splits.values()))) == 24 + 24 + 30
    assert data.groups == (0, 0, 1, 1, 2, 2)


def test_images_of_parts_are_drawn_with_names_groups_and_noise_in_the_training_labels():
    e = replace(
        SMALL, data="parts", train_size=60, parts=Parts(noise=0.1, label_noise=0.05), seed=3
    )
    data = dataset(e)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, split in splits.items():
        size = {"train": 60, "validation": 24, "test": 30}[name]
        drawn = parts(size, Parts(noise=0.1, label_noise=0.05), seed=3, split=name)
        assert torch.equal(split.images, drawn.images)
        assert torch.equal(split.labels, drawn.labels)
        assert (split.labels != drawn.true_labels).sum() == (3 if name == "train" else 0)
    assert data.classes == ("car", "truck", "bird", "plane", "cat", "dog")
    assert data.groups == (0, 0, 1, 1, 2, 2)
    assert data.identity == PARTS


def test_test_images_without_own_and_without_shared_parts_come_with_images_of_parts_alone():
    e = replace(SMALL, data="parts", parts=Parts(noise=0.1), seed=3)
    without = dataset(e).without
    for kind in ("own", "shared"):
        drawn = parts(30, Parts(noise=0.1), seed=3, split="test", without=kind)
        assert torch.equal(without[kind].images, drawn.images)
        assert torch.equal(without[kind].labels, drawn.labels)
    assert without.keys() == {"own", "shared"}
    assert not dataset(SMALL).without


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_training_images_that_lack_a_kind_of_part_have_their_true_groups(kind):
    """Where the objective asks for them; labels may be wrong, groups are not."""
    e = replace(SMALL, data="parts", parts=Parts(label_noise=0.5), seed=3)
    data = dataset(replace(e, objective=Objective(group_weight=1.0, lacking=kind)))
    drawn = parts(SMALL.train_size, e.parts, seed=3, without=kind)
    assert torch.equal(data.lacking.images, drawn.images)
    assert data.lacking.labels.tolist() == [0, 0, 1, 1, 2, 2] * 4
    assert dataset(e).lacking is None


def test_a_seed_draws_its_own_training_photographs_and_no_others(tmp_path):
    """Twenty-four of the 48 that 24 validation images, the same for every seed, leave of 72."""
    e = replace(SMALL, data=folder_of_images(tmp_path / "images"))
    zero, one = dataset(e), dataset(replace(e, seed=1))
    assert torch.equal(zero.train.images, dataset(e).train.images)
    # Two draws of 24 of 48 share 12, give or take 3; no fewer than 3 and no more than 21.
    assert 3 < len(pixels(zero.train) & pixels(one.train)) < 21
    assert pixels(zero.validation) == pixels(one.validation)
    assert pixels(zero.test) == pixels(one.test)
    for data in (zero, one):
        assert [len(pixels(split)) for split in (data.train, data.validation)] == [24, 24]
        assert not pixels(data.train) & pixels(data.validation)


def test_teachers_are_known_by_what_they_are(monkeypatch, tmp_path):
    """By the configuration of their run, or the content of their file, wherever it lies."""
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)

    def key(e):
        return fingerprint(e, "float32", PLANTED)

    before = key(taught())
    monkeypatch.setitem(EXPERIMENTS, "small", replace(SMALL, epochs=5))
    assert key(taught()) != before
    monkeypatch.setitem(EXPERIMENTS, "other", SMALL)
    renamed = replace(taught().objective, teachers=("other",))
    assert key(replace(SMALL, objective=renamed)) == before
    monkeypatch.setitem(EXPERIMENTS, "other", replace(SMALL, precision="auto"))
    assert key(replace(SMALL, objective=renamed)) != before  # the teacher's setting counts
    keys = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(content)
        keys.append(key(replace(SMALL, objective=replace(renamed, teachers=(str(file),)))))
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(ValueError, match="teacher 'nobody' is no experiment"):
        key(replace(SMALL, objective=replace(renamed, teachers=("nobody",))))


def test_fingerprint_depends_on_changed_fields_data_and_precision_only():
    base = fingerprint(Experiment(), "float32", PLANTED)
    assert fingerprint(Experiment(name="x", data="y"), "float32", PLANTED) == base
    others = [
        fingerprint(Experiment(seed=1), "float32", PLANTED),
        fingerprint(Experiment(attack=PGD(steps=3)), "float32", PLANTED),
        fingerprint(Experiment(), "bfloat16", PLANTED),
        fingerprint(Experiment(), "float32", "other data"),
    ]
    assert len({base, *others}) == 5


def test_how_images_are_drawn_counts_for_those_that_are_drawn_so():
    """Of photographs, planted images and images of parts; the last two have a test size, too."""
    counted = {"planted": {"planted", "test_size"}, "parts": {"parts", "test_size"}}
    settings = {"planted": Planted(noise=0.2), "parts": Parts(noise=0.2), "test_size": 60}
    for data in ("planted", "parts", "cifar10"):
        identity = identity_of(data)
        plain = fingerprint(Experiment(data=data), "float32", identity)
        for name, value in settings.items():
            other = fingerprint(Experiment(data=data, **{name: value}), "float32", identity)
            assert (other != plain) == (name in counted.get(data, ())), (data, name)


def test_a_teacher_is_the_named_run_on_the_student_s_data_at_its_seed(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)
    shared = {"data": "imagefolder:x", "image_size": 8, "planted": Planted(noise=0.2), "seed": 5}
    shared["parts"] = Parts(noise=0.2)
    student = replace(taught(), epochs=9, width=8, **shared)
    assert teacher(student, "small") == replace(SMALL, **shared)


def test_changes_are_the_fields_that_differ_by_their_whole_names():
    e = replace(SMALL, attack=PGD(eps=0.1, step_size=0.02, steps=2), lr_drops=(0.5,))
    assert changes(json.loads(json.dumps(asdict(e))), SMALL) == {
        "attack.eps": 0.1,
        "lr_drops": [0.5],
    }
    assert changes(asdict(e), e) == {}


def test_the_fingerprints_of_early_experiments_stand():
    """Whatever fields come: else their published records would be lost."""
    found = fingerprint(EXPERIMENTS["planted-at"], "bfloat16", PLANTED)
    assert found == "686c630df0f32a4f"
    found = fingerprint(EXPERIMENTS["cifar10-full-at"], "bfloat16", KNOWN["cifar10-jpeg"])
    assert found == "984aeb15ebd43b17"
    found = fingerprint(EXPERIMENTS["parts-at"], "float32", PARTS)
    assert found == "026d5b164a06da57"


def test_every_experiment_survives_its_record_and_has_its_own_fingerprint():
    keys = {}
    for e in EXPERIMENTS.values():
        assert rebuilt(json.loads(json.dumps(asdict(e)))) == e
        keys.setdefault(fingerprint(e, "float32", identity_of(e.data)), e.name)
    assert len(keys) == len(EXPERIMENTS) - 1  # parts-at-float32 is parts-at, in float32


def test_the_rate_on_images_of_parts_drops_after_a_third_of_the_epochs_and_three_quarters():
    e = EXPERIMENTS["parts-at"]
    rates = [rate(e, epoch) for epoch in (1, 20, 21, 45, 46, 60)]
    assert rates == pytest.approx([0.3, 0.3, 0.03, 0.03, 0.003, 0.003])
    noisy = replace(e, name="parts-at-label-noise", parts=Parts(label_noise=0.05))
    assert EXPERIMENTS["parts-at-label-noise"] == noisy


@pytest.mark.parametrize(
    ("ending", "eps", "weight"), [("", 8, 0.2), ("-eps12", 12, 0.632456), ("-eps16", 16, 2.0)]
)
def test_fast_runs_follow_their_recipes_at_every_radius(ending, eps, weight):
    """Start, length of the step, number of steps, projection; all else is the same."""
    wanted = {
        "fgsm": (False, 1.0, eps, 1, True),
        "fgsm-rs": (True, 1.0, 1.25 * eps, 1, True),
        "n-fgsm": (True, 2.0, eps, 1, False),
        "gradalign": (False, 1.0, eps, 1, True),
        "pgd2": (True, 1.0, eps / 2, 2, True),
    }
    base = EXPERIMENTS[f"fast-fgsm{ending}"]
    for name, (random, start, step, steps, project) in wanted.items():
        e = EXPERIMENTS[f"fast-{name}{ending}"]
        a = e.attack
        assert (a.random_start, a.start, a.steps, a.project) == (random, start, steps, project)
        assert 255 * a.eps == pytest.approx(eps)
        assert 255 * a.step_size == pytest.approx(step)
        assert e.objective.grad_align == pytest.approx(weight if name == "gradalign" else 0)
        same = replace(e, name=base.name, attack=base.attack, objective=base.objective)
        assert same == base
        assert e.watched


def test_runs_with_unlabelled_images_differ_in_their_term_alone():
    base, v = EXPERIMENTS["parts-vat"], EXPERIMENTS["parts-vat"].virtual
    assert (base.train_size, base.unlabelled_size, v.kind) == (60, 1500, "vat")
    random, entropy, uat, alone, at = (
        EXPERIMENTS[f"parts-vat-{n}"]
        for n in ("random", "entropy", "uat", "supervised", "supervised-at")
    )
    for e, term in (
        (random, replace(v, kind="random")),
        (entropy, replace(v, entropy=1.0)),
        (uat, replace(v, kind="uat", eps=0.05, steps=5)),
    ):
        assert replace(e, name=base.name, virtual=v) == base
        assert e.virtual == term
    assert replace(alone, name=base.name, virtual=v, unlabelled_size=1500) == base
    assert replace(at, name=alone.name, attack=alone.attack) == alone
    assert at.attack == PGD(eps=0.05, step_size=0.0125, steps=5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"lr_drops": (50, 75)}, "lr_drops=.* are fractions of the epochs"),
        ({"train_size": None}, "planted ones have no end"),
        ({"final_size": 0}, "final_size=0 must be at least 1"),
        ({"eval_steps": 0}, "eval_steps=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must lie between"),
        ({"average": "swa", "objective": CARRYING.objective}, "begins too late for the teacher"),
    ],
)
def test_impossible_experiments_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**setting)


def test_an_unknown_average_is_named_where_types_are_not_checked_too(monkeypatch):
    """As at run time, outside these tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="average='x'"):
        Experiment(average="x")


def test_named_experiments_are_called_by_their_own_name():
    assert all(name == experiment.name for name, experiment in EXPERIMENTS.items())
    assert asdict(EXPERIMENTS["planted-at"])["data"] == "planted"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": "False"}, "augment='False' must be True or False"),
        ({"lr": "0.1"}, "lr='0.1' must be a number"),
        ({"lr": None}, "lr=None must be a number"),
        ({"epochs": None}, "epochs=None must be a whole number"),
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"seed": 2**64}, r"seed=18446744073709551616 must be .* below 2\*\*63"),
        ({"name": None}, "name=None names the run's folder"),
        ({"name": "../up"}, "name='../up' names the run's folder"),
        ({"momentum": 1.0}, r"momentum=1.0 must lie in \[0, 1\)"),
        ({"lr_factor": 0.0}, "lr_factor=0 is what a drop multiplies lr by"),
        ({"lr_factor": 1.5}, "lr_factor=1.5 is what a drop multiplies lr by"),
        ({"head": "fixed"}, "head='fixed'"),
        ({"head_norm": 0.0}, "head_norm=0 must be above 0"),
        ({"head": "frozen", "lr_drops": ()}, "give lr_drops one"),
        ({"lr": 0.0}, "lr=0.0 must be above 0"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001 at least 0"),
        ({"eval_eps": 8.0}, r"eps=8 is wider than the whole .* Did you mean eps=8 / 255"),
        ({"attack": PGD(eps=0.1, step_size=0.0)}, "step_size=0 never leaves its start"),
        ({"image_size": 64}, "The side of planted images is planted.image_size=16"),
        ({"data": "parts", "image_size": 64}, "The side of .* is parts.image_size=20"),
        ({"data": "parts", "train_size": None}, "planted ones have no end"),
        ({"data": "parts", "test_size": 5}, "test_size=5 must be at least parts.num_classes=6"),
        (
            {"data": "parts", "parts": Parts(num_classes=400), "eval_size": 400},
            "train_size=200 must be at least parts.num_classes=400",
        ),
        (
            {"objective": Objective(group_weight=0.5)},
            "images that lack a kind of part, and data='planted'",
        ),
        ({"model": "vit"}, "model='vit' is not one of"),
        ({"eval_size": 3}, "eval_size=3 must be at least planted.num_classes=6"),
        ({"replays": 0}, "replays=0 must be at least 1"),
        ({"replays": 2}, "replays=2 is Free AT"),
        ({"replays": 2, "attack": PGD(steps=1)}, "attack.random_start=False"),
        ({"replays": 2, "attack": fgsm(0.0)}, "a radius"),
        ({"replays": 2, "attack": replace(fgsm(0.1), project=False)}, "no other setting"),
        ({"replays": 2, "attack": fgsm(0.1), "average": "ema"}, "nor average"),
        ({"replays": 2, "attack": fgsm(0.1), "objective": Objective(awp=0.1)}, "neither .* awp"),
        (
            {"replays": 2, "attack": fgsm(0.1), "objective": Objective(loss="trades")},
            "neither another loss",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_no_run_can_have_is_refused_before_any_begins(settings, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**settings)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_and_whole_floats_make_no_other_run():
    plain = Experiment(lr=1.0, epochs=7, seed=3, augment=True, eval_eps=0.25)
    other = Experiment(
        lr=np.float32(1),
        epochs=np.int64(7),
        seed=np.int32(3),
        augment=np.True_,
        eval_eps=np.float64(0.25),
    )
    assert other == plain
    assert fingerprint(other, "float32", PLANTED) == fingerprint(plain, "float32", PLANTED)
    assert json.loads(json.dumps(asdict(other))) == json.loads(json.dumps(asdict(plain)))


def test_drops_of_the_rate_may_be_given_as_a_list(unchecked):
    assert Experiment(lr_drops=[0.5, 0.75]) == Experiment()
    assert hash(Experiment(lr_drops=[0.5, 0.75])) == hash(Experiment())
