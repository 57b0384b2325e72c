"""Networks, steps, and runs that are stopped and go on, on runs of seconds."""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ccnotes import training
from ccnotes.attacks import PGD
from ccnotes.devices import hardware
from ccnotes.evaluation import evaluate
from ccnotes.experiments import EXPERIMENTS, dataset
from ccnotes.objectives import Objective
from ccnotes.onestep import fgsm
from ccnotes.planted import Planted
from ccnotes.records import find, recall, run
from ccnotes.setup import build, stream
from tests.helpers import (
    CARRYING,
    SMALL,
    SWA,
    assert_equal_records,
    numbers,
    replace_everywhere,
    taught,
)

pytestmark = pytest.mark.usefixtures("no_published")


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
def test_training_equals_the_naive_loop(batchnorm):
    """Four steps of PGD training with momentum and weight decay, written out.

    After ten, rounding has turned the sign of some pixel's gradient for one seed in six.
    """
    e = replace(SMALL, batch_size=24, epochs=4, lr_drops=(0.5,), eval_every=4)
    e = replace(e, batchnorm=batchnorm)
    data, found = dataset(e), run(e)
    model = build(e, data).to(memory_format=torch.channels_last)
    velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    uses = [stream(e.seed, use) for use in ("order", "attack")]
    order, attack = (torch.Generator().manual_seed(number) for number in uses)
    for epoch in range(4):
        batch = torch.randperm(24, generator=order)
        x, y = data.train.images[batch] / 255, data.train.labels[batch]
        x = x.contiguous(memory_format=torch.channels_last)  # random starts follow the memory
        model.train(batchnorm == "train")
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
                p.sub_((0.1 if epoch < 2 else 0.01) * velocity[name])
    for name, value in found.model("last").state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], atol=1e-6, rtol=1e-5)


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


def run_and_save_after_every_batch(experiment, runs_dir, begun):
    """What the processes do that the next test kills."""
    os.environ["CCNOTES_RUNS"] = runs_dir
    torch.set_num_threads(1)
    training.SAVE_EVERY = 0.0
    build = training.build

    def built(*arguments):
        begun.set()  # from here on there is work to interrupt
        return build(*arguments)

    training.build = built
    run(experiment)


def test_a_run_killed_ten_times_at_random_moments_ends_in_the_same_record(monkeypatch, tmp_path):
    """kill -9, in the middle of batches, evaluations and of writing; then the same run again."""
    e, others = CARRYING, tmp_path / "others"
    whole = run(e)
    context = multiprocessing.get_context("forkserver")
    # The first optimiser of a process imports torch._dynamo, which takes longer than the run.
    context.set_forkserver_preload(["tests.test_training", "torch._dynamo"])

    def start():
        begun = context.Event()
        process = context.Process(
            target=run_and_save_after_every_batch, args=(e, str(others), begun)
        )
        process.start()
        while process.is_alive() and not begun.wait(0.05):
            pass
        return process

    moments, kills, resumed = np.random.default_rng(0), 0, 0
    while kills < 10:
        process = start()
        process.join(moments.uniform(0, 0.4))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        resumed += bool(list(others.glob("*/checkpoint.pt")))
        if process.exitcode == 0:  # finished between the kills: once more from the beginning
            monkeypatch.setenv("CCNOTES_RUNS", str(others))
            assert_equal_records(recall(e), whole)
            shutil.rmtree(others)
    assert resumed
    process = start()
    process.join()
    assert process.exitcode == 0
    monkeypatch.setenv("CCNOTES_RUNS", str(others))
    assert_equal_records(recall(e), whole)


FREE = replace(SMALL, name="free", attack=fgsm(0.05), replays=2)


@pytest.mark.parametrize("e", [SMALL, CARRYING, SWA, FREE], ids=lambda e: e.name)
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


@pytest.fixture
def clock(monkeypatch):
    """Training steps take 5 seconds, :func:`ccnotes.evaluation.evaluate` 10, all else nothing."""
    clock = SimpleNamespace(now=0.0, steps=0, evaluated=0)
    train_step = training.train_step

    def slow_step(*arguments):
        clock.now += 5
        clock.steps += 1
        return train_step(*arguments)

    def slow_evaluate(*arguments, **settings):
        clock.now += 10
        clock.evaluated += 1
        return evaluate(*arguments, **settings)

    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(training, "train_step", slow_step)
    replace_everywhere(monkeypatch, evaluate, slow_evaluate)
    return clock


@pytest.mark.parametrize(
    ("seconds", "steps", "evaluated"),
    [
        (52, 5, 1),  # in the second epoch
        (75, 6, 1),  # before its evaluation, which would end after 90
        (96, 8, 2),  # in the third
        (192, 12, 4),  # before the final evaluations, each of which is a third of others at least
    ],
)
def test_a_run_stops_before_what_its_time_does_not_allow(clock, seconds, steps, evaluated):
    """An epoch has three steps and an evaluation of three splits: 15 and 30 seconds."""
    e = replace(SMALL, eval_every=1)
    with pytest.raises(training.OutOfTime):
        run(e, minutes=seconds / 60)
    assert (clock.steps, clock.evaluated) == (steps, 3 * evaluated)
    clock.now += 1000  # between the two sessions
    found = run(e)
    assert (clock.steps, clock.evaluated) == (12, 3 * 4 + 2)
    assert found.provenance["seconds"] == 12 * 5 + 14 * 10
    assert found.table.seconds.tolist() == [45, 90, 135, 180]


def test_a_checkpoint_within_an_epoch_spares_the_batches_before_it(clock, monkeypatch):
    """Every 8 seconds at least: after the second step of 5. The third ends in Ctrl-C."""
    monkeypatch.setattr(training, "SAVE_EVERY", 8.0)
    slow_step = training.train_step

    def interrupted(*arguments):
        if clock.steps == 2:
            raise KeyboardInterrupt
        return slow_step(*arguments)

    monkeypatch.setattr(training, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL)
    monkeypatch.setattr(training, "train_step", slow_step)
    run(SMALL)
    assert clock.steps == 12


def test_a_fresh_run_begins_at_the_first_batch_whatever_was_stopped_before(clock):
    with pytest.raises(training.OutOfTime):
        run(SMALL, minutes=12 / 60)
    assert clock.steps == 3
    run(SMALL, fresh=True)
    assert clock.steps == 3 + 12


def test_a_record_names_each_machine_that_had_a_share_in_it_once(monkeypatch):
    """The second of three sessions, and all after it, on another one."""
    for _ in range(2):
        with pytest.raises(training.OutOfTime):
            run(SMALL, minutes=0)
    replace_everywhere(monkeypatch, hardware, lambda device: "another one")
    with pytest.raises(training.OutOfTime):
        run(SMALL, minutes=0)
    found = run(SMALL)
    assert found.provenance["hardware"] == hardware(torch.device("cpu"))
    (later,) = found.content["later_sessions"]
    assert later["hardware"] == "another one"


def test_a_checkpoint_of_another_device_is_refused():
    with pytest.raises(training.OutOfTime):
        run(SMALL, minutes=0)
    (checkpoint,) = Path(os.environ["CCNOTES_RUNS"]).glob("*/checkpoint.pt")
    torch.save(torch.load(checkpoint, weights_only=True) | {"device": "cuda"}, checkpoint)
    with pytest.raises(ValueError, match=r"written on cuda, .* give --device cuda, or .*--fresh"):
        run(SMALL)


def test_momentum_of_other_weights_is_refused():
    """The fused optimiser would write past its memory."""
    with pytest.raises(training.OutOfTime):
        run(SMALL, minutes=0)
    (checkpoint,) = Path(os.environ["CCNOTES_RUNS"]).glob("*/checkpoint.pt")
    found = torch.load(checkpoint, weights_only=True)
    found["optimiser"]["state"][0]["momentum_buffer"] = torch.ones(3)
    torch.save(found, checkpoint)
    with pytest.raises(ValueError, match=r"does not fit the run .* momentum is of other weights"):
        run(SMALL)


def test_a_square_that_would_hide_whole_images_is_refused():
    with pytest.raises(ValueError, match="cutout=16 would hide all of images with a side of 16"):
        run(replace(SMALL, cutout=16))


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


def saying(*classes):
    """For ``train_step``: the network of epoch n says the n-th of these to every image."""
    left = iter(classes)

    def step(learner, x, y):
        with torch.no_grad():
            learner.model.head.bias.zero_()[next(left)] = 1000
        return torch.zeros(())

    return step


@pytest.mark.filterwarnings("ignore:.*gradient of exactly zero")  # of the scripted networks
@pytest.mark.parametrize(
    ("eval_every", "validate_every", "evaluated", "best"),
    [
        (1, None, [1, 2, 3, 4, 5, 6], 3),
        (5, 1, [5, 6], 3),
        (2, None, [2, 4, 6], 2),
        (6, 3, [6], 3),
    ],
)
def test_the_best_epoch_is_the_first_of_the_highest_accuracy_on_validation_images(
    monkeypatch, eval_every, validate_every, evaluated, best
):
    """Of four classes class 0 alone has two of the 5 validation images: epochs 3 and 5 of 6.

    On test images epoch 2 would be the first of the best, on training images epoch 1.
    """
    e = replace(SMALL, planted=Planted(num_classes=4), epochs=6, batch_size=7)
    e = replace(e, train_size=7, validation_size=5, test_size=6)
    monkeypatch.setattr(training, "train_step", saying(2, 1, 0, 3, 0, 3))
    found = run(replace(e, eval_every=eval_every, validate_every=validate_every))
    assert found.best["epoch"] == best
    assert found.model("best").head.bias.argmax() == {2: 1, 3: 0}[best]
    assert found.table.epoch.tolist() == evaluated
    for split, accuracies in {
        "train": [2 / 7, 2 / 7, 2 / 7, 1 / 7, 2 / 7, 1 / 7],
        "validation": [1 / 5, 1 / 5, 2 / 5, 1 / 5, 2 / 5, 1 / 5],
        "test": [1 / 6, 2 / 6, 2 / 6, 1 / 6, 2 / 6, 1 / 6],
    }.items():
        wanted = [accuracies[epoch - 1] for epoch in evaluated]
        for kind in ("clean", "robust"):  # to six digits
            assert found.table[f"{split}_{kind}_accuracy"].tolist() == pytest.approx(wanted, 1e-5)
    for which, accuracy in (("best", 2 / 6), ("last", 1 / 6)):
        assert getattr(found, which)["robust_accuracy"] == pytest.approx(accuracy)
    assert found.last["epoch"] == 6


def test_the_table_has_the_mean_loss_over_images_and_the_learning_rate(monkeypatch):
    """Batches of 10, 10 and 4 images; an epoch of losses 1, 2 and 3 and three of 4, 5 and 6."""
    losses = iter([1.0, 2.0, 3.0, *[4.0, 5.0, 6.0] * 3])
    monkeypatch.setattr(training, "train_step", lambda *a, **k: torch.tensor(next(losses)))
    table = run(replace(SMALL, eval_every=1, lr=0.4)).table
    assert table.running_loss.tolist() == pytest.approx([42 / 24, *[114 / 24] * 3], rel=1e-5)
    assert table.lr.tolist() == pytest.approx([0.4, 0.4, 0.04, 0.004])


def test_a_drop_multiplies_the_learning_rate_by_its_factor(monkeypatch):
    monkeypatch.setattr(training, "train_step", lambda *a, **k: torch.tensor(1.0))
    table = run(replace(SMALL, eval_every=1, lr=0.8, lr_factor=0.25)).table
    assert table.lr.tolist() == pytest.approx([0.8, 0.8, 0.2, 0.05])


@pytest.mark.parametrize("o", [Objective(), CARRYING.objective])
@pytest.mark.parametrize(("head", "moving"), [("learned", 4), ("frozen", 2), ("simplex", 0)])
def test_a_head_moves_as_long_as_it_is_said_to_and_the_rest_always(head, moving, o, monkeypatch):
    """The rate drops after epochs 2 and 3 of 4, of three batches each."""
    train_step, moved = training.train_step, []

    def watched(learner, x, y):
        before = {k: v.detach().clone() for k, v in learner.model.named_parameters()}
        loss = train_step(learner, x, y)
        moved.append(
            {k for k, v in learner.model.named_parameters() if not torch.equal(v, before[k])}
        )
        return loss

    monkeypatch.setattr(training, "train_step", watched)
    e = replace(SMALL, head=head, objective=o, weight_decay=0.1)
    while len(moved) < 12:  # stopped after every batch: what is frozen stays so
        with contextlib.suppress(training.OutOfTime):
            run(e, minutes=0)
    parts = {"head.weight", "head.bias"}
    assert [names & parts for names in moved] == 3 * moving * [parts] + 3 * (4 - moving) * [set()]
    assert all("body.1.weight" in names for names in moved)


def test_eps_zero_is_standard_training():
    found = run(replace(SMALL, attack=PGD(eps=0.0, step_size=0.0)))
    assert found.best["robust_accuracy"] == found.best["clean_accuracy"]


def test_a_distilled_run_of_weight_zero_is_the_plain_run_bit_for_bit(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)
    assert_equal_records(run(taught(0.0)), run(SMALL))


@pytest.mark.parametrize("size", [1, 6])
def test_a_contrast_without_kin_or_without_strangers_is_refused(size):
    """Else it would be 0 in every batch, and the run plain AT under another name."""
    e = replace(SMALL, planted=Planted(group_size=size), objective=Objective(push_contrast=0.1))
    with pytest.raises(ValueError, match=r"push_contrast=0\.1 needs classes that share"):
        run(e)


@pytest.mark.parametrize("e", [SWA, replace(SWA, average="ema", ema_decay=0.5)])
def test_averages_are_those_of_the_weights_and_leave_training_alone(e, monkeypatch):
    """SWA: the ends of epochs 3 and 4 of 4. EMA: of every step, from the first."""
    train_step, steps = training.train_step, []
    with_statistics, shown = training.with_statistics, []

    def watched(learner, x, y):
        loss = train_step(learner, x, y)
        steps.append({name: p.detach().double() for name, p in learner.model.named_parameters()})
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

    def watched(learner, x, y):
        before.append([])
        for network, weight in learner.teachers:
            assert not network.training
            before[-1].append((weight, {k: v.clone() for k, v in network.named_parameters()}))
        loss = train_step(learner, x, y)
        after.append({k: v.detach().clone() for k, v in learner.model.named_parameters()})
        return loss

    o = Objective(teachers=("own-best", "own-average"), teacher_weights=(0.25, 0.5))
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


def test_weights_that_diverge_are_not_kept():
    with pytest.raises(FloatingPointError, match=r"became (nan|infinite or NaN) in epoch"):
        run(replace(SMALL, lr=1e30, batch_size=24))
    for path in Path(os.environ["CCNOTES_RUNS"]).glob("*/checkpoint.pt"):
        kept = torch.load(path, weights_only=True)["model"].values()
        assert all(value.isfinite().all() for value in kept)


@pytest.mark.parametrize(("size", "refused"), [(24, False), (25, True), (26, False)])
def test_a_last_batch_of_one_image_of_one_pixel_is_refused_before_training(size, refused):
    """Images of 4 pixels have maps of one pixel after two strides of two."""
    tiny = Planted(image_size=4, pattern_size=4)
    e = replace(SMALL, planted=tiny, train_size=size, batch_size=12, epochs=1)
    if not refused:
        assert run(e).finished
        return
    with pytest.raises(ValueError, match="batch_size=12, 25 training images leave a last batch"):
        run(e)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_there_was():
    with pytest.raises(FloatingPointError, match=r"became (nan|infinite or NaN) in epoch 1\."):
        run(replace(SMALL, lr=1e30))


def test_before_the_first_average_of_swa_no_epoch_is_the_best(monkeypatch):
    """That of epoch 1 alone says class 0, which is right most often; averages begin in epoch 3."""
    e = replace(SMALL, planted=Planted(num_classes=4), average="swa", eval_every=1, batch_size=7)
    e = replace(e, train_size=7, validation_size=5, test_size=6)
    monkeypatch.setattr(training, "train_step", saying(0, 1, 2, 3))
    found = run(e)
    assert found.table.validation_robust_accuracy[0] == pytest.approx(2 / 5)
    assert found.best["epoch"] == 3
    assert found.model("best").head.bias.argmax() == 2


def test_weights_that_are_no_numbers_stop_a_run_whose_loss_is_one(monkeypatch):
    def broken(learner, x, y):
        with torch.no_grad():
            learner.model.head.weight[0, 0] = torch.inf
        return torch.tensor(1.0)

    monkeypatch.setattr(training, "train_step", broken)
    with pytest.raises(FloatingPointError, match=r"became (nan|infinite or NaN) in epoch"):
        run(SMALL)


@pytest.mark.parametrize(("best_by", "best"), [("accuracy", 2), ("loss", 3)])
def test_the_best_epoch_may_be_that_of_the_least_validation_loss(monkeypatch, best_by, best):
    """Epoch 2 is right most often, epoch 3 less often but with less loss; 4 equals 3 in loss."""
    scores = iter([(0.2, 3.0), (0.6, 2.0), (0.4, 1.0), (0.3, 1.0)])
    monkeypatch.setattr(training, "validated", lambda *arguments: next(scores))
    e = replace(SMALL, eval_every=9, validate_every=1, best_by=best_by)
    whole = training.evaluate_splits

    def scripted(*arguments):
        accuracy, loss = next(scores)
        found = whole(*arguments)
        return found | {"validation_robust_accuracy": accuracy, "validation_robust_loss": loss}

    monkeypatch.setattr(training, "evaluate_splits", scripted)
    assert run(e).best["epoch"] == best


def test_of_equal_losses_the_higher_accuracy_is_the_best(monkeypatch):
    scores = iter([(0.2, 1.0), (0.4, 1.0), (0.4, 1.0), (0.0, 9.0)])
    monkeypatch.setattr(training, "validated", lambda *arguments: next(scores))
    e = replace(SMALL, epochs=5, eval_every=9, validate_every=1, best_by="loss")
    assert run(e).best["epoch"] == 2


@pytest.mark.parametrize(("took", "saved"), [(0.1, 7), (0.3, 3)])
def test_a_checkpoint_that_takes_long_is_not_written_after_every_epoch(monkeypatch, took, saved):
    """Of epochs of 1 second, 0.3 are more than a twentieth; 0.1 are always borne.

    After each of four epochs and before the last evaluation, or after the first epoch alone; and
    after each of the two networks' examination.
    """
    clock = SimpleNamespace(now=0.0, saved=0)
    write_state, train_step = training.write_state, training.train_step

    def slow_write(*arguments):
        clock.now += took
        clock.saved += 1
        write_state(*arguments)

    def slow_step(*arguments):
        clock.now += 1 / 3
        return train_step(*arguments)

    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(training, "write_state", slow_write)
    monkeypatch.setattr(training, "train_step", slow_step)
    run(replace(SMALL, eval_every=9, validate_every=9))
    assert clock.saved == saved


@pytest.mark.usefixtures("unchecked")
def test_a_compiled_run_goes_on_compiled_to_the_same_record(monkeypatch):
    """Whatever it is told then. Without the compiler itself, which takes seconds."""
    whole_compile, compiled = torch.compile, []

    def quickly(function, **how):
        if function.__name__ != "<lambda>":  # by which it is tried once whether torch can
            compiled.append(function)
        return whole_compile(function, backend="aot_eager", **how)

    monkeypatch.setattr(torch, "compile", quickly)
    whole = run(SMALL, compile=True)
    assert whole.provenance["compiled"]
    assert [f.__name__ for f in compiled] == ["step", "loss_of"]
    train_step, calls = training.train_step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return train_step(*arguments)

    monkeypatch.setenv("CCNOTES_RUNS", str(whole.folder.parent.parent / "others"))
    monkeypatch.setattr(training, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, compile=True)
    monkeypatch.setattr(training, "train_step", train_step)
    assert_equal_records(run(SMALL, compile=False), whole)
    assert len(compiled) == 6
    plain = run(SMALL, fresh=True, compile=False)
    assert not plain.provenance["compiled"]
    # Rounding apart: after 12 steps of float32.
    for name, value in plain.model("last").state_dict().items():
        torch.testing.assert_close(
            value.float(), whole.model("last").state_dict()[name].float(), atol=1e-3, rtol=1e-3
        )
