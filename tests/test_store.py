"""Records on disk: what is damaged is named, what is published is whole."""

import json
import lzma
import os
import shutil
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors, load_file, save, save_file

import ccnotes
from ccnotes import alarm, training
from ccnotes.checkpoints import State
from ccnotes.experiments import (
    EXPERIMENTS,
    Experiment,
    dataset,
    fingerprint,
    identity_of,
    rebuilt,
)
from ccnotes.files import sha256_of
from ccnotes.records import (
    PUBLISHED,
    find,
    load,
    load_model,
    publish,
    published,
    recall,
    run,
    runs_dir,
    store,
    write,
)
from ccnotes.records.locks import LOCK, publishing, undisturbed
from tests.helpers import SMALL, assert_equal_records

WEIGHTS = ("best.safetensors", "last.safetensors")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCNOTES_RUNS", str(tmp_path_factory.mktemp("runs")))
        return run(SMALL).folder


@pytest.fixture
def made(made_once):
    """A run's record, this test's own."""
    return load(Path(shutil.copytree(made_once, runs_dir() / made_once.name)))


def copy_with(record, name, **changed):
    """A folder beside the record's with its table changed; fields set to None are left out."""
    folder = runs_dir() / name
    shutil.copytree(record.folder, folder)
    content = {k: v for k, v in (record.content | changed).items() if v is not None}
    (folder / "record.json").write_text(json.dumps(content))
    return folder


INCOMPLETE = {
    "nothing but a schema": '{"schema": 1}',
    "a list": "[]",
    "brackets without end": "[" * 100_000,
    "no JSON": "{",
    "not text": "\udcff",
}


@pytest.mark.parametrize("text", INCOMPLETE.values(), ids=INCOMPLETE)
def test_a_table_that_is_none_is_passed_over_by_name_and_others_are_found(made, text):
    (runs_dir() / "odd").mkdir()
    (runs_dir() / "odd/record.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.warns(UserWarning, match=r"passed over: .*odd.record\.json"):
        found = find()
    assert made.folder in [record.folder for record in found]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"experiment": None}, "experiment is NoneType, not dict"),
        ({"experiment": {"attack": {"radius": 1}}}, "its experiment is none"),
        ({"experiment": {"a_field_of_tomorrow": 1}}, "newer version"),
        ({"experiment": {"epochs": 0}}, "epochs=0"),
        ({"dataset": {}}, "its dataset has no title"),
        ({"provenance": {}}, "its provenance has no date"),
        ({"sha256": {"arrays.safetensors": 3}}, "no digests by file"),
        ({"evaluations": {"epoch": [1]}}, "its evaluations lack a column"),
        ({"evaluations": {"epoch": [1], "lr": []}}, "no columns of one length"),
        ({"finished": "yes"}, "finished is str, not bool"),
        ({"best": None}, "best is NoneType"),
        ({"schema": 99}, "has schema 99; this version reads 1"),
    ],
)
def test_a_table_that_lacks_something_is_refused_with_what_it_lacks(made, changed, reason):
    with pytest.raises(ValueError, match=rf"record\.json .*{reason}"):
        load(copy_with(made, "other", **changed))


def test_a_record_without_its_table_says_that_the_table_is_missing(made):
    (made.folder / "record.json").unlink()
    with pytest.raises(ValueError, match=r"has no record\.json, .*: copy it there"):
        load(made.folder)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_arrays_are_named_and_the_run_is_made_again(made, damage):
    path = made.folder / "arrays.safetensors"
    whole = bytearray(path.read_bytes())
    if damage == "flipped":
        whole[-3] ^= 1
    path.write_bytes(whole[:-9] if damage == "cut" else whole)
    with pytest.raises(ValueError, match=r"arrays\.safetensors is damaged: .* Delete the folder"):
        _ = load(made.folder).arrays
    with pytest.warns(UserWarning, match="passed over: .*damaged"):
        assert recall(SMALL) is None
    with pytest.warns(UserWarning, match="passed over: .*damaged"):
        again = run(SMALL)
    assert_equal_records(again, run(SMALL, fresh=True))


def test_damaged_weights_teach_nobody(made):
    path = made.folder / "best.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)
    with pytest.warns(UserWarning, match=r"passed over: .*best\.safetensors is damaged"):
        assert recall(SMALL, weights=True) is None
    assert recall(SMALL).folder == made.folder
    with pytest.raises(ValueError, match=r"best\.safetensors is damaged"):
        made.model("best")


def test_others_may_read_what_a_run_leaves_as_far_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        made = run(replace(SMALL, seed=5))
        copy = publish(made, tmp_path / "home", weights=True)
    finally:
        os.umask(before)
    for path in (*made.folder.glob("*.*"), *copy.glob("*.*")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, path


def test_publishing_again_keeps_what_was_published_and_leaves_nothing_else(made, tmp_path):
    publish(made, tmp_path / "home", weights=True)
    copy = publish(made, tmp_path / "home")
    assert {path.name for path in copy.iterdir()} == {
        *WEIGHTS,
        "arrays.safetensors.xz",
        "record.json",
    }
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [LOCK, copy.name]
    assert_equal_records(load(copy), made)


def test_a_publication_that_fails_leaves_the_one_before(made, tmp_path, monkeypatch):
    copy = publish(made, tmp_path / "home", weights=True)

    def full(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr("ccnotes.records.store.shutil.copyfile", full)
    with pytest.raises(OSError, match="no space"):
        publish(made, tmp_path / "home")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [LOCK, copy.name]
    assert_equal_records(load(copy), made)
    assert all((copy / name).exists() for name in WEIGHTS)


@pytest.mark.parametrize("error", [OSError("no rename"), KeyboardInterrupt()], ids=["os", "ctrl-c"])
def test_a_publication_stopped_between_its_renames_leaves_the_one_before(
    made, tmp_path, monkeypatch, error
):
    copy, rename = publish(made, tmp_path / "home"), os.replace

    def stopped(source, target):
        if source.name == "fresh":
            raise error
        rename(source, target)

    monkeypatch.setattr("ccnotes.records.store.os.replace", stopped)
    with pytest.raises(type(error)):
        publish(made, tmp_path / "home")
    assert_equal_records(load(copy), made)
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [LOCK, copy.name]


@pytest.fixture
def between_renames(monkeypatch):
    """Calls that threads begin, once, while a publication is between its two renames.

    Whoever does not wait for it has a fifth of a second to go wrong in.
    """
    rename, waiting, futures = os.replace, [], []

    def paused(source, target):
        if source.name == "fresh":
            for call in waiting:
                futures.append(pool.submit(call))
            waiting.clear()
            wait(futures, timeout=0.2)
        rename(source, target)

    monkeypatch.setattr("ccnotes.records.store.os.replace", paused)
    with ThreadPoolExecutor() as pool:
        yield waiting, futures


def test_of_two_publishers_the_second_waits_and_adds_what_it_wants(made, tmp_path, between_renames):
    home, (waiting, futures) = tmp_path / "home", between_renames
    publish(made, home)
    waiting.append(lambda: publish(made, home, per_image=True))
    copy = publish(made, home, weights=True)
    assert [future.result() for future in futures] == [copy]
    names = {"images.safetensors", *WEIGHTS}
    assert {path.name for path in copy.iterdir()} == names | {
        "arrays.safetensors.xz",
        "record.json",
    }
    load(copy).check({"arrays.safetensors", *names})


def test_readers_never_miss_a_record_that_is_published_anew(
    made, tmp_path, monkeypatch, between_renames
):
    home, (waiting, futures) = tmp_path / "home", between_renames
    copy = publish(made, home, weights=True)
    monkeypatch.setenv("CCNOTES_RUNS", str(home))
    record = load(copy)
    readers = {
        "find": lambda: copy in [found.folder for found in find()],
        "recall": lambda: recall(SMALL, weights=True).folder == copy,
        "load": lambda: load(copy).content == made.content,
        "model": lambda: load_model(copy / WEIGHTS[0]).head.out_features == 6,
        "arrays": lambda: record.arrays.keys() == made.arrays.keys(),
    }
    waiting.extend(readers.values())
    with warnings.catch_warnings(action="error"):
        publish(made, home)
        assert [future.result() for future in futures] == [True] * len(readers)


@pytest.mark.parametrize("first", ["nothing", ValueError("has no record.json")], ids=["", "error"])
def test_what_is_read_while_the_first_publication_begins_is_read_again(tmp_path, first):
    """Before it there is no lock to wait for."""
    seen = iter([first, "the record"])

    def read():
        (tmp_path / LOCK).touch()
        if isinstance(found := next(seen), ValueError):
            raise found
        return found

    assert undisturbed(tmp_path, read) == "the record"


def test_reading_needs_no_right_to_write_and_leaves_no_lock(made, tmp_path, monkeypatch):
    load(made.folder)
    assert not (runs_dir() / LOCK).exists()
    copy = publish(made, tmp_path / "home")

    def denied(*arguments, **settings):
        raise PermissionError("not yours")

    monkeypatch.setattr("ccnotes.records.locks.FileLock", denied)
    assert load(copy).content == made.content


def test_what_a_killed_publication_had_put_aside_is_back_with_the_next(made, tmp_path):
    """Killed between its renames: the weights that were published come along anew."""
    copy = publish(made, tmp_path / "home", weights=True)
    (tmp_path / f"home/.publishing-{copy.name}/fresh").mkdir(parents=True)
    os.replace(copy, tmp_path / f"home/.publishing-{copy.name}/before")
    publish(made, tmp_path / "home")
    assert all((copy / name).exists() for name in WEIGHTS)
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [LOCK, copy.name]


def test_a_lock_of_a_publication_may_be_nested(tmp_path):
    """So that who publishes may read in the same folder."""
    with publishing(tmp_path), publishing(tmp_path):
        assert undisturbed(tmp_path, lambda: 3) == 3


def test_publishing_loses_no_file_of_the_user_s(made, tmp_path):
    copy = publish(made, tmp_path / "home")
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has notes\.txt, which is no part of a record"):
        publish(made, tmp_path / "home")
    assert (copy / "notes.txt").read_text() == "mine"


def test_damaged_arrays_replace_no_good_ones(made, tmp_path):
    copy = publish(made, tmp_path / "home")
    good, whole = (copy / "arrays.safetensors.xz").read_bytes(), made.folder / "arrays.safetensors"
    whole.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"arrays\.safetensors is damaged"):
        publish(made, tmp_path / "home")
    assert (copy / "arrays.safetensors.xz").read_bytes() == good


def test_published_arrays_are_packed_bit_for_bit_and_the_same_each_time(
    made, tmp_path, monkeypatch
):
    copy = publish(made, tmp_path / "home")
    [packed] = copy.glob("arrays*")
    assert lzma.decompress(packed.read_bytes()) == (made.folder / "arrays.safetensors").read_bytes()
    assert packed.stat().st_size < 0.9 * (made.folder / "arrays.safetensors").stat().st_size
    monkeypatch.setattr("time.time", lambda: 0.0)
    again = publish(load(copy), tmp_path / "other")  # of a copy, at another moment
    assert (again / packed.name).read_bytes() == packed.read_bytes()
    assert_equal_records(load(again), made)


def test_a_run_made_anew_in_the_folder_of_a_published_one_is_read_as_it_is_now(made, tmp_path):
    """Its older packed arrays are not."""
    packed = publish(made, tmp_path / "home") / "arrays.safetensors.xz"
    shutil.copyfile(packed, made.folder / packed.name)
    packed_of_old = load(made.folder).arrays
    again = run(SMALL, fresh=True)
    assert not (again.folder / packed.name).exists()
    assert_equal_records(load(again.folder), again)
    assert again.arrays.keys() == packed_of_old.keys()


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_packed_arrays_are_named(made, tmp_path, damage):
    packed = publish(made, tmp_path / "home") / "arrays.safetensors.xz"
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    other = lzma.compress(save({"other": torch.ones(2)}))
    packed.write_bytes({"cut": content[:-9], "flipped": content, "other": other}[damage])
    with pytest.raises(
        ValueError, match=r"arrays\.safetensors\.xz is damaged: .* Delete the folder"
    ):
        _ = load(packed.parent).arrays


def test_a_pipe_in_a_record_s_place_is_not_waited_for(made):
    (runs_dir() / "odd").mkdir()
    os.mkfifo(runs_dir() / "odd/record.json")
    with pytest.raises(ValueError, match=r"odd has no record\.json"):
        load(runs_dir() / "odd")


def test_a_record_that_was_written_anew_after_it_was_read_is_not_called_damaged(made):
    path = made.folder / "arrays.safetensors"
    save_file({"other": torch.ones(2)}, path)
    content = made.content | {"sha256": made.content["sha256"] | {path.name: sha256_of(path)}}
    (made.folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="written anew after it was read: load the record again"):
        _ = made.arrays
    assert load(made.folder).arrays.keys() == {"other"}


def test_every_array_lies_in_its_file_with_its_kind_of_numbers(made):
    """By hand; a record of before lies as one of today."""
    half, single = torch.float16, torch.float32
    of_networks = {"head.weight": half, "head.bias": half, "robust_stage_similarity": single}
    of_networks |= dict.fromkeys(["radius", "radius_accuracy", "radius_cas"], single)
    arrays, images, new = {}, {}, {}
    for kind in ("clean", "robust"):
        of_networks |= {f"{kind}_class_means": half, f"{kind}_class_accuracy": single}
        for name in ("similarity", "instance_similarity"):
            arrays[f"test_{kind}_{name}"] = half
            of_networks[f"{kind}_{name}"] = single
        new[f"{kind}_confusion"] = torch.int32
        new |= {f"{kind}_{name}_similarity": single for name in ("head", "centred", "blind")}
        arrays |= {f"{p}_{kind}_class_accuracy": half for p in ("train", "validation", "test")}
        for which in ("best", "last"):
            images[f"{which}_{kind}_correct"] = torch.uint8
            images[f"{which}_{kind}_cas_draws"] = half
    arrays |= {f"{w}_{name}": kind for w in ("best", "last") for name, kind in of_networks.items()}
    of_before = dict(arrays)
    arrays |= {f"{w}_{name}": kind for w in ("best", "last") for name, kind in new.items()}
    arrays |= {"head_similarity": half, "train_robust_similarity": half}
    vectors = {"head_weight": half, "head_bias": half}
    for split in ("train", "test"):
        vectors[f"{split}_robust_class_means"] = half
        arrays |= {f"{split}_robust_{name}_similarity": half for name in ("centred", "blind")}
    for split in ("train", "validation", "test"):
        arrays[f"{split}_robust_confusion"] = torch.int32
    files = {"arrays": arrays, "images": images, "vectors": vectors}
    files["samples"] = {"test_sample_attribution": half}
    for name, wanted in files.items():
        stored = load_file(made.folder / f"{name}.safetensors")
        assert {key: value.dtype for key, value in stored.items()} == wanted
    [before] = ccnotes.runs("planted-at")
    stored = load_tensors(lzma.decompress((before.folder / "arrays.safetensors.xz").read_bytes()))
    assert {key: value.dtype for key, value in stored.items()} == of_before


@pytest.mark.parametrize("when", ["evaluations", "best"])
def test_an_array_without_a_place_is_refused_before_anything_is_written(made, when):
    before = {path: path.read_bytes() for path in made.folder.glob("*.*")}
    stranger = {"test_clean_shape": torch.ones(2)}
    chosen = {"epoch": 1, "weights": {}, "test": {"clean_shape": torch.ones(2)}}
    state = State(fingerprint="f", device="cpu", sessions=[{}], evaluations=[{}])
    if when == "evaluations":
        state.evaluations = [stranger]
    else:
        state.best = state.last = chosen
    with pytest.raises(ValueError, match=r"_clean_shape has no place in a record: give 'shape'"):
        write(made.folder, SMALL, dataset(SMALL), state)
    assert {path: path.read_bytes() for path in made.folder.glob("*.*")} == before


def test_a_run_that_an_earlier_version_began_keeps_what_all_its_evaluations_have(made, tmp_path):
    common = {"lr": 0.1, "test_robust_accuracy": 0.5, "test_clean_similarity": torch.eye(6)}
    rows = [common | {"epoch": 1, "was": 3.0}, common | {"epoch": 2, "is": 4.0}]
    facts = load(made.folder).provenance
    write(
        tmp_path,
        SMALL,
        dataset(SMALL),
        State(fingerprint="f", device="cpu", sessions=[facts], evaluations=rows),
    )
    found = load(tmp_path)
    assert found.content["evaluations"].keys() == {"epoch", "lr", "test_robust_accuracy"}
    assert found.arrays["test_clean_similarity"].shape == (2, 6, 6)


def test_looking_for_one_record_reads_no_other(made):
    """Nor do published ones wait for those of this machine."""
    for name in ("other-seed0-0123456789abcdef", "parts-at-head-seed0-0123456789abcdef"):
        (runs_dir() / name).mkdir()
        (runs_dir() / name / "record.json").write_text("{")
    with warnings.catch_warnings(action="error"):
        assert recall(SMALL).folder == made.folder
        assert list(published("parts-at-head-")) == ["frozen", "groups", "simplex"]
    with pytest.warns(UserWarning, match="passed over"):
        find()


def test_a_record_is_read_and_calculated_once(made, monkeypatch):
    record = load(made.folder)

    def again(*arguments):
        pytest.fail("once more")

    monkeypatch.setattr("ccnotes.records.record.rebuilt", again)
    assert record.experiment == asdict(SMALL)
    _ = record.table
    monkeypatch.setattr("ccnotes.records.record.group_similarity", again)
    assert len(record.table) == 2


def test_what_is_not_finished_is_not_published(made, tmp_path):
    partial = load(copy_with(made, "partial", finished=False, best=None, last=None))
    with pytest.raises(ValueError, match="is not finished: the same run goes on from there"):
        publish(partial, tmp_path)
    assert not list(tmp_path.glob("*/record.json"))


def test_a_run_that_asks_for_more_than_its_record_has_says_so(made, tmp_path):
    (made.folder / "images.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no images\.safetensors\. To make it: run it again"):
        publish(made, tmp_path, per_image=True)


def test_only_recalling_refuses_to_train_and_says_what_is_missing(made, monkeypatch):
    monkeypatch.setenv("CCNOTES_ONLY_RECALL", "1")
    assert run(SMALL).folder == made.folder
    with pytest.raises(RuntimeError, match=r"no record of 'small', seed 7, on 'planted' is publi"):
        run(replace(SMALL, seed=7))
    assert run(SMALL, fresh=True).finished
    monkeypatch.setenv("CCNOTES_ONLY_RECALL", "0")
    assert run(replace(SMALL, seed=7)).finished


def test_several_experiments_come_in_the_order_in_which_they_are_asked_for():
    found = ccnotes.runs(["planted-at", "parts-at-l2"], seeds=(1, 0))
    named = [(record.experiment["name"], record.experiment["seed"]) for record in found]
    assert named == [(n, s) for n in ("planted-at", "parts-at-l2") for s in (1, 0)]


def test_published_records_are_recalled_where_there_is_no_home(monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "CCNOTES_RUNS"):
        monkeypatch.delenv(name, raising=False)
    assert ccnotes.runs("planted-at")[0].folder.parent == PUBLISHED


def test_a_run_goes_on_in_the_precision_in_which_it_began(monkeypatch):
    """Whatever the timing of the processor says meanwhile."""
    e = replace(SMALL, precision="auto")
    whole = run(e)
    step, calls = training.train_step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return step(*arguments)

    chosen = whole.provenance["precision"]
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    monkeypatch.setenv("CCNOTES_RUNS", str(runs_dir().with_name("others")))
    monkeypatch.setattr(training, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(e)
    monkeypatch.setattr(training, "train_step", step)
    monkeypatch.setattr("ccnotes.records.runner.pick_precision", lambda wanted, device: other)
    assert_equal_records(run(e), whole)


def test_records_of_the_first_edition_bear_their_fields_under_today_s_names(tmp_path):
    old = next(PUBLISHED.glob("planted-at-seed0-*"))
    content = json.loads((old / "record.json").read_text())
    taught = {"teachers": ["planted-at"], "weights": [0.9], "contrast": -0.3}
    content["experiment"]["objective"] = taught
    (tmp_path / "record.json").write_text(json.dumps(content))
    found = load(tmp_path).experiment["objective"]
    assert found["push_contrast"] == 0.3
    assert found["teacher_weights"] == (0.9,)


def test_every_seed_of_an_experiment_as_it_is_today_is_found(monkeypatch, tmp_path):
    """Not of one whose name only begins so, of other settings, or that is not finished."""
    monkeypatch.setattr(store, "PUBLISHED", tmp_path)
    small = replace(SMALL, epochs=1, eval_every=1)
    for e in (replace(small, seed=11), replace(small, seed=2), replace(small, name="small-seed")):
        publish(run(e), tmp_path)
        monkeypatch.setitem(EXPERIMENTS, e.name, replace(e, seed=0))
    publish(run(replace(small, lr=0.2, seed=3)), tmp_path)
    assert [r.configuration.seed for r in store.every_seed("small")] == [2, 11]
    assert [r.configuration.name for r in store.every_seed("small-seed")] == ["small-seed"]
    assert store.every_seed("planted-at") == []


def test_every_published_record_loads_without_a_word():
    with warnings.catch_warnings(action="error"):
        found = [record for record in find() if record.folder.parent == PUBLISHED]
    assert len(found) == len([path for path in PUBLISHED.iterdir() if path.is_dir()])
    for record in found:
        record.check(["arrays.safetensors"])
        e = rebuilt(record.content["experiment"])
        assert asdict(e) == record.experiment
        if e.name in EXPERIMENTS:
            wanted = replace(EXPERIMENTS[e.name], seed=e.seed, data=e.data)
            precision = record.provenance["precision"]
            key = fingerprint(wanted, precision, record.content["dataset"]["identity"])
            assert key == record.content["fingerprint"]


def test_the_identity_of_known_data_needs_no_data():
    assert identity_of("planted") == "planted-1"
    assert identity_of("imagefolder:x") is None
    assert fingerprint(Experiment(), "float32", identity_of("planted"))


def test_the_network_before_a_collapse_is_published_with_the_weights_and_as_loaded(
    monkeypatch, tmp_path
):
    """A run of the same that does not collapse leaves none."""
    looks = [0.5, 0.6, 0.1, 0.1]
    monkeypatch.setattr(alarm, "accuracy", lambda *_: looks.pop(0))
    made = run(SMALL)
    assert made.collapsed == 3
    plain, whole = (publish(made, tmp_path / str(w), weights=w) for w in (False, True))
    assert load(plain).collapsed == 3
    assert not (plain / "before.safetensors").exists()
    head = load(whole).model("before").head.weight
    assert torch.equal(head, made.model("before").head.weight)
    looks[:] = [0.5, 0.6, 0.6, 0.6]
    again = run(SMALL, fresh=True)
    assert again.collapsed is None
    assert not (again.folder / "before.safetensors").exists()
    assert publish(again, tmp_path / "False").exists()
