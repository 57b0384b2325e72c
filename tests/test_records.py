"""Records: made, kept, recalled and compared, on runs of seconds."""

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import save_file

import ccnotes
from ccnotes import evaluation, records, training
from ccnotes.attacks import PGD, pgd, random_start
from ccnotes.attribution import cas, class_attribution, class_similarity
from ccnotes.data import to_float
from ccnotes.experiments import EXPERIMENTS, dataset
from ccnotes.monitor import part
from ccnotes.objectives import Objective
from ccnotes.records import (
    Record,
    at_equal_loss,
    at_loss,
    best_and_last,
    best_minus_last,
    differences,
    publish,
    recall,
    run,
)
from tests.helpers import (
    SMALL,
    assert_equal_records,
    attacked_features,
    folder_of_images,
    numbers,
    replace_everywhere,
    taught,
)

pytestmark = pytest.mark.usefixtures("no_published")


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "file"))
    with pytest.raises(
        OSError, match=r"file.* cannot be written to .* another folder by .CCNOTES_RUNS"
    ):
        run(SMALL)


def test_a_record_keeps_what_its_models_give():
    """Under an attack of other radius than training's, at the run's seed."""
    e = replace(SMALL, eval_eps=0.08, seed=3)
    attack = PGD(eps=0.08, step_size=0.02, steps=2)
    found, data = run(e), dataset(e)
    for which in ("best", "last"):
        model = found.model(which)
        features, labels = attacked_features(model, data.test, attack, 3)
        attribution = class_attribution(features, labels, model.head.weight.detach())
        similarity = class_similarity(attribution)
        scalars = getattr(found, which)
        torch.testing.assert_close(found.arrays[f"{which}_robust_similarity"], similarity)
        assert scalars["robust_cas"] == pytest.approx(cas(similarity).item(), abs=1e-5)
        torch.testing.assert_close(
            found.arrays[f"{which}_robust_class_means"] * found.arrays[f"{which}_head.weight"],
            attribution,
            rtol=1e-3,  # two factors in half precision, each off by 5e-4 at most
            atol=1e-6,
        )
        right = found.per_image[f"{which}_robust_correct"].float()
        torch.testing.assert_close(right, (model.head(features).argmax(1) == labels).float())
        assert scalars["robust_accuracy"] == pytest.approx(right.mean().item())
    for name in ("train", "validation", "test"):  # the model is still that of the last epoch
        features, labels = attacked_features(model, getattr(data, name), attack, 3)
        similarity = class_similarity(class_attribution(features, labels, model.head.weight))
        row = found.table.iloc[-1]
        assert row[f"{name}_robust_cas"] == pytest.approx(cas(similarity).item(), abs=1e-4)
        loss = F.cross_entropy(model.head(features), labels).item()
        assert row[f"{name}_robust_loss"] == pytest.approx(loss, rel=1e-4)  # six digits


def test_every_attack_that_evaluates_is_the_experiment_s_own_at_its_seed(monkeypatch):
    """Between evaluations, too; of radii there are six."""
    e = replace(SMALL, eval_eps=0.08, seed=3, eval_every=4, validate_every=1)
    seen = []

    def drawn(x, attack, generator):
        start = random_start(x, attack, generator)
        start.seed = generator.initial_seed()
        return start

    def watched(model, x, y, attack, start, **settings):
        seen.append((start._base.seed, attack))  # of the whole batch, of which it is a part
        return pgd(model, x, y, attack, start=start, **settings)

    monkeypatch.setattr(evaluation, "random_start", drawn)
    monkeypatch.setattr(evaluation, "pgd", watched)
    run(e)
    own = PGD(eps=0.08, step_size=0.02, steps=2)
    radii = [replace(own, eps=0.08 * n, step_size=0.02 * n) for n in (0, 0.25, 0.5, 1, 1.5, 2)]
    assert {seed for seed, _ in seen} == {3}
    # What is watched for a collapse, and FGSM beside it, are the experiment's own, too.
    watched_for = [replace(own, steps=5), replace(own, step_size=0.08, steps=1, random_start=False)]
    assert {attack for _, attack in seen} == {*radii, *watched_for}
    # Four epochs' validation images; training and test images and samples of the last epoch; test
    # images, a few for stages and a few for the radius itself of the best and the last network.
    assert [attack for _, attack in seen].count(own) == 4 + 3 + 2 * 3


def test_best_and_last_are_examined_on_final_size_test_images_and_radii_on_eval_size():
    e = replace(SMALL, eval_size=12, final_size=18)
    found, test = run(e), dataset(e).test
    for which in ("best", "last"):
        model = found.model(which)
        for count, accuracy, similarity in (
            (
                18,
                found.per_image[f"{which}_clean_correct"].float().mean(),
                found.arrays[f"{which}_clean_similarity"],
            ),
            (12, found.arrays[f"{which}_radius_accuracy"][0], None),  # at radius 0
        ):
            few = part(test, count)
            features = model.features(to_float(few.images)).detach()
            right = (model.head(features).argmax(1) == few.labels).float().mean()
            assert accuracy.item() == pytest.approx(right.item())
            wanted = class_similarity(class_attribution(features, few.labels, model.head.weight))
            if similarity is not None:
                torch.testing.assert_close(similarity, wanted.detach())
            else:
                at_zero = found.arrays[f"{which}_radius_cas"][0]
                assert at_zero.item() == pytest.approx(cas(wanted).item(), abs=1e-5)
        assert len(found.per_image[f"{which}_robust_correct"]) == 18
        assert len(found.per_image[f"{which}_robust_cas_draws"]) == 1000


def test_samples_are_the_first_test_image_of_each_class():
    """Six classes in turn, so the first six images, attacked with each other."""
    found, data = run(SMALL), dataset(SMALL).test
    assert found.sample_attribution.shape == (2, 6, 16)
    model, attack = found.model("last"), PGD(eps=0.05, step_size=0.0125, steps=2)
    features, labels = attacked_features(model, data.take(torch.arange(6)), attack, 0)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    wanted = features * model.head.weight.detach()
    torch.testing.assert_close(
        found.sample_attribution[-1], wanted, rtol=1e-3, atol=1e-6
    )  # half precision


@pytest.mark.parametrize("epoch", ["best", "last"])
def test_a_teacher_is_the_best_or_last_of_its_run_and_trained_where_it_is_missing(
    monkeypatch, epoch
):
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)
    found = run(taught(1.0, teacher_epoch=epoch))
    home = recall(SMALL)
    assert home.best["epoch"] < home.last["epoch"]
    weights = str(home.folder / f"{epoch}.safetensors")
    by_path = Objective(teachers=(weights,), teacher_weights=(1.0,))
    assert_equal_records(run(replace(SMALL, objective=by_path)), found)
    assert not numbers(found)[0].equals(numbers(home)[0])


def test_a_teacher_s_record_without_weights_is_passed_over():
    made = run(SMALL)
    (made.folder / "best.safetensors").unlink()
    assert recall(SMALL).folder == made.folder
    assert recall(SMALL, weights=True) is None
    run(SMALL, weights=True)
    assert recall(SMALL, weights=True).folder == made.folder


def test_a_run_says_first_how_long_earlier_ones_took_and_where(capsys, monkeypatch):
    made = run(SMALL)
    unknown = "small: no finished run with these settings is on record\n"
    assert capsys.readouterr().err.startswith(unknown)
    content = made.content | {"provenance": made.provenance | {"seconds": 300, "hardware": "X"}}
    (made.folder / "record.json").write_text(json.dumps(content))
    run(replace(SMALL, lr=0.2))
    assert capsys.readouterr().err.startswith(unknown)
    for name, seconds, changed in (
        ("other", 100, {"finished": True}),
        ("stopped", 9999, {"finished": False}),
        ("longer", 9999, {"experiment": made.experiment | {"epochs": 9}}),
    ):
        copy = Path(shutil.copytree(made.folder, made.folder.with_name(name)))
        other = content | {"provenance": content["provenance"] | {"seconds": seconds}} | changed
        (copy / "record.json").write_text(json.dumps(other))

    def gone(*arguments, **settings):
        raise KeyboardInterrupt

    replace_everywhere(monkeypatch, training.fit, gone)
    with pytest.raises(KeyboardInterrupt):
        run(replace(SMALL, seed=1))
    assert capsys.readouterr().err == "small took 200 s on X; on a GPU: none on record\n"
    content["provenance"]["device"] = "cuda"
    (made.folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(KeyboardInterrupt):
        run(replace(SMALL, seed=1))
    assert capsys.readouterr().err == "small took 200 s on X\n"


def test_recall_finds_exactly_the_same_configuration_only():
    made = run(SMALL)
    assert recall(SMALL).folder == made.folder
    assert recall(replace(SMALL, precision="auto")).folder == made.folder
    automatic = replace(SMALL, name="zz", precision="auto")  # later in the alphabet
    table = made.folder / "record.json"
    content = json.loads(table.read_text())
    content["experiment"] |= {"name": "zz", "precision": "auto"}
    copy = Path(shutil.copytree(made.folder, made.folder.with_name(f"zz-{made.folder.name}")))
    (copy / "record.json").write_text(json.dumps(content))
    assert recall(automatic).folder == copy
    assert recall(SMALL).folder == made.folder
    assert recall(replace(SMALL, precision="bfloat16")) is None
    for other in ({"seed": 1}, {"lr": 0.2}, {"attack": PGD(eps=0.06, step_size=0.02, steps=2)}):
        assert recall(replace(SMALL, **other)) is None


def test_a_record_made_under_other_defaults_is_not_recalled():
    """The hash alone would not see it: it knows only what differs from the defaults."""
    made = run(SMALL)
    table = made.folder / "record.json"
    content = json.loads(table.read_text())
    content["experiment"]["momentum"] = 0.8  # as if 0.8 had been the default at that time
    table.write_text(json.dumps(content))
    assert recall(SMALL) is None


def test_one_unreadable_record_does_not_hide_the_others():
    made = run(SMALL)
    broken = made.folder.with_name(f"broken-{made.folder.name}")  # ends in the fingerprint, too
    broken.mkdir()
    (broken / "record.json").write_text("{")
    with pytest.warns(UserWarning, match="passed over: .*cannot be read as a record"):
        assert recall(SMALL).folder == made.folder


@pytest.mark.parametrize("steps", [0, 7])
def test_a_fresh_run_that_is_stopped_leaves_the_finished_record(monkeypatch, steps):
    """Before its first step, or after its first evaluation, of which a new run keeps a record."""
    made, train_step, done = run(SMALL), training.train_step, []

    def stopped(*arguments):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return train_step(*arguments)

    monkeypatch.setattr(training, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, fresh=True)
    assert recall(SMALL).content == made.content


def test_a_fresh_run_that_was_stopped_goes_on_though_there_is_a_record():
    made = run(SMALL)
    with pytest.raises(training.OutOfTime):
        run(SMALL, fresh=True, minutes=0)
    assert (made.folder / "checkpoint.pt").exists()
    assert recall(SMALL).content == made.content
    assert run(SMALL).content == made.content
    again = run(SMALL, go_on=True)
    assert_equal_records(again, made)
    assert not (made.folder / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        ({}, set()),
        ({"weights": True}, {"best.safetensors", "last.safetensors"}),
        ({"sample_attribution": True}, {"samples.safetensors"}),
        ({"per_image": True}, {"images.safetensors"}),
    ],
)
def test_what_is_published_is_the_table_the_arrays_and_what_is_wanted(tmp_path, wanted, files):
    made, home = run(SMALL), tmp_path / "home"
    for _ in range(2):  # over what was published before, too
        published = publish(made, home, **wanted)
    copied = {path.name for path in published.iterdir()}
    assert copied == {"record.json", "arrays.safetensors.xz"} | files
    assert records.load(published).content == made.content
    assert publish(made, made.folder.parent, **wanted) == made.folder
    assert made.model("best")
    for name in files:
        (made.folder / name).unlink()
    if files:
        with pytest.raises(ValueError, match=f"has no {min(files)}\\. To make it: run it again"):
            publish(made, home, **wanted)
        assert {path.name for path in published.iterdir()} == copied


def test_a_record_of_another_schema_is_refused():
    made = run(SMALL)
    (made.folder / "record.json").write_text(json.dumps(made.content | {"schema": 99}))
    with pytest.raises(ValueError, match="has schema 99; this version reads 1"):
        records.load(made.folder)


def test_runs_are_one_record_a_seed_in_that_order(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)
    found = ccnotes.runs("small", seeds=(1, 0))
    assert [record.experiment["seed"] for record in found] == [1, 0]


def test_runs_on_other_data_name_the_data_without_their_path_and_are_recalled(
    monkeypatch, tmp_path
):
    folder = folder_of_images(tmp_path / "images")
    (made,) = ccnotes.runs(SMALL, data=folder)
    assert made.experiment["data"] == "imagefolder"
    assert made.title == "image folder, small, seed 0"
    assert str(tmp_path) not in json.dumps(made.content)
    assert not made.groups.numel()

    def trained(*arguments, **settings):
        pytest.fail("trained again")

    replace_everywhere(monkeypatch, training.fit, trained)
    (tmp_path / "images").rename(tmp_path / "moved")
    (again,) = ccnotes.runs(SMALL, data=f"imagefolder:{tmp_path / 'moved'}")
    assert again.folder == made.folder


def test_a_teacher_leaves_the_student_what_is_left_of_the_minutes(monkeypatch):
    """Ten minutes, of which the teacher's run takes four; and six, of which it has all."""
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)
    fit, given, now = training.fit, [], [0.0]

    def slow_fit(*arguments, minutes, **settings):
        given.append(minutes)
        now[0] += 240
        return fit(*arguments, **settings)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    replace_everywhere(monkeypatch, fit, slow_fit)
    run(taught(), minutes=10)
    assert given == [10, 6]


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
def test_a_record_names_the_commit_and_whether_files_differ_from_it(monkeypatch, tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    code = tmp_path / "ccnotes" / "records.py"
    code.parent.mkdir()
    code.write_text("")
    monkeypatch.setattr(ccnotes, "__file__", str(code))
    assert records.commit() == f"v{ccnotes.__version__}"
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert records.commit() == git("rev-parse", "--short=12", "HEAD")
    code.write_text("1")
    assert records.commit() == git("rev-parse", "--short=12", "HEAD") + "+"
    monkeypatch.setenv("CCNOTES_COMMIT", "0123456789ab")
    assert records.commit() == "0123456789ab"


def test_two_processes_cannot_train_one_run():
    made = run(SMALL)
    with (
        FileLock(made.folder / "lock"),
        pytest.raises(RuntimeError, match="another process"),
    ):
        run(SMALL, fresh=True)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no experiment is called 'planted'.* planted-at"):
        ccnotes.runs("planted")
    with pytest.raises(ValueError, match="device='tpu' cannot be used here"):
        ccnotes.devices.pick_device("tpu")


def table_of(values):
    """What best_and_last gives, of experiments that each have a value for each seed."""
    rows = [
        {"experiment": name, "eps": 0.1, "seed": seed, "checkpoint": which, "value": value + shift}
        for name, seeds in values.items()
        for seed, value in seeds.items()
        for which, shift in (("best", 0.5), ("last", 0.0))
    ]
    return pd.DataFrame(rows)


def similarity_of(inside, across):
    """Of four classes in two groups, one pair of kin being 0.1 more alike and one 0.1 less."""
    matrix = torch.full((4, 4), across).fill_diagonal_(1.0)
    for i, shift in ((0, 0.1), (2, -0.1)):
        matrix[i, i + 1] = matrix[i + 1, i] = inside + shift
    return matrix


def test_similarity_inside_and_across_the_true_groups_is_that_of_each_kind_and_moment(tmp_path):
    pairs = {  # robust, clean
        "test": [((0.7, 0.1), (0.5, 0.2)), ((0.8, 0.3), (0.6, 0.4))],
        "best": [((0.31, 0.32), (0.33, 0.34))],
        "last": [((0.41, 0.42), (0.43, 0.44))],
    }
    arrays = {}
    for name, moments in pairs.items():
        for number, kind in enumerate(("robust", "clean")):
            matrices = torch.stack([similarity_of(*moment[number]) for moment in moments])
            arrays[f"{name}_{kind}_similarity"] = matrices if name == "test" else matrices[0]
    save_file(arrays, tmp_path / "arrays.safetensors")
    content = {
        "experiment": {"name": "a", "attack": {"eps": 0.06}, "seed": 0},
        "dataset": {"groups": [0, 0, 1, 1]},
        "evaluations": {"epoch": [1, 2]},
        "best": {"epoch": 1},
        "last": {"epoch": 2},
    }
    record = Record(folder=tmp_path, content=content)
    columns = ["inside", "across", "clean_inside", "clean_across"]
    for found, names in ((record.table, ["test"]), (best_and_last([record]), ["best", "last"])):
        wanted = [[*robust, *clean] for name in names for robust, clean in pairs[name]]
        np.testing.assert_allclose(found[columns], wanted, rtol=1e-6)  # single precision


def test_best_minus_last_is_what_a_run_loses_after_its_best_epoch():
    """One seed loses 0.2 of its accuracy in 30 epochs, the other gains 0.1 in 10."""
    records = []
    for seed, best, last in ((0, 0.5, 0.3), (1, 0.25, 0.35)):
        attack = {"eps": 0.06}
        content = {
            "experiment": {"name": "a", "attack": attack, "seed": seed},
            "dataset": {"groups": None},
            "best": {"epoch": [70, 90][seed], "robust_accuracy": best},
            "last": {"epoch": 100, "robust_accuracy": last},
        }
        records.append(Record(folder=Path(), content=content))
    table = best_and_last(records)
    assert table.checkpoint.tolist() == ["best", "last"] * 2
    assert table.robust_accuracy.tolist() == [0.5, 0.3, 0.25, 0.35]
    found = best_minus_last(records)
    assert found[["experiment", "eps", "seed"]].values.tolist() == [["a", 0.06, 0], ["a", 0.06, 1]]
    assert found.robust_accuracy.tolist() == pytest.approx([0.2, -0.1])
    assert found.epoch.tolist() == [-30, -10]


def test_differences_are_between_equal_seeds_and_checkpoints():
    """Whatever the order of the rows."""
    table = table_of({"a": {0: 1.0, 1: 5.0}, "base": {1: 3.0, 0: 2.0}})
    table = table.sample(frac=1, random_state=0)
    found = differences(table, "base").set_index(["experiment", "seed", "checkpoint"]).value
    assert found["a"].to_dict() == {
        (0, "best"): -1.0,
        (0, "last"): -1.0,
        (1, "best"): 2.0,
        (1, "last"): 2.0,
    }
    assert (found["base"] == 0).all()
    with pytest.raises(ValueError, match=r"'base' has no record of seeds \[1\]"):
        differences(table_of({"a": {0: 1.0, 1: 5.0}, "base": {0: 2.0}}), "base")


def test_differences_need_no_checkpoint_and_say_what_they_do_need():
    table = pd.DataFrame({"experiment": ["a", "base", "a", "base"], "seed": [0, 0, 1, 1]})
    table["value"] = [1.0, 3.0, 7.0, 2.0]
    found = differences(table, "base")
    assert found.columns.tolist() == ["experiment", "seed", "value"]
    assert found.value.tolist() == [-2.0, 0.0, 5.0, 0.0]
    with pytest.raises(ValueError, match=r"by experiment and seed, but \['seed'\] is no column"):
        differences(table.drop(columns="seed"), "base")
    with pytest.raises(ValueError, match=r"'base' has seeds \[1\] more than once"):
        differences(pd.concat([table, table[3:]]), "base")
    both = table.assign(checkpoint=["best", "last", "best", "best"])
    with pytest.raises(ValueError, match=r"no record of seeds \[0\] .* \(by seed and checkpoint\)"):
        differences(both, "base")


def test_a_column_at_a_loss_is_read_off_the_straight_lines_between_evaluations():
    loss, value = [2.0, 1.0, 1.5, 0.5], [0.0, 1.0, 9.0, 3.0]
    table = pd.DataFrame({"train_robust_loss": loss, "value": value})
    found = at_loss(table, "value", np.array([2.5, 2.0, 1.75, 1.0, 0.75, 0.5, 0.4]))
    # Not: before the first evaluation (2.5 and 2), or never reached (0.4).
    np.testing.assert_allclose(found, [np.nan, np.nan, 0.25, 1.0, 4.5, 3.0, np.nan])


def with_losses(losses, share, seed=0):
    """A record whose value is its training loss times a share, its own."""
    values = [share * loss for loss in losses]
    rows = {"epoch": [*range(len(losses))], "train_robust_loss": losses, "value": values}
    content = {"evaluations": rows, "dataset": {"groups": None}, "experiment": {"seed": seed}}
    return Record(folder=Path(), content=content)


def test_runs_are_compared_where_the_losses_of_all_have_been():
    """Seed 0 from 1.6 down to 0.4, so at 1.3, 1.0, 0.7 and 0.4; seed 1 from 3.2 down to 0.8."""
    slow = [with_losses([2.0, 1.0, 0.4], 1.0), with_losses([4.0, 2.0, 0.8], 10.0, seed=1)]
    fast = [with_losses([3.2, 0.2], 1000.0, seed=1), with_losses([1.6, 0.2], 100.0)]
    found = at_equal_loss({"slow": slow, "fast": fast}, ["value"], levels=4)
    found = found.set_index(["experiment", "seed"]).value
    assert found["slow"].tolist() == pytest.approx([0.85, 17.0])
    assert found["fast"].tolist() == pytest.approx([85.0, 1700.0])
    even = at_equal_loss({"slow": slow, "fast": fast}, ["value"], levels=2, log=True)
    # 0.8 and 0.4: half of the range each in the logarithm.
    assert even.value.tolist()[0] == pytest.approx(0.6)
    for other in ([with_losses([2.0, 1.0], 1.0, seed=1)], [slow[0], slow[0]]):
        with pytest.raises(ValueError, match=r"the same seeds, each once, but have: a \[0\]; b"):
            at_equal_loss({"a": slow[:1], "b": other}, ["value"])
    with pytest.raises(ValueError, match="runs of seed 0 have no training loss in common"):
        at_equal_loss({"a": slow[:1], "b": [with_losses([0.3, 0.2], 1.0)]}, ["value"])
