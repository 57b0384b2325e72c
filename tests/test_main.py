"""The command line, on runs of seconds."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from ccnotes import monitor, records, training
from ccnotes.__main__ import METRICS, main
from ccnotes.attacks import PGD
from ccnotes.attribution import cas, class_attribution, class_similarity, grad_cam
from ccnotes.checkpoints import read_state
from ccnotes.data import Split, to_float
from ccnotes.experiments import EXPERIMENTS, dataset, rebuilt
from ccnotes.planted import planted
from ccnotes.records import find
from tests.helpers import attacked_features, folder_of_images

pytestmark = pytest.mark.usefixtures("no_published")


PARTS = ("samples", "images", "best", "last")
ALL = ("--weights", "--sample-attribution", "--per-image")
SHORT = "--epochs 2 --train-size 24 --validation-size 24 --test-size 30 --width 4".split()


def test_the_command_line_runs_shows_and_attributes(command, tmp_path):
    ran = command("run", "planted-at", *SHORT, "--attack.eps", "8/255", "--publish-to", tmp_path)
    folder = ran.split("record: ")[1].splitlines()[0]
    shown = json.loads(command("show", folder, "--json"))
    assert shown["experiment"]["attack"]["eps"] == pytest.approx(8 / 255)
    assert shown["experiment"]["epochs"] == 2
    smooth = ("--objective.smoothing", "0.1", "--objective.teachers", "own-best")
    ran = command("run", "planted-at", *SHORT, *smooth, "--objective.teacher-weights", "1/4")
    smoothed = json.loads(command("show", ran.split("record: ")[1].splitlines()[0], "--json"))
    assert smoothed["experiment"]["objective"]["smoothing"] == 0.1
    assert smoothed["experiment"]["objective"]["teacher_weights"] == [0.25]
    assert shown["finished"]
    assert "test_robust" in command("show", folder)
    assert folder in command("list", "--json")
    copied = {path.name for path in tmp_path.glob("planted-at-*/*")}
    assert copied == {"record.json", "arrays.safetensors.xz"}
    command("run", "planted-at", *SHORT, "--attack.eps", "8/255", "--publish-to", tmp_path, *ALL)
    copied = {path.name for path in tmp_path.glob("planted-at-*/*.safetensors")}
    assert copied == {f"{part}.safetensors" for part in PARTS}
    given = json.loads(command("attribute", f"{folder}/best.safetensors", "--json"))
    assert given["robust_accuracy"] == pytest.approx(shown["best"]["robust_accuracy"])
    assert given["robust_cas"] == pytest.approx(shown["best"]["robust_cas"], abs=1e-5)
    weaker = command("attribute", f"{folder}/best.safetensors", "--eps", "1/255", "--json")
    assert json.loads(weaker)["robust_loss"] < given["robust_loss"]


def folder_of(ran):
    """The record's folder, from what ``run`` prints."""
    return Path(ran.split("record: ")[1].splitlines()[0])


def by_hand(folder, seed, eps, step_size):
    """Accuracy and CAS of the best network on 30 planted images under PGD of 10 steps."""
    model, drawn = records.load(folder).model("best"), planted(30, seed=seed, split="test")
    attack = PGD(eps=eps, step_size=step_size, steps=10)
    split = Split(images=drawn.images, labels=drawn.labels)
    features, labels = attacked_features(model, split, attack, seed)
    similarity = class_similarity(class_attribution(features, labels, model.head.weight))
    accuracy = (model.head(features).argmax(1) == labels).float().mean()
    return [pytest.approx(value.item(), abs=1e-4) for value in (accuracy, cas(similarity))]


def test_attribute_takes_the_seed_and_the_radius_that_it_is_given(command):
    folder = folder_of(command("run", "planted-at", *SHORT, "--precision", "float32"))
    for options, settings in (
        ((), (0, 0.06, 0.015)),
        (("--seed", "7"), (7, 0.06, 0.015)),
        (("--eps", "0.2"), (0, 0.2, 0.05)),
    ):
        found = json.loads(command("attribute", folder / "best.safetensors", "--json", *options))
        assert [found["robust_accuracy"], found["robust_cas"]] == by_hand(folder, *settings)


def test_attribute_takes_the_radius_that_it_is_given_for_a_standard_run_too(command):
    standard = ("--attack.eps", "0", "--eval-eps", "0.06", "--precision", "float32")
    folder = folder_of(command("run", "planted-at", *SHORT, *standard))
    found = json.loads(command("attribute", folder / "best.safetensors", "--json", "--eps", "0.2"))
    assert [found["robust_accuracy"], found["robust_cas"]] == by_hand(folder, 0, 0.2, 0.05)


def test_attribute_says_how_large_cas_can_be_and_refuses_data_of_other_classes(command, tmp_path):
    four = ("--planted.num-classes", "4")
    model = folder_of(command("run", "planted-at", *SHORT, *four)) / "best.safetensors"
    said = command("attribute", model)
    assert re.findall(r"(clean|robust): accuracy \S+, CAS \S+ of at most 12, ", said) == [
        "clean",
        "robust",
    ]
    with pytest.raises(
        SystemExit,
        match=r"tells apart class 0, .*class 3, in this order, .* data are class0, .*class5:",
    ):
        command("attribute", model, "--data", folder_of_images(tmp_path / "images"))


def test_weights_that_are_to_be_published_are_made_where_the_record_has_none(command, tmp_path):
    folder = folder_of(command("run", "planted-at", *SHORT))
    (folder / "best.safetensors").unlink()
    command("run", "planted-at", *SHORT, "--publish-to", tmp_path, "--weights")
    assert (tmp_path / folder.name / "best.safetensors").exists()


def test_data_are_counted_and_named(command, tmp_path):
    said = command("data", folder_of_images(tmp_path / "images"))
    assert "image folder: 72 training and 72 test images" in said
    assert f"classes: {', '.join(f'class{i}' for i in range(6))}" in said


def test_the_benchmark_does_what_it_is_told(command, monkeypatch):
    def told(widths, **settings):
        raise RuntimeError(f"told {widths} {sorted(settings.items())}")

    monkeypatch.setattr("ccnotes.benchmark.bench", told)
    options = "--widths 8 32 --batch-size 9 --steps 4 --rounds 2 --device cpu --compile"
    settings = {"batch_size": 9, "steps": 4, "rounds": 2, "device": "cpu", "compile": True}
    settings |= {"precision": "float32", "experiment": EXPERIMENTS["parts-at"]}
    options += " --name parts-at"
    with pytest.raises(SystemExit) as stopped:
        command("bench", *options.split(), "--precision", "float32")
    assert str(stopped.value) == f"error: told (8, 32) {sorted(settings.items())}"


ATTACKERS = [
    {"width": width, "attacker": name, "skipped": why, "hardware": "a machine", "threads": 3}
    | {"torch": "2.10", "version": "1.5", "loss": 5.25, "first_s": 0.5}
    | ({} if why else {"ms": 10.0 * width, "ratio": 2.5, "ratio_best": 3.75})
    for width in (8, 32)
    for name, why in (("ours", None), ("art", None), ("foolbox", "not installed: get it"))
]


def test_the_benchmark_of_attacks_does_what_it_is_told_and_says_who_is_missing(
    command, monkeypatch
):
    told = []

    def bench_attacks(widths, **settings):
        told.append((widths, settings))
        return ATTACKERS

    monkeypatch.setattr("ccnotes.peers.bench_attacks", bench_attacks)
    options = "bench --attacks --widths 8 32 --batch-size 9 --steps 4 --rounds 2 --device cpu"
    said = command(*options.split(), "--precision", "float32").splitlines()
    settings = {"batch_size": 9, "steps": 4, "rounds": 2, "device": "cpu", "compile": False}
    assert told == [((8, 32), settings | {"precision": "float32"})]
    titles, *lines = [line.split() for line in said[:5]]
    assert titles == "width attacker version ms ratio ratio_best loss first_s".split()
    assert lines == [
        [str(width), name, "1.5", f"{10 * width}.00", "2.50", "3.75", "5.25", "0.50"]
        for width in (8, 32)
        for name in ("ours", "art")
    ]
    assert said[5:] == [
        "foolbox: not installed: get it",
        "hardware a machine, threads 3, torch 2.10",
    ]
    assert json.loads(command("bench", "--attacks", "--json")) == ATTACKERS


def test_attacks_are_not_timed_on_another_network_than_was_asked_for(command):
    with pytest.raises(SystemExit, match="of PreActResNet-18 alone: leave out --name parts-at"):
        command("bench", "--attacks", "--name", "parts-at")


def test_the_benchmark_of_growth_has_its_table_and_its_threads(command, monkeypatch):
    rows = [{"step": "measure", "classes": 10, "images": 1000, "peak_mib": 512.0}]
    told = []
    monkeypatch.setattr("ccnotes.growth.growth", lambda **settings: told.append(settings) or rows)
    said = command("bench", "--growth", "--threads", "1").splitlines()
    assert [line.split() for line in said] == [[*rows[0]], ["measure", "10", "1000", "512.0"]]
    assert json.loads(command("bench", "--growth", "--json")) == rows
    assert told == [{"threads": 1}, {"threads": None}]


def test_a_table_ends_with_the_best_and_the_last_epoch_s_figures(command):
    folder = folder_of(command("run", "planted-at", *SHORT))
    content = records.load(folder).content
    for place, which in enumerate(("best", "last")):
        numbers = {name: n + 5 * place + 0.125 for n, name in enumerate(METRICS)}
        content[which] = content[which] | numbers | {"epoch": 1 + place}
    (folder / "record.json").write_text(json.dumps(content))
    for text in (command("run", "planted-at", *SHORT), command("show", folder)):
        lines = [line.split() for line in text.splitlines()]
        assert [line for line in lines if line[:1] in (["best"], ["last"])] == [
            ["best", "1", "0.125", "1.125", "2.125", "3.125", "4.125"],
            ["last", "2", "5.125", "6.125", "7.125", "8.125", "9.125"],
        ]


def test_show_finds_the_newest_record_of_a_name_and_a_seed(command):
    folder = folder_of(command("run", "planted-at", *SHORT))
    content = records.load(folder).content
    content["experiment"]["name"] = "my-run"
    for day in ("03", "21", "11"):
        copy = folder.with_name(f"copy-{day}")
        copy.mkdir()
        content["provenance"]["date"] = f"2026-01-{day}T00:00:00+00:00"
        (copy / "record.json").write_text(json.dumps(content))
    shown = json.loads(command("show", "my-run", "--json"))
    assert shown["provenance"]["date"].startswith("2026-01-21")
    with pytest.raises(SystemExit, match="no record of 'my-run' with seed 1"):
        command("show", "my-run", "--seed", "1")


def test_the_list_has_finished_and_stopped_runs_and_what_they_changed(command):
    folder = folder_of(command("run", "planted-at", *SHORT, "--seed", "5"))
    content = records.load(folder).content
    stopped = folder.with_name("stopped")
    stopped.mkdir()
    (stopped / "record.json").write_text(json.dumps(content | {"finished": False}))
    listed = json.loads(command("list", "--json"))
    assert listed["experiments"] == list(EXPERIMENTS)
    rows = {row["folder"]: row for row in listed["records"]}
    assert rows[str(folder)] == {
        "experiment": "planted-at",
        "data": "planted images",
        "seed": 5,
        "fields changed": "train_size=24, validation_size=24, test_size=30, width=4, epochs=2",
        "published": False,
        "finished": True,
        "folder": str(folder),
    }
    assert rows[str(stopped)]["finished"] is False
    assert len(rows) == 2


def test_a_fresh_run_that_was_stopped_goes_on_by_the_same_command_without_fresh(command):
    folder = folder_of(command("run", "planted-at", *SHORT))
    with pytest.raises(SystemExit):
        command("run", "planted-at", *SHORT, "--fresh", "--minutes", "1e-9")
    assert (folder / "checkpoint.pt").exists()
    assert folder_of(command("run", "planted-at", *SHORT)) == folder
    assert not (folder / "checkpoint.pt").exists()


def test_a_run_computes_with_as_many_threads_as_it_is_told(command, monkeypatch):
    def counted(*arguments, **settings):
        raise RuntimeError(f"on {torch.get_num_threads()} threads")

    before = torch.get_num_threads()
    monkeypatch.setattr("ccnotes.__main__.run", counted)
    try:
        with pytest.raises(SystemExit, match=f"error: on {before + 1} threads"):
            command("run", "planted-at", "--threads", before + 1)
    finally:
        torch.set_num_threads(before)


def test_maps_are_made_afterwards_from_the_run_s_networks(command, tmp_path):
    short = ("run", "planted-at", *SHORT, "--final-size", "18")
    ran = command(*short, "--publish-to", tmp_path)
    folder = Path(ran.split("record: ")[1].splitlines()[0])
    record = records.load(folder)
    with pytest.raises(ValueError, match="has no cams"):
        _ = record.cams
    made = json.loads(command("cams", folder, "--json", "--publish-to", tmp_path))
    test = monitor.part(dataset(rebuilt(record.experiment)).test, 18)
    for which in ("best", "last"):
        model = record.model(which)
        maps = grad_cam(model, model.stages[-1], to_float(test.images), test.labels)
        top = maps.amax((1, 2), keepdim=True)
        assert top.min() > 0
        # Bytes: half of 1/255 off at most.
        torch.testing.assert_close(record.cams[which], maps / top, atol=0.002, rtol=0)
    assert 0 < made["spread"]["best"] <= 1
    assert (tmp_path / folder.name / "cams.safetensors").exists()
    with pytest.raises(SystemExit, match=r"has no record\.json"):
        command("cams", folder, "--publish-to", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(SystemExit, match=r"has no best\.safetensors"):
        command("cams", tmp_path / folder.name)
    command(*short, "--publish-to", tmp_path)
    assert (tmp_path / folder.name / "cams.safetensors").exists()
    command(*short, "--fresh")  # new networks, so that the old maps are nobody's
    assert not (folder / "cams.safetensors").exists()


def test_networks_are_given_away_in_eight_bits_with_their_digests(command, tmp_path):
    ran = command("run", "planted-at", *SHORT, "--publish-to", tmp_path)
    folder = Path(ran.split("record: ")[1].splitlines()[0])
    best, last = json.loads(command("compress", folder, "--to", tmp_path / "new" / "to", "--json"))
    for row, which in ((best, "best"), (last, "last")):
        file = tmp_path / "new" / "to" / f"planted-at-seed0-{which}.safetensors"
        assert (row["file"], row["bytes"]) == (str(file), file.stat().st_size)
        assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        small = records.load_model(file).state_dict()
        for name, value in records.load_model(folder / f"{which}.safetensors").state_dict().items():
            # Half a step of 8 bits; of float16 half of 2 ** -10 of the value.
            step = value.abs().amax() / 127 if value.ndim == 4 else 2**-10 * value.abs()
            assert ((small[name] - value).abs() <= 0.51 * step).all(), name
    with pytest.raises(SystemExit, match=r"has no best\.safetensors"):
        command("compress", tmp_path / folder.name, "--to", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_maps_of_a_folder_s_images_are_made_of_those_images_only(command, tmp_path):
    data = folder_of_images(tmp_path / "images")
    ran = command("run", "planted-at", *SHORT, "--data", data)
    folder = ran.split("record: ")[1].splitlines()[0]
    made = json.loads(command("cams", folder, "--data", data, "--json"))
    assert set(made["spread"]) == {"best", "last"}
    with pytest.raises(SystemExit, match=r"are not the data of .*: give the run's own by --data"):
        command("cams", folder, "--data", "planted")


def test_attributing_data_with_other_classes_names_both_lists(command, tmp_path):
    """Else Hund would pass for cat, since both are the second of six."""
    data = folder_of_images(tmp_path / "images")
    ran = command("run", "planted-at", *SHORT)
    folder = ran.split("record: ")[1].splitlines()[0]
    with pytest.raises(
        SystemExit, match=r"tells apart class 0, .* data are class0, class1, class2"
    ):
        command("attribute", f"{folder}/best.safetensors", "--data", data)


STOPPED = "`run` goes on from there"


def test_a_signal_ends_a_process_in_a_line_that_says_how_to_go_on():
    """A real process, sent a real signal once its first epoch is kept."""
    folder = Path(os.environ["CCNOTES_RUNS"])
    run = [sys.executable, "-m", "ccnotes", "run", "planted-at", *SHORT, "--epochs", "1000000"]
    run += ["--eval-every", "1"]
    deadline = time.monotonic() + 120
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process:
        try:
            while (
                process.poll() is None
                and time.monotonic() < deadline
                and not any(
                    read_state(path, path.parent.name[-16:], epochs=1_000_000).evaluations
                    for path in folder.glob("*/checkpoint.pt")
                )
            ):
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            message = process.communicate(timeout=60)[1].splitlines()[-1]
        finally:
            process.kill()
    assert STOPPED in message
    assert process.returncode == 128 + signal.SIGTERM
    (partial,) = [record for record in find() if record.folder.parent == folder]
    assert len(partial.table) >= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_either_signal_in_the_second_epoch_keeps_the_first(command, capsys, monkeypatch, number):
    """Sent to this process, with the handler that Python has for Ctrl-C."""
    train_step, steps = training.train_step, []

    def signalled(*arguments):
        steps.append(1)
        if len(steps) == 2:  # an epoch has one
            os.kill(os.getpid(), number)
        return train_step(*arguments)

    monkeypatch.setattr(training, "train_step", signalled)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stopped:
            command("run", "planted-at", *SHORT, "--eval-every", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 128 + number
    assert STOPPED in capsys.readouterr().err.splitlines()[-1]
    (partial,) = find()
    assert partial.table.epoch.tolist() == [1]
    assert not partial.finished


def test_a_reader_who_has_read_enough_is_no_error(monkeypatch, capsys):
    """As ``list | head -1``: the pipe closes while there is more to write, at the end, too."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:  # which flushes what is left as it closes
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "argv", ["ccnotes", "list"])
        main()
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


ROOT = Path(__file__).parents[1]
PROSE = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.ipynb")]
LINES = {
    line.strip("`\\ ")
    for path in PROSE
    for line in re.findall(r"python -m ccnotes ([^`\n\"#]*)", path.read_text())
}


@pytest.mark.parametrize("name", sorted({line.split()[0] for line in LINES if line.split()}))
def test_options_of_command_lines_in_prose_exist(command, capsys, name):
    """In README, CONTRIBUTING, CHANGELOG and the chapters."""
    first = [name, "planted-at"] if name == "run" else [name]
    with pytest.raises(SystemExit):
        command(*first, "--help")
    known = capsys.readouterr().out
    for line in LINES:
        if line.split()[:1] == [name]:
            for option in re.findall(r"--[a-z][\w.-]*", line):
                assert re.search(rf"{re.escape(option)}\b", known), f"{option} in: {line}"


def test_a_time_limit_has_its_own_exit_status_and_says_how_to_go_on(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        command("run", "planted-at", *SHORT, "--minutes", "1e-9")
    assert stopped.value.code == 75
    assert "the same command, without --fresh, goes on from there" in capsys.readouterr().err
    assert "record: " in command("run", "planted-at", *SHORT)


def test_show_advises_only_what_helps(command, tmp_path):
    with pytest.raises(SystemExit, match="run planted-at --seed 77`") as stopped:
        command("show", "planted-at", "--seed", "77")
    advice = str(stopped.value.code).split("python -m ccnotes ")[-1].rstrip("`.")
    command(*advice.split(), *SHORT)
    assert "planted-at" in command("show", "planted-at", "--seed", "77")
    for name in ("nothing", tmp_path):
        with pytest.raises(SystemExit, match=r"no record of .*ccnotes list`\.$"):
            command("show", name)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda folder: (folder / "train" / "class0" / "0.png").unlink(),
        lambda folder: Image.new("RGB", (9, 9)).save(folder / "train" / "class1" / "12.png"),
        lambda folder: (folder / "train" / "class1" / "12.png").write_text(""),
        lambda folder: shutil.rmtree(folder / "test"),
    ],
    ids=["other", "size", "empty", "gone"],
)
def test_cams_advises_no_option_that_it_does_not_take(command, capsys, tmp_path, wrong):
    data = folder_of_images(tmp_path / "images")
    folder = folder_of(command("run", "planted-at", *SHORT, "--data", data))
    wrong(tmp_path / "images")
    for options in (("--data", data), ("--data", data, "--data-dir", "/dev/null/data"), ()):
        with pytest.raises(SystemExit) as stopped:
            command("cams", folder, *options)
        with pytest.raises(SystemExit):
            command("cams", "--help")
        known = capsys.readouterr().out
        for option in re.findall(r"--[a-z][\w-]*", str(stopped.value.code)):
            assert option in known, stopped.value


@pytest.mark.filterwarnings("ignore:.*gradient of exactly zero")  # of weights of 1e29
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nothing"), "no record of 'nothing'"),
        (("attribute", "nothing.safetensors"), "cannot be read as a model"),
        (("run", "planted-at", "--epochs", "0"), "epochs=0 must be at least 1"),
        (("run", "planted-at", "--threads", "0"), "threads=0 must be at least 1"),
        (("run", "planted-at", "--threads", "1000000"), "at least 1 and at most 1024"),
        (("bench", "--threads", "1000000"), "at least 1 and at most 1024"),
        *(
            (
                ("run", "planted-at", *SHORT, "--minutes", minutes),
                f"minutes={minutes} must be above 0",
            )
            for minutes in ("nan", "0", "-1", "inf")
        ),
        *(
            (("run", "planted-at", "--model", model, "--width", str(width)), f"width={width} ")
            for model in ("convnet", "preactresnet")
            for width in (10**5, 10**9, 10**12, 2**62)
        ),
        (("bench", "--widths", "16", "1000000000"), "width=1000000000 is more than any machine"),
        (("bench", "--batch-size", "1000000000000"), "batch_size=1000000000000 takes 3,072,000"),
        (("bench", "--steps", "1000000000"), "steps=1000000000 would hardly end"),
        (("run", "planted-at", "--eval-steps", "10001"), "eval_steps=10001 would hardly end"),
        (("run", "planted-at", "--attack.steps", "99999"), "attack_steps=99999 would hardly end"),
        *(
            (("run", "planted-at", f"--{name}-size", "10000000000"), "_size=10000000000 of images")
            for name in ("train", "validation", "test")
        ),
        (("run", "planted-at", "--publish-to", ""), "an empty name is no path"),
        (("run", "planted-at", "--weights"), "they need --publish-to FOLDER"),
        (("run", "planted-at", "--publish-to", "/dev/null"), "/dev/null is no folder"),
        (("bench", "--widths"), "one or more, such as 16 64"),
        (("bench", "--attacks", "--growth"), "ask for a table each: give one of them"),
        (("run", "cifar10-at", "--data", "imagefolder:/nowhere"), "/nowhere"),
        (("run", "planted-at", *SHORT, "--weights"), "they need --publish-to FOLDER"),
        (("run", "planted-at", "--attack.eps", "8/0"), "8/0 divides by zero"),
        (("data", "planted"), "planted images are made when they are needed"),
        (("data", "parts"), "planted images are made when they are needed"),
        (("run", "planted-at", *SHORT, "--lr", "1e30"), "infinite or NaN in epoch"),
    ],
)
def test_mistakes_on_the_command_line_get_one_clear_line(command, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code not in (None, 0)
    assert message in f"{stopped.value.code} {capsys.readouterr()}"


def test_whatever_loads_gets_a_look(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = folder_of_images(tmp_path / "images")
    said = command("data", where, "--show")
    sheet = Path(said.split("contact sheet: ")[1].strip())
    assert sheet.parent == tmp_path
    with Image.open(sheet) as image:
        assert min(image.size) > 400
    assert "parts-sheet.png" in command("data", "parts", "--show")
    with pytest.raises(SystemExit, match=r"nothing is fetched\. To see some, add --show"):
        command("data", "parts")
