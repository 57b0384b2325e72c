"""Training, records and the command line, on runs of seconds."""

import contextlib
import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import ccnotes
from ccnotes import models, objectives, records, training
from ccnotes.__main__ import main
from ccnotes.attacks import PGD, pgd
from ccnotes.attribution import cas, class_attribution, class_similarity, grad_cam
from ccnotes.data import KNOWN, to_float
from ccnotes.evaluation import evaluate, features_of
from ccnotes.experiments import (
    EXPERIMENTS,
    PLANTED,
    Experiment,
    dataset,
    fingerprint,
    rebuilt,
)
from ccnotes.objectives import Objective
from ccnotes.planted import Planted, planted
from ccnotes.records import (
    Record,
    at_equal_loss,
    at_loss,
    differences,
    find,
    recall,
    run,
)

SMALL = Experiment(
    name="small",
    train_size=24,
    validation_size=24,
    test_size=30,
    width=4,
    epochs=4,
    batch_size=10,
    attack=PGD(eps=0.05, step_size=0.02, steps=2),
    eval_steps=2,
    eval_every=2,
    precision="float32",
)
# All that a run carries with it beyond its weights.
CARRYING = replace(
    SMALL,
    name="carrying",
    augment=True,
    cutout=4,
    objective=Objective(
        smoothing=0.1,
        teachers=("own-best", "own-average"),
        weights=(0.3, 0.4),
        cas=0.1,
        placebo=0.1,
        contrast=0.1,
        awp=0.01,
    ),
    average="ema",
)
SWA = replace(SMALL, name="swa", average="swa")


def numbers(record):
    """All that a record says, less what may differ between equal runs."""
    table = record.table.drop(columns="seconds")
    return table, record.best, record.last, record.arrays


def assert_equal_records(a, b):
    for left, right in zip(numbers(a)[:3], numbers(b)[:3], strict=True):
        assert left.equals(right) if hasattr(left, "equals") else left == right
    assert a.arrays.keys() == b.arrays.keys()
    for name, value in a.arrays.items():  # bit for bit; a NaN equals itself
        assert torch.equal(value.view(torch.uint8), b.arrays[name].view(torch.uint8)), name


@pytest.mark.parametrize("batchnorm", ["eval", "paper"])
def test_training_equals_the_naive_loop(batchnorm):
    """Ten steps of PGD training with momentum and weight decay, written out."""
    e = replace(SMALL, batch_size=24, epochs=10, lr_drops=(0.5,), eval_every=10)
    e = replace(e, batchnorm=batchnorm)
    data, found = dataset(e), run(e)
    model = training.build(e, data).to(memory_format=torch.channels_last)
    velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    uses = [training.stream(e.seed, use) for use in ("order", "attack")]
    order, attack = (torch.Generator().manual_seed(number) for number in uses)
    for epoch in range(10):
        batch = torch.randperm(24, generator=order)
        x, y = data.train.images[batch] / 255, data.train.labels[batch]
        x = x.contiguous(memory_format=torch.channels_last)  # random starts follow the memory
        model.train(batchnorm == "paper")
        adv = x + torch.empty_like(x).uniform_(-0.05, 0.05, generator=attack)
        adv = adv.clamp(0, 1)
        for _ in range(2):
            adv.requires_grad_()
            loss = F.cross_entropy(model(adv), y)
            (grad,) = torch.autograd.grad(loss, adv)
            adv = (adv.detach() + 0.02 * grad.sign()).clamp(x - 0.05, x + 0.05).clamp(0, 1)
        model.train()
        model.zero_grad()
        F.cross_entropy(model(adv), y).backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                velocity[name].mul_(0.9).add_(p.grad + 5e-4 * p)
                p.sub_((0.1 if epoch < 5 else 0.01) * velocity[name])
    for name, value in found.model("last").state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_uses_of_randomness_share_no_stream():
    uses = ("weights", "order", "augmentation", "attack")
    assert len({training.stream(seed, use) for seed in range(100) for use in uses}) == 400


def test_two_runs_of_one_seed_are_equal_bit_for_bit_and_other_seeds_differ():
    first, second = run(SMALL), run(SMALL, fresh=True)
    assert_equal_records(first, second)
    assert not numbers(run(replace(SMALL, seed=1)))[0].equals(numbers(first)[0])


@pytest.mark.skipif(
    not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)(),
    reason="this processor has no bfloat16",
)
def test_bfloat16_runs_are_reproducible_too_and_measure_in_float32():
    e = replace(SMALL, precision="bfloat16")
    first, second = run(e), run(e, fresh=True)
    assert_equal_records(first, second)
    similarity = first.arrays["best_robust_similarity"]
    assert (similarity.diagonal() - 1).abs().max() < 1e-6


def test_an_interrupted_run_goes_on_to_the_same_record(monkeypatch):
    """Ctrl-C in epoch 3: the evaluation of epoch 2 is kept and the rest follows, bit for bit."""
    whole = run(SMALL)
    train_step, calls = training.train_step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 8:  # an epoch has three steps
            raise KeyboardInterrupt
        return train_step(*arguments)

    monkeypatch.setenv("CCNOTES_RUNS", str(whole.folder.parent.parent / "others"))
    monkeypatch.setattr(training, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL)
    (partial,) = [r for r in find() if r.experiment["name"] == "small"]
    assert not partial.content["finished"]
    assert partial.table.epoch.tolist() == [2]
    assert recall(SMALL) is None
    monkeypatch.setattr(training, "train_step", train_step)
    assert_equal_records(run(SMALL), whole)


def run_and_save_after_every_batch(experiment, runs_dir):
    """What the processes do that the next test kills."""
    os.environ["CCNOTES_RUNS"] = runs_dir
    torch.set_num_threads(1)
    training.SAVE_EVERY = 0.0
    run(experiment)


@pytest.mark.parametrize("e", [SMALL, CARRYING], ids=lambda e: e.name)
def test_a_run_killed_ten_times_at_random_moments_ends_in_the_same_record(e, monkeypatch, tmp_path):
    """kill -9, in the middle of batches, evaluations and of writing; then the same run again."""
    whole, others = run(e), str(tmp_path / "others")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_training"])

    def start():
        process = context.Process(target=run_and_save_after_every_batch, args=(e, others))
        process.start()
        return process

    moments, kills = np.random.default_rng(0), 0
    while kills < 10:
        process = start()
        process.join(moments.uniform(0.1, 0.6))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:  # finished between the kills: once more from the beginning
            monkeypatch.setenv("CCNOTES_RUNS", others)
            assert_equal_records(recall(e), whole)
            shutil.rmtree(others)
    process = start()
    process.join()
    assert process.exitcode == 0
    monkeypatch.setenv("CCNOTES_RUNS", others)
    assert_equal_records(recall(e), whole)


@pytest.mark.parametrize("e", [SMALL, CARRYING, SWA], ids=lambda e: e.name)
def test_a_run_in_slices_of_no_time_ends_in_the_same_record(e, monkeypatch, tmp_path):
    """Each does one piece of work at least: a batch, an evaluation or a final one."""
    whole, slices = run(e), 0
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "others"))
    while recall(e) is None:
        with contextlib.suppress(training.OutOfTime):
            run(e, minutes=0)
        slices += 1
    # Twelve batches (one with the evaluation before it), the last evaluation, best and last.
    assert slices == 15
    assert_equal_records(recall(e), whole)


def test_a_full_disk_stops_a_run_with_one_clear_error_and_costs_nothing(monkeypatch, tmp_path):
    """The system refuses files beyond 20 kB, as a disk would, in the run and in its record."""
    whole = run(SMALL)
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "others"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def with_room_for(count):
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
        try:
            run(SMALL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(OSError, match=r"cannot write .*checkpoint.pt.* Free some space"):
        with_room_for(20_000)
    assert not list(tmp_path.glob("others/*/*.new"))
    assert_equal_records(run(SMALL), whole)


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write to .*file.* another folder by .CCNOTES_RUNS"):
        run(SMALL)


def test_the_best_epoch_is_chosen_on_validation_images():
    found = run(replace(SMALL, epochs=6, eval_every=1))
    best = found.table.validation_robust_accuracy.idxmax()
    assert found.best["epoch"] == found.table.epoch[best]
    # All test images are in the part that is used between epochs, so the figures are the same.
    # (The table has six digits.)
    tested = found.table.test_robust_accuracy[best]
    assert found.best["robust_accuracy"] == pytest.approx(tested, rel=1e-5)
    last = found.table.test_robust_cas.iloc[-1]
    assert found.last["robust_cas"] == pytest.approx(last, rel=1e-5)


def test_every_epoch_can_be_a_candidate_for_the_best():
    """Whatever is evaluated in full, and how often."""
    often = run(replace(SMALL, epochs=7, eval_every=1))
    seldom = run(replace(SMALL, epochs=7, eval_every=3, validate_every=1))
    assert seldom.best == often.best
    assert seldom.table.epoch.tolist() == [3, 6, 7]


def test_a_record_keeps_what_its_model_gives():
    found = run(SMALL)
    test, model = dataset(SMALL).test, found.model("best")
    features = features_of(model, test.images, test.labels, SMALL.eval_attack, seed=SMALL.seed)
    attribution = class_attribution(features, test.labels, model.head.weight.detach())
    similarity = class_similarity(attribution)
    torch.testing.assert_close(found.arrays["best_robust_similarity"], similarity)
    assert found.best["robust_cas"] == pytest.approx(cas(similarity).item(), abs=1e-5)
    torch.testing.assert_close(
        found.arrays["best_robust_class_means"] * found.arrays["best_head.weight"],
        attribution,
        rtol=1e-3,  # two factors in half precision, each off by 5e-4 at most
        atol=1e-6,
    )
    right = found.images["best_robust_correct"].float().mean().item()
    assert found.best["robust_accuracy"] == pytest.approx(right)


def test_evaluation_counts_right_answers_per_class():
    found, data = run(SMALL), dataset(SMALL).test
    model = found.model("last")
    x = pgd(
        model, data.images / 255, data.labels, SMALL.eval_attack, torch.Generator().manual_seed(0)
    )
    right = (model(x).argmax(1) == data.labels).float()
    result = evaluate(model, data.images, data.labels, SMALL.eval_attack)
    assert result.robust.accuracy.item() == pytest.approx(right.mean().item())
    for label in range(6):
        mean = right[data.labels == label].mean().item()
        assert result.robust.class_accuracy[label].item() == pytest.approx(mean)


def test_eps_zero_is_standard_training():
    found = run(replace(SMALL, attack=PGD(eps=0.0, step_size=0.0)))
    assert found.best["robust_accuracy"] == found.best["clean_accuracy"]


def one_step(e, data, teachers=()):
    """The model after one training step on all images, and the loss."""
    model = training.build(e, data).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    generators = {use: torch.Generator().manual_seed(0) for use in ("augmentation", "attack")}
    x, y, groups = data.train.images, data.train.labels, torch.tensor(data.groups)
    loss = training.train_step(
        model, optimiser, x, y, e, generators, e.precision, list(teachers), groups
    )
    return model, loss


@pytest.mark.parametrize("awp", [0.0, 0.1])
@pytest.mark.parametrize("name", ["cross-entropy", "trades", "mart"])
def test_a_step_of_each_loss_equals_the_naive_step(name, awp):
    """Attack, loss, perturbed weights and their return written out, with a teacher."""
    data = dataset(SMALL)
    o = Objective(loss=name, teachers=("a",), weights=(0.4,), soft_labels="permuted", awp=awp)
    e = replace(SMALL, objective=o)
    guide = training.build(replace(SMALL, seed=1), data).eval()
    found, loss = one_step(e, data, [(guide, 0.4)])
    model = training.build(e, data).to(memory_format=torch.channels_last).train()
    x, y = to_float(data.train.images), data.train.labels
    x = x.contiguous(memory_format=torch.channels_last)
    inner = "kl" if name == "trades" else "cross-entropy"
    adv = pgd(model, x, y, e.attack, torch.Generator().manual_seed(0), loss=inner)
    soft = objectives.soft_labels(guide(adv), y, o, torch.tensor(data.groups)).detach()

    def naive():
        clean = model(x) if name != "cross-entropy" else None
        logits = model(adv)
        hard = {
            "cross-entropy": lambda: F.cross_entropy(logits, y),
            "trades": lambda: objectives.trades(clean, logits, y, 6.0),
            "mart": lambda: objectives.mart(clean, logits, y, 6.0),
        }[name]()
        return 0.6 * hard + 0.4 * objectives.distillation(logits, soft, 2.0)

    first = naive()
    torch.testing.assert_close(loss, first.detach())
    weights = list(model.parameters())
    gradients = torch.autograd.grad(first, weights)
    statistics = {name: b.clone() for name, b in model.named_buffers()}
    if awp:
        before = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w.add_(awp * w.norm() / g.norm() * g if w.ndim > 1 else 0)
        gradients = torch.autograd.grad(naive(), weights)
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)
    with torch.no_grad():
        for w, g in zip(weights, gradients, strict=True):
            w.sub_(0.1 * g)
    for (key, value), wanted in zip(found.named_parameters(), weights, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-4, msg=key)
    for key, value in found.named_buffers():
        torch.testing.assert_close(value, statistics[key], atol=1e-6, rtol=1e-4)


def test_perturbed_weights_count_in_bfloat16_too():
    """Autocast keeps copies of the weights, which must not outlive the perturbation."""
    e, data = replace(SMALL, precision="bfloat16"), dataset(SMALL)
    plain, _ = one_step(e, data)
    moved, _ = one_step(replace(e, objective=Objective(awp=0.5)), data)
    exact, _ = one_step(replace(SMALL, objective=Objective(awp=0.5)), data)
    start = training.build(e, data).head.weight
    steps = [(m.head.weight - start).flatten() for m in (plain, moved, exact)]
    assert (steps[1] - steps[2]).norm() < 0.2 * (steps[0] - steps[2]).norm()


@pytest.fixture
def small_teacher(monkeypatch):
    """SMALL as a named experiment."""
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)


def taught(weight=0.5, **settings):
    return replace(SMALL, objective=Objective(teachers=("small",), weights=(weight,), **settings))


def test_a_distilled_run_of_weight_zero_is_the_plain_run_bit_for_bit(small_teacher):
    assert_equal_records(run(taught(0.0)), run(SMALL))


def test_a_teacher_is_the_best_of_its_run_and_trained_where_it_is_missing(small_teacher):
    found = run(taught(1.0))
    home = recall(SMALL)
    weights = str(home.folder / "best.safetensors")
    by_path = Objective(teachers=(weights,), weights=(1.0,))
    assert_equal_records(run(replace(SMALL, objective=by_path)), found)
    assert not numbers(found)[0].equals(numbers(home)[0])


def test_teachers_are_known_by_what_they_are(small_teacher, monkeypatch, tmp_path):
    """By the configuration of their run, or the content of their file, wherever it lies."""

    def key(e):
        return fingerprint(e, "float32", PLANTED)

    before = key(taught())
    monkeypatch.setitem(EXPERIMENTS, "small", replace(SMALL, epochs=5))
    assert key(taught()) != before
    monkeypatch.setitem(EXPERIMENTS, "other", SMALL)
    renamed = replace(taught().objective, teachers=("other",))
    assert key(replace(SMALL, objective=renamed)) == before
    keys = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(content)
        keys.append(key(replace(SMALL, objective=replace(renamed, teachers=(str(file),)))))
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(ValueError, match="teacher 'nobody' is no experiment"):
        key(replace(SMALL, objective=replace(renamed, teachers=("nobody",))))


def test_a_teacher_s_record_without_weights_is_passed_over():
    made = run(SMALL)
    (made.folder / "best.safetensors").unlink()
    assert recall(SMALL).folder == made.folder
    assert recall(SMALL, weights=True) is None
    run(SMALL, weights=True)
    assert recall(SMALL, weights=True).folder == made.folder


def test_a_teacher_of_other_classes_is_refused_before_training():
    stranger = run(replace(SMALL, planted=Planted(num_classes=4)))
    path = str(stranger.folder / "best.safetensors")
    e = replace(SMALL, objective=Objective(teachers=(path,), weights=(0.5,)))
    with pytest.raises(ValueError, match=r"knows 4 classes, the student 6: choose a teacher"):
        run(e)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [0.5], "std": [0.25]}, "knows 1 channels, the student 3"),
        ({"mean": [0.0] * 3}, r"mean of pixels in \[0, 1\] that is 0.500 away"),
        ({"std": [1.0] * 3}, "std of pixels .* that is 0.750 away"),
    ],
)
def test_a_teacher_of_other_images_is_refused(settings, message):
    stranger = models.ConvNet(6, width=4, **settings)
    with pytest.raises(ValueError, match=message):
        training.check_teacher("stranger", stranger, models.ConvNet(6, width=4))


@pytest.mark.parametrize("size", [1, 6])
def test_a_contrast_without_kin_or_without_strangers_is_refused(size):
    """Else it would be 0 in every batch, and the run plain AT under another name."""
    e = replace(SMALL, planted=Planted(group_size=size), objective=Objective(contrast=0.1))
    with pytest.raises(ValueError, match=r"contrast=0\.1 needs classes that share a true group"):
        run(e)


@pytest.mark.parametrize("e", [SWA, replace(SWA, average="ema", ema_decay=0.5)])
def test_averages_are_those_of_the_weights_and_leave_training_alone(e, monkeypatch):
    """SWA: the ends of epochs 3 and 4 of 4. EMA: of every step, from the first."""
    train_step, steps = training.train_step, []
    with_statistics, shown = training.with_statistics, []

    def watched(model, *arguments):
        loss = train_step(model, *arguments)
        steps.append({name: p.detach().double() for name, p in model.named_parameters()})
        return loss

    def watched_statistics(*arguments):
        shown.append(with_statistics(*arguments))
        return shown[-1]

    plain = run(SMALL)
    monkeypatch.setattr(training, "train_step", watched)
    monkeypatch.setattr(training, "with_statistics", watched_statistics)
    found = run(e)
    assert found.table.running_loss.equals(plain.table.running_loss)
    average = found.model("last").state_dict()
    assert all(torch.equal(value, average[name]) for name, value in shown[-1].state_dict().items())
    for name in steps[0]:
        wanted = (steps[8][name] + steps[11][name]) / 2
        if e.average == "ema":
            wanted = steps[0][name]
            for step in steps[1:]:  # three steps make an epoch, in which the rest is halved
                wanted = 0.5 ** (1 / 3) * wanted + (1 - 0.5 ** (1 / 3)) * step[name]
        torch.testing.assert_close(average[name].double(), wanted, atol=1e-6, rtol=1e-5)
    first = found.table.test_robust_loss[0]  # after epoch 2, when SWA has not begun
    assert (first == plain.table.test_robust_loss[0]) == (e.average == "swa")


def test_a_run_s_own_teachers_are_its_best_so_far_and_its_running_average(monkeypatch):
    """Before each step, in eval mode; the best is known from the evaluation after epoch 2 on."""
    train_step, before, after = training.train_step, [], []

    def watched(model, *arguments):
        before.append([])
        for network, weight in arguments[-2]:
            assert not network.training
            before[-1].append((weight, {k: v.clone() for k, v in network.named_parameters()}))
        loss = train_step(model, *arguments)
        after.append({k: v.detach().clone() for k, v in model.named_parameters()})
        return loss

    o = Objective(teachers=("own-best", "own-average"), weights=(0.25, 0.5))
    monkeypatch.setattr(training, "train_step", watched)
    run(replace(SMALL, objective=o, ema_decay=0.5))
    assert [len(teachers) for teachers in before] == 6 * [1] + 6 * [2]
    for number, teachers in enumerate(before):
        *best, (weight, average) = teachers
        assert weight == 0.5
        for name, value in average.items() if number else ():
            wanted = after[0][name].double()
            for step in after[1:number]:
                wanted = 0.5 ** (1 / 3) * wanted + (1 - 0.5 ** (1 / 3)) * step[name]
            torch.testing.assert_close(value.double(), wanted, atol=1e-6, rtol=1e-5)
        for weight, network in best:
            assert weight == 0.25
            assert all(torch.equal(value, after[5][name]) for name, value in network.items())


@pytest.mark.parametrize("loss", ["cross-entropy", "mart"])
def test_an_average_s_batchnorm_statistics_are_those_of_attacked_training_images(loss):
    """Those of the first layer, whose input is known; MART sees the images themselves, too."""
    e = replace(SMALL, batch_size=12, objective=Objective(loss=loss))
    data = dataset(e)
    model = training.build(e, data).to(memory_format=torch.channels_last).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = training.with_statistics(model, data.train, e, "float32")
    generator = torch.Generator().manual_seed(training.stream(e.seed, "batchnorm"))
    means, variances = [], []
    order = torch.randperm(24, generator=generator)
    for batch in order.split(12):
        x = to_float(data.train.images[batch]).contiguous(memory_format=torch.channels_last)
        adv = pgd(model, x, data.train.labels[batch], e.attack, generator)
        for images in (adv,) if loss == "cross-entropy" else (x, adv):
            maps = model.body[1](model.body[0](images))
            means.append(maps.mean((0, 2, 3)))
            variances.append(maps.var((0, 2, 3)))
    norm = found.body[2]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert norm.momentum == 0.1
    assert not found.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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

    monkeypatch.setattr(records, "fit", gone)
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
    for other in ({"seed": 1}, {"lr": 0.2}, {"attack": PGD(eps=0.06, step_size=0.02, steps=2)}):
        assert recall(replace(SMALL, **other)) is None


def test_a_record_made_under_other_defaults_is_not_recalled(monkeypatch):
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


def test_a_fresh_run_that_is_stopped_leaves_the_finished_record(monkeypatch):
    made = run(SMALL)

    def stopped(*arguments):
        raise KeyboardInterrupt

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


def test_weights_that_diverge_are_not_kept():
    with pytest.raises(FloatingPointError, match="training loss became nan in epoch"):
        run(replace(SMALL, lr=1e30, batch_size=24))
    for path in Path(os.environ["CCNOTES_RUNS"]).glob("*/checkpoint.pt"):
        kept = torch.load(path, weights_only=True)["model"].values()
        assert all(value.isfinite().all() for value in kept)


def test_parts_that_miss_a_class_are_refused_before_training():
    with pytest.raises(ValueError, match="raise eval_size=3"):
        run(replace(SMALL, eval_size=3))


def test_channel_statistics_are_those_of_the_pixels():
    images = dataset(SMALL).train.images
    mean, std = training.channel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=5.1e-5)
    assert std == pytest.approx(pixels.std((0, 2, 3)).tolist(), abs=5.1e-5)


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


def test_the_fingerprints_of_early_experiments_stand():
    """Whatever fields come: else their published records would be lost."""
    found = fingerprint(EXPERIMENTS["planted-at"], "bfloat16", PLANTED)
    assert found == "686c630df0f32a4f"
    found = fingerprint(EXPERIMENTS["cifar10-paper-at"], "float32", KNOWN["cifar10"])
    assert found == "31508e00f2eed4dd"


def test_every_experiment_survives_its_record_and_has_its_own_fingerprint():
    keys = {}
    for e in EXPERIMENTS.values():
        assert rebuilt(json.loads(json.dumps(asdict(e)))) == e
        keys.setdefault(fingerprint(e, "float32", PLANTED if e.data == "planted" else ""), e.name)
    assert len(keys) == len(EXPERIMENTS) - 1  # planted-at-float32 is planted-at in float32


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint .* Delete it"):
        training.read_state(checkpoint, "abc")
    training.write_state({"fingerprint": "other"}, checkpoint)
    with pytest.raises(ValueError, match="belongs to run other, not to abc"):
        training.read_state(checkpoint, "abc")
    with pytest.raises(ValueError, match=r"lacks pause, sessions, total: another version"):
        training.read_state(checkpoint, "other")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_there_was():
    with pytest.raises(FloatingPointError, match="training loss became nan in epoch"):
        run(replace(SMALL, lr=1e30))


def test_two_processes_cannot_train_one_run():
    made = run(SMALL)
    with (
        records.FileLock(made.folder / "lock"),
        pytest.raises(RuntimeError, match="another process"),
    ):
        run(SMALL, fresh=True)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no experiment is called 'planted'.* planted-at"):
        ccnotes.runs("planted")
    with pytest.raises(ValueError, match="device='tpu' cannot be used here"):
        ccnotes.devices.pick_device("tpu")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"lr_drops": (50, 75)}, "lr_drops=.* are fractions of the epochs"),
        ({"train_size": None}, "planted ones have no end"),
        ({"final_size": 0}, "final_size=0 must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must lie between"),
        ({"average": "swa", "objective": CARRYING.objective}, "begins too late for the teacher"),
    ],
)
def test_impossible_experiments_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**setting)


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command line as ``python -m ccnotes`` would; returns what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ccnotes", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return call


PARTS = ("arrays", "samples", "images", "best", "last")
ALL = ("--weights", "--samples", "--images")
SHORT = "--epochs 2 --train-size 24 --validation-size 24 --test-size 30 --width 4".split()


def test_the_command_line_runs_shows_and_attributes(command, tmp_path):
    ran = command("run", "planted-at", *SHORT, "--attack.eps", "8/255", "--publish-to", tmp_path)
    folder = ran.split("record: ")[1].splitlines()[0]
    shown = json.loads(command("show", folder, "--json"))
    assert shown["experiment"]["attack"]["eps"] == pytest.approx(8 / 255)
    assert shown["experiment"]["epochs"] == 2
    smooth = ("--objective.smoothing", "0.1", "--objective.teachers", "own-best")
    ran = command("run", "planted-at", *SHORT, *smooth, "--objective.weights", "1/4")
    smoothed = json.loads(command("show", ran.split("record: ")[1].splitlines()[0], "--json"))
    assert smoothed["experiment"]["objective"]["smoothing"] == 0.1
    assert smoothed["experiment"]["objective"]["weights"] == [0.25]
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
    test = training.part(dataset(rebuilt(record.experiment)).test, 18)
    for which in ("best", "last"):
        model = record.model(which)
        maps = grad_cam(model, model.stages[-1], to_float(test.images), test.labels)
        top = maps.amax((1, 2), keepdim=True)
        assert top.min() > 0
        # Bytes: half of 1/255 off at most.
        torch.testing.assert_close(record.cams[which], maps / top, atol=0.002, rtol=0)
    assert 0 < made["spread"]["best"] <= 1
    assert (tmp_path / folder.name / "cams.safetensors").exists()
    with pytest.raises(SystemExit, match="cannot be read as a record"):
        command("cams", folder, "--publish-to", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(SystemExit, match="cannot be read as a model"):
        command("cams", tmp_path / folder.name)
    command(*short, "--publish-to", tmp_path)
    assert (tmp_path / folder.name / "cams.safetensors").exists()
    command(*short, "--fresh")  # new networks, so that the old maps are nobody's
    assert not (folder / "cams.safetensors").exists()


@pytest.fixture
def folder_of_images(tmp_path):
    """Planted images of six classes as files, twelve of each for either split."""
    for split in ("train", "test"):
        drawn = planted(72, seed=0, split=split)
        for number, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
            path = tmp_path / "images" / split / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "images"


def test_maps_of_a_folder_s_images_are_made_of_those_images_only(command, folder_of_images):
    data = f"imagefolder:{folder_of_images}"
    ran = command("run", "planted-at", *SHORT, "--data", data)
    folder = ran.split("record: ")[1].splitlines()[0]
    made = json.loads(command("cams", folder, "--data", data, "--json"))
    assert set(made["spread"]) == {"best", "last"}
    with pytest.raises(SystemExit, match=r"are not the data of .*: give the run's own by --data"):
        command("cams", folder, "--data", "planted")


def test_ctrl_c_ends_in_a_line_that_says_how_to_go_on():
    """A real process, sent a real SIGINT once its first epochs are kept."""
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
                    training.read_state(path, path.parent.name[-16:])["evaluations"]
                    for path in folder.glob("*/checkpoint.pt")
                )
            ):
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            message = process.communicate(timeout=60)[1].splitlines()[-1]
        finally:
            process.kill()
    assert "`run` goes on from there" in message
    (partial,) = [record for record in find() if record.folder.parent == folder]
    assert len(partial.table) >= 1


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
        (("run", "cifar10-at", "--data", "imagefolder:/nowhere"), "/nowhere"),
    ],
)
def test_mistakes_on_the_command_line_get_one_clear_line(command, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code not in (None, 0)
    assert message in f"{stopped.value.code} {capsys.readouterr()}"


def ends_of(values):
    """What best_and_last gives, of experiments that each have a value for each seed."""
    rows = [
        {"experiment": name, "eps": 0.1, "seed": seed, "checkpoint": which, "value": value + shift}
        for name, seeds in values.items()
        for seed, value in seeds.items()
        for which, shift in (("best", 0.5), ("last", 0.0))
    ]
    return pd.DataFrame(rows)


def test_differences_are_between_equal_seeds_and_checkpoints():
    """Whatever the order of the rows."""
    ends = ends_of({"a": {0: 1.0, 1: 5.0}, "base": {1: 3.0, 0: 2.0}}).sample(frac=1, random_state=0)
    found = differences(ends, "base").set_index(["experiment", "seed", "checkpoint"]).value
    assert found["a"].to_dict() == {
        (0, "best"): -1.0,
        (0, "last"): -1.0,
        (1, "best"): 2.0,
        (1, "last"): 2.0,
    }
    assert (found["base"] == 0).all()
    with pytest.raises(ValueError, match=r"'base' has no record of seeds \[1\]"):
        differences(ends_of({"a": {0: 1.0, 1: 5.0}, "base": {0: 2.0}}), "base")


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


def test_published_records_are_found_by_the_start_of_their_names():
    found = records.published("planted-at-eps", seed=3)
    assert sorted(found) == ["12", "16", "2", "4", "6"]
    assert all(record.experiment["seed"] == 3 for record in found.values())


def test_every_published_record_loads_and_bears_its_own_fingerprint():
    published = [r for r in find() if r.folder.parent == records.PUBLISHED]
    for record in published:
        e, precision = rebuilt(record.experiment), record.provenance["precision"]
        identity = record.content["dataset"]["identity"]
        assert fingerprint(e, precision, identity) == record.content["fingerprint"]
        assert record.content["finished"]
        assert len(record.table) == len(record.arrays["test_robust_similarity"])
        assert "best_head.weight" in record.arrays
    assert sum(p.stat().st_size for p in records.PUBLISHED.rglob("*")) < 10_000_000


def test_named_experiments_are_called_by_their_own_name():
    assert all(name == experiment.name for name, experiment in EXPERIMENTS.items())
    assert asdict(EXPERIMENTS["planted-at"])["data"] == "planted"
