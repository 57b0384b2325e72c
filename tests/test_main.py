"""The command line, on runs of seconds."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ccnotes import monitor, records
from ccnotes.__main__ import fraction, main
from ccnotes.attribution import grad_cam
from ccnotes.checkpoints import read_state
from ccnotes.data import to_float
from ccnotes.experiments import dataset, rebuilt
from ccnotes.records import find
from tests.helpers import folder_of_images


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command line as ``python -m ccnotes`` would; returns what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ccnotes", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return call


PARTS = ("arrays", "samples", "images", "best", "last")
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
    assert copied == {"record.json", "arrays.safetensors"}
    command("run", "planted-at", *SHORT, "--attack.eps", "8/255", "--publish-to", tmp_path, *ALL)
    copied = {path.name for path in tmp_path.glob("planted-at-*/*.safetensors")}
    assert copied == {f"{part}.safetensors" for part in PARTS}
    given = json.loads(command("attribute", f"{folder}/best.safetensors", "--json"))
    assert given["robust_accuracy"] == pytest.approx(shown["best"]["robust_accuracy"])
    assert given["robust_cas"] == pytest.approx(shown["best"]["robust_cas"], abs=1e-5)
    weaker = command("attribute", f"{folder}/best.safetensors", "--eps", "1/255", "--json")
    assert json.loads(weaker)["robust_loss"] < given["robust_loss"]


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
    with pytest.raises(SystemExit, match="cannot be read as a model"):
        command("cams", tmp_path / folder.name)
    command(*short, "--publish-to", tmp_path)
    assert (tmp_path / folder.name / "cams.safetensors").exists()
    command(*short, "--fresh")  # new networks, so that the old maps are nobody's
    assert not (folder / "cams.safetensors").exists()


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_in_a_line_that_says_how_to_go_on(number):
    """A real process, sent a real signal once its first epochs are kept."""
    folder = Path(os.environ["CCNOTES_RUNS"])
    run = [sys.executable, "-m", "ccnotes", "run", "planted-at", *SHORT, "--epochs", "1000000"]
    # What a shell starts in the background ignores the signal, and so would the process.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    deadline = time.monotonic() + 120
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as process:
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
            process.send_signal(number)
            message = process.communicate(timeout=60)[1].splitlines()[-1]
        finally:
            process.kill()
    assert "`run` goes on from there" in message
    assert process.returncode == 128 + number
    (partial,) = [record for record in find() if record.folder.parent == folder]
    assert len(partial.table) >= 1


def test_a_reader_who_has_read_enough_is_no_error():
    """As ``list | head -1``: the pipe closes while there is more to write."""
    listing = [sys.executable, "-m", "ccnotes", "list"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(listing, **pipes, text=True, bufsize=1) as process:
        assert process.stdout.readline().startswith("experiments: ")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("word", "value"),
    [("8/255", 8 / 255), ("0.1", 0.1), ("1e-3", 0.001), ("1e99999999", float("inf"))],
)
def test_a_fraction_is_a_number(word, value):
    assert fraction(word) == value


@pytest.mark.parametrize("word", ["1/0", "eight", "1/2/3", ""])
def test_what_is_no_number_is_refused(word):
    with pytest.raises(ValueError, match=r"divides by zero|could not convert"):
        fraction(word)


def test_a_time_limit_has_its_own_exit_status_and_says_how_to_go_on(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        command("run", "planted-at", *SHORT, "--minutes", "0")
    assert stopped.value.code == 75
    assert "the same command, without --fresh, goes on from there" in capsys.readouterr().err
    assert "record: " in command("run", "planted-at", *SHORT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nothing"), "no record of 'nothing'"),
        (("attribute", "nothing.safetensors"), "cannot be read as a model"),
        (("run", "planted-at", "--epochs", "0"), "epochs=0 must be at least 1"),
        (("run", "planted-at", "--threads", "0"), "threads=0 must be at least 1"),
        (("run", "planted-at", "--publish-to", ""), "an empty name is no path"),
        (("run", "planted-at", "--weights"), "they need --publish-to FOLDER"),
        (("bench", "--widths"), "one or more, such as 16 64"),
        (("run", "cifar10-at", "--data", "imagefolder:/nowhere"), "/nowhere"),
    ],
)
def test_mistakes_on_the_command_line_get_one_clear_line(command, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code not in (None, 0)
    assert message in f"{stopped.value.code} {capsys.readouterr()}"
