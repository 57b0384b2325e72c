"""One run on several processes: what they learn together, against one that does it by hand."""

import itertools
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ccnotes import ranks as room
from ccnotes.__main__ import main
from ccnotes.data import augment, to_float
from ccnotes.evaluation import evaluate
from ccnotes.experiments import dataset
from ccnotes.objectives import Objective
from ccnotes.planted import Planted
from ccnotes.ranks import Ranks, agreed, joined, part, ranks, share
from ccnotes.records import find, recall, run
from ccnotes.setup import build, stream
from ccnotes.training import OutOfTime
from tests.helpers import CARRYING, SMALL, SWA, assert_equal_records

pytestmark = pytest.mark.usefixtures("no_published")
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book/many_runs.md").read_text()
# Batches of 10, 10 and 7: of the last, one of two processes has three images, the other four.
SHARED = replace(SMALL, train_size=27, epochs=1, eval_every=1, augment=True, lr_drops=())


def member(rank, count, port, folder, work, arguments):
    """What torchrun does for a process, and what it is to do."""
    torch.set_num_threads(1)
    os.environ |= {"CCNOTES_RUNS": folder, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ["TORCHELASTIC_RUN_ID"] = "a test"
    with joined("cpu"):
        work(*arguments)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def together(count, work, *arguments):
    """Let so many processes do the work."""
    context = multiprocessing.get_context("forkserver")
    # The first optimiser of a process imports torch._dynamo, which takes longer than the run.
    context.set_forkserver_preload(["tests.test_ranks", "torch._dynamo"])
    port, folder = free_port(), os.environ["CCNOTES_RUNS"]
    processes = [
        context.Process(target=member, args=(rank, count, port, folder, work, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def run_fresh(e):
    run(e, fresh=True)


def run_a_piece(e):
    with suppress(OutOfTime):
        run(e, minutes=0)


def by_hand(e, counts):
    """The network after one epoch of steps, of each of which so many processes had a share.

    Each part of a batch is attacked by the network as it is before the step, and normalised by its
    own statistics; gradients and running statistics are means over the batch's images.
    """
    data = dataset(e)
    model = build(e, data).to(memory_format=torch.channels_last).train()
    weights = list(model.parameters())
    uses = ("order", "augmentation", "attack")
    draws = {u: torch.Generator().manual_seed(stream(e.seed, u)) for u in uses}
    velocity = [torch.zeros_like(w) for w in weights]

    def gradients(parts):
        """Means over the batch, and the running statistics' in place."""
        total, found = [torch.zeros_like(w) for w in weights], {}
        for x, y in parts:
            one, weight = deepcopy(model), len(y) / sum(len(y) for _, y in parts)
            F.cross_entropy(one(x), y).backward()
            for g, p in zip(total, one.parameters(), strict=True):
                g += weight * p.grad
            for name, value in one.named_buffers():
                found[name] = found.get(name, 0) + weight * value.double()
        for name, value in model.named_buffers():
            value.copy_(found[name].round() if "num" in name else found[name])
        return total

    batches = torch.randperm(len(data.train), generator=draws["order"]).split(e.batch_size)
    for batch, count in zip(batches, counts, strict=True):
        x, y = augment(data.train.images[batch], draws["augmentation"]), data.train.labels[batch]
        x = to_float(x).contiguous(memory_format=torch.channels_last)
        noise = torch.empty_like(x).uniform_(-0.05, 0.05, generator=draws["attack"])
        parts = []
        for n in range(count):
            mine = slice(len(y) * n // count, len(y) * (n + 1) // count)
            adv = (x[mine] + noise[mine]).clamp(0, 1)
            for _ in range(2):
                adv.requires_grad_()
                loss = F.cross_entropy(model.eval()(adv), y[mine])
                (grad,) = torch.autograd.grad(loss, adv)
                adv = adv.detach() + 0.02 * grad.sign()
                adv = adv.clamp(x[mine] - 0.05, x[mine] + 0.05).clamp(0, 1)
            parts.append((adv, y[mine]))
        model.train()
        mean = gradients(parts)
        with torch.no_grad():
            if gamma := e.objective.awp:
                before = deepcopy(model.state_dict())
                for w, g in zip(weights, mean, strict=True):
                    w.add_(gamma * w.norm() / g.norm() * g if w.ndim > 1 else 0)
                with torch.enable_grad():
                    mean = gradients(parts)
                model.load_state_dict(before)
            for w, g, v in zip(weights, mean, velocity, strict=True):
                v.mul_(0.9).add_(g + 5e-4 * w)
                w.sub_(0.1 * v)
    return model


def assert_same_network(found, expected):
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("awp", [0.0, 0.05])
def test_two_processes_learn_what_one_does_by_hand(awp):
    """Three steps: after ten, rounding turns the sign of some pixel's gradient now and then."""
    e = replace(SHARED, objective=Objective(awp=awp))
    together(2, run, e)
    found, expected = recall(e), by_hand(e, [2, 2, 2])
    assert found.provenance["ranks"] == 2
    assert_same_network(found.model("last"), expected)
    test = dataset(e).test
    alone = evaluate(expected.eval(), test.images, test.labels, e.eval_attack, seed=e.seed)
    for kind in ("clean", "robust"):  # other starts of the attack move the loss by more
        wanted = getattr(alone, kind)
        assert found.last[f"{kind}_accuracy"] == pytest.approx(wanted.accuracy.item())
        assert found.last[f"{kind}_loss"] == pytest.approx(wanted.loss.item(), rel=2e-6)


def test_a_run_of_two_goes_on_as_one_and_one_of_one_as_two(tmp_path, monkeypatch):
    together(2, run_a_piece, SHARED)
    found = run(SHARED)
    assert_same_network(found.model("last"), by_hand(SHARED, [2, 1, 1]))
    (later,) = found.content["later_sessions"]
    assert (found.provenance["ranks"], later["ranks"]) == (2, 1)
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "others"))
    run_a_piece(SHARED)
    together(2, run, SHARED)
    assert_same_network(recall(SHARED).model("last"), by_hand(SHARED, [1, 2, 2]))


def kept_by_each(e, folder):
    """A run from which each process keeps its own state, too."""
    from ccnotes import training

    whole = training.conclude

    def watched(keeper):
        whole(keeper)
        model, average = keeper.run.model.state_dict(), keeper.run.average.state_dict()
        state = {"model": model, "average": average, "best": keeper.state.best["weights"]}
        torch.save(state, folder / f"{ranks().rank}.pt")

    training.conclude = watched
    run(e)


@pytest.mark.parametrize("e", [CARRYING, SWA], ids=lambda e: e.name)
def test_two_processes_hold_the_same_and_go_on_bit_for_bit(e, tmp_path, monkeypatch):
    """Averages, a run's own teachers, perturbed weights; stopped after the first piece of work."""
    objective = replace(e.objective, push_cas=0.0, push_placebo=0.0, push_contrast=0.0)
    e = replace(e, objective=objective)
    together(2, kept_by_each, e, tmp_path)
    first, second = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (0, 1))
    for held, other in zip(first.values(), second.values(), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in held.items())
    unbroken = recall(e)
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "others"))
    together(2, run_a_piece, e)
    assert recall(e) is None
    together(2, run, e)
    assert_equal_records(recall(e), unbroken)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 10, 11])
def test_parts_make_the_whole_and_their_shares_one(size, monkeypatch):
    """Of a batch of fewer images than there are processes each takes all."""
    parts, shares = [], []
    for rank in range(3):
        monkeypatch.setattr(room, "_now", Ranks(rank=rank, count=3))
        parts.append(list(range(size))[part(size)])
        shares.append(share(size))
    assert sum(shares) == pytest.approx(1)
    if size < 3:
        assert parts == 3 * [list(range(size))]
    else:
        assert list(itertools.chain(*parts)) == list(range(size))
        assert {len(p) for p in parts} <= {size // 3, size // 3 + 1}
        assert shares == [len(p) / size for p in parts]


@pytest.fixture
def two(monkeypatch):
    """This process passes for the first of two."""
    monkeypatch.setattr(room, "_now", Ranks(count=2))


@pytest.mark.parametrize(
    ("e", "message"),
    [
        (replace(SMALL, batch_size=9), "batch_size=9 images cannot be shared evenly by 2 proc"),
        (
            replace(SMALL, objective=Objective(push_contrast=0.1)),
            "about a whole batch, of which 2 processes see a part each",
        ),
        (
            replace(SMALL, data="parts", objective=Objective(group_weight=0.1)),
            "group_weight, grad_align, elle, virtual and replays are about a whole batch",
        ),
        (
            replace(SMALL, planted=Planted(image_size=4, pattern_size=4), batch_size=2),
            "a last batch of one for one of 2 processes, of whose maps of one pixel",
        ),
    ],
)
def test_what_processes_cannot_share_is_refused(two, monkeypatch, e, message):
    monkeypatch.setattr("ccnotes.records.runner.agreed", int)
    with pytest.raises(ValueError, match=message):
        run(e)


@pytest.fixture
def torchrun(monkeypatch):
    """The environment of the second of two processes."""
    for name, value in {
        "TORCHELASTIC_RUN_ID": "a test",
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("device", "cards", "message"),
    [
        (None, 1, "more processes on this machine than its 1 cards: give --nproc-per-node 1"),
        ("cuda:0", 4, "2 processes cannot share device='cuda:0'"),
        ("mps", 0, "2 processes cannot share device='mps'"),
    ],
)
def test_processes_without_a_device_of_their_own_are_refused(torchrun, device, cards, message):
    torchrun.setattr(torch.cuda, "device_count", lambda: cards)
    with pytest.raises(ValueError, match=message), joined(device):
        pass


def test_each_process_takes_the_card_of_its_number(torchrun):
    """Without cards and without the other process."""
    asked = []
    torchrun.setattr(torch.cuda, "device_count", lambda: 2)
    torchrun.setattr(torch.cuda, "set_device", asked.append)
    torchrun.setattr(room.dist, "init_process_group", asked.append)
    torchrun.setattr(room.dist, "destroy_process_group", lambda: asked.append("end"))
    torchrun.setattr(room.dist, "get_rank", lambda: 1)
    with joined() as device:
        assert (device, ranks()) == ("cuda:1", Ranks(rank=1, count=2, device="cuda:1"))
    assert asked == [1, "nccl", "end"]
    assert ranks() == Ranks()


def test_only_run_shares_its_work(torchrun):
    torchrun.setattr(sys, "argv", ["ccnotes", "sweep", "planted-at"])
    with pytest.raises(SystemExit, match="only `run` shares its work"):
        main()


def test_a_process_whose_fellow_has_ended_says_so(two, monkeypatch):
    def reduce(values):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(room.dist, "all_reduce", reduce)
    with pytest.raises(RuntimeError, match=r"another of the 2 .* has ended \(Connection closed"):
        agreed(1)


def commands_of_the_page():
    """That of one machine, and those of the first and of the second of two."""
    blocks = re.findall("```bash\n(torchrun.*?)```", PAGE, re.S)
    return [block.replace("\\\n", " ").strip() for block in blocks]


SHORT = "--epochs 20 --eval-every 10 --train-size 24 --validation-size 24 --test-size 30 --width 4"
SHORT += " --batch-size 10 --precision float32"


def start(command):
    """The page's command, on a run of seconds; whatever it starts shares a process group."""
    words = f"{command} {SHORT}".split()
    assert words[0] == "torchrun"
    line = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, **options, start_new_session=True, env=environment)


def members(process):
    """The processes that torchrun has started for the run."""
    asked = ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)]
    lines = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if " ccnotes run" in line]


def test_a_killed_process_ends_all_and_the_page_s_commands_go_on(tmp_path, monkeypatch):
    """One machine with two processes, then two machines with one each: to the same bits."""
    one_machine, *machines = commands_of_the_page()
    assert len(machines) == 2
    home = Path(os.environ["CCNOTES_RUNS"])
    with start(one_machine) as process:
        try:
            deadline = time.monotonic() + 600
            while not list(home.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.02)
            workers = members(process)
            assert len(workers) == 2
            os.kill(workers[1], signal.SIGKILL)
            process.communicate(timeout=300)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not list(home.glob("*/*.new"))
    assert list(home.glob("*/checkpoint.pt"))
    port = free_port()
    local = [re.sub(r"--master-addr \S+", "--master-addr localhost", m) for m in machines]
    both = [start(re.sub(r"--master-port \S+", f"--master-port {port}", m)) for m in local]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("record: " in text for text in said) == 1
    (found,) = find()
    assert found.finished
    assert found.provenance["ranks"] == 2
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "others"))
    together(2, run, found.configuration)
    assert_equal_records(recall(found.configuration), found)
