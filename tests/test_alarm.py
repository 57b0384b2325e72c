"""A training that looks whether it has collapsed, and what it does then."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from ccnotes import alarm, training
from ccnotes.attacks import PGD, pgd
from ccnotes.data import to_float
from ccnotes.experiments import dataset
from ccnotes.monitor import part
from ccnotes.onestep import fgsm
from ccnotes.records import run
from ccnotes.training import OutOfTime
from tests.helpers import SMALL, assert_equal_records

pytestmark = pytest.mark.usefixtures("no_published")


def scripted(monkeypatch, *looks):
    """Let the looks at a batch find these accuracies, one an epoch."""
    left = list(looks)
    monkeypatch.setattr(alarm, "accuracy", lambda *_: left.pop(0))


FAST = replace(SMALL, attack=fgsm(0.05), epochs=5, eval_every=1, on_collapse="go on")


def test_a_collapse_is_seen_and_the_network_before_it_is_kept(monkeypatch, capsys):
    """A fall of 20 points is none, one of 21 below the best, of two looks ago, is one."""
    scripted(monkeypatch, 0.5, 0.6, 0.4, 0.39, 0.7)
    found = run(FAST)
    assert found.watched.epoch.tolist() == [1, 2, 3, 4, 5]
    assert found.watched.accuracy.tolist() == [0.5, 0.6, 0.4, 0.39, 0.7]
    assert found.collapsed == 4
    assert found.table.epoch.tolist() == [1, 2, 3, 4, 5]
    scripted(monkeypatch, 0.5, 0.6, 0.4)
    before = run(replace(FAST, name="shorter", epochs=3, lr_drops=(5 / 6, 8 / 9)))
    assert before.collapsed is None
    for name, value in found.model("before").state_dict().items():
        torch.testing.assert_close(value, before.model("last").state_dict()[name])
    said = capsys.readouterr().err
    assert "small seed 0 has collapsed in epoch 4: PGD accuracy on a training batch fell" in said
    assert "from 60% to 39%" in said
    with pytest.raises(ValueError, match=r"has no before\.safetensors"):
        before.model("before")


def test_a_run_stops_at_its_collapse_where_that_is_asked_for(monkeypatch):
    """Whatever stopped it before: the record is that of a run of one go."""
    e = replace(FAST, on_collapse="stop", eval_every=5, validate_every=1)
    looks = (0.5, 0.6, 0.1)
    scripted(monkeypatch, *looks)
    whole = run(e)
    assert whole.finished
    assert (whole.collapsed, whole.last["epoch"]) == (3, 3)
    assert whole.table.epoch.tolist() == [3]
    monkeypatch.setenv("CCNOTES_RUNS", str(whole.folder.parent.parent / "others"))
    scripted(monkeypatch, *looks)
    for _ in range(30):
        with suppress(OutOfTime):
            assert_equal_records(run(e, minutes=1e-9, go_on=True), whole)
            return
    pytest.fail("the run did not end")


def test_an_epoch_interrupted_after_its_look_is_looked_at_once(monkeypatch):
    """Its checkpoint has the look, but not the evaluation."""
    e = replace(FAST, epochs=2)
    whole, evaluate = run(e), training.evaluate_splits

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("CCNOTES_RUNS", str(whole.folder.parent.parent / "others"))
    monkeypatch.setattr(training, "evaluate_splits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(e)
    monkeypatch.setattr(training, "evaluate_splits", evaluate)
    found = run(e)
    assert_equal_records(found, whole)
    assert found.watched.epoch.tolist() == [1, 2]
    assert found.watched.equals(whole.watched)


def test_what_is_watched_is_pgd_of_five_steps_on_a_batch_of_training_images():
    found = run(replace(FAST, epochs=1))
    e, data = found.configuration, dataset(FAST)
    batch = part(data.train, 10)
    attack = PGD(eps=0.05, step_size=0.0125, steps=5)
    x = to_float(batch.images).contiguous(memory_format=torch.channels_last)
    model = found.model("last")
    adv = pgd(model, x, batch.labels, attack, torch.Generator().manual_seed(e.seed))
    expected = (model(adv).argmax(1) == batch.labels).float().mean().item()
    assert found.watched.accuracy.tolist() == [pytest.approx(expected, abs=1e-6)]


def test_attacks_of_many_steps_are_watched_only_where_a_collapse_shall_stop_them():
    many = PGD(eps=0.05, step_size=0.02, steps=3)
    plain, watched = (replace(SMALL, attack=many, on_collapse=o) for o in ("go on", "stop"))
    assert not run(plain).watched.size
    found = run(watched)
    assert len(found.watched) == 4
    assert found.collapsed is None
    assert torch.equal(found.model("last").head.weight, run(plain).model("last").head.weight)
