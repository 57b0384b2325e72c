"""Many runs at once: the plan, workers in real processes, and jobs of a real Slurm."""

import functools
import io
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ccnotes import records, slurm, sweeps, training
from ccnotes.__main__ import main
from ccnotes.arguments import seeds_in
from ccnotes.experiments import EXPERIMENTS
from ccnotes.records import at_once, find, run, runs
from ccnotes.slurm import Slurm
from ccnotes.sweeps import Cores, Made, Table, attempt, epoch_in, expected_end, sweep
from tests.helpers import SMALL, assert_equal_records, taught

pytestmark = pytest.mark.usefixtures("no_published")
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book/many_runs.md").read_text()
SEEDS = [replace(SMALL, seed=seed) for seed in range(6)]


class Here:
    """Workers in this process, who need two looks for a run; what they began, in order."""

    def __init__(self, jobs):
        self.jobs, self.running, self.began, self.most, self.stopped = jobs, {}, [], 0, False

    def start(self, call, e, logs):
        self.began.append((e.name, e.seed))
        self.running[e] = call, 0
        self.most = max(self.most, len(self.running))

    def visible(self):
        return {}

    def ended(self):
        for e, (call, looks) in list(self.running.items()):
            self.running[e] = call, looks + 1
            if looks:
                del self.running[e]
                yield e, attempt(call, e)

    def stop(self):
        self.stopped = True


def fails(e):
    """Stands for a run: what it does is its name."""
    if e.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if e.name == "failing":
        raise ValueError("no such luck")
    return SimpleNamespace(folder=Path(e.name), provenance={"seconds": 7.0, "pid": os.getpid()})


@pytest.fixture
def small_is_named(monkeypatch):
    """The teacher "small" of the students of tests/helpers.py."""
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)


def test_a_teacher_is_trained_once_and_before_its_students(small_is_named):
    students = [replace(taught(weight), name=f"taught-{weight}") for weight in (0.3, 0.5)]
    workers = Here(3)
    made = at_once([*students, replace(students[0], seed=1)], workers)
    assert [record.configuration.name for record in made] == [
        "taught-0.3",
        "taught-0.5",
        "taught-0.3",
    ]
    assert sorted(workers.began[:2]) == [("small", 0), ("small", 1)]
    assert len(workers.began) == 5
    again = Here(3)
    assert [r.folder for r in at_once(students, again)] == [r.folder for r in made[:2]]
    assert again.began == []


def test_a_teacher_that_is_on_record_without_its_weights_is_trained_for_its_student(small_is_named):
    (run(SMALL).folder / "best.safetensors").unlink()
    workers = Here(2)
    at_once([SMALL, taught()], workers)
    assert [name for name, _ in workers.began] == [
        "small",
        "small",
    ]  # the student bears the name, too
    assert (records.recall(SMALL, weights=True).folder / "best.safetensors").exists()


def test_students_of_a_teacher_that_failed_are_not_begun_and_named(small_is_named, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "small", replace(SMALL, lr=1e9))
    workers, other = Here(1), replace(SMALL, name="other")
    with pytest.raises(RuntimeError) as caught:
        at_once([replace(taught(), name="student"), other], workers)
    first, teacher, student = str(caught.value).splitlines()
    assert first == "2 of 3 runs failed:"
    assert re.match("small, seed 0: FloatingPointError: .* Try a learning rate below", teacher)
    assert student == "student, seed 0: not begun, as small, seed 0 failed, which is its teacher"
    assert records.recall(other).finished


def test_fresh_runs_are_made_anew_and_returned_though_there_are_records(small_is_named):
    before = run(SMALL)
    table = before.folder / "record.json"
    written = table.stat().st_mtime_ns
    (made,) = at_once([SMALL], Here(1), fresh=True)
    assert made.folder == before.folder
    assert table.stat().st_mtime_ns > written
    assert_equal_records(made, before)


def test_no_more_run_at_once_than_there_are_jobs_and_whatever_ends_the_sweep_stops_them(tmp_path):
    todo = {e: [] for e in SEEDS}
    workers = Here(4)
    made, errors = sweep(todo, fails, workers, tmp_path, {})
    assert (workers.most, list(made), errors) == (4, SEEDS, {})
    assert workers.stopped

    def interrupted(e):
        raise KeyboardInterrupt

    workers = Here(4)
    with pytest.raises(KeyboardInterrupt):
        sweep(todo, interrupted, workers, tmp_path, {})
    assert workers.stopped


def test_a_process_that_fails_or_is_killed_costs_only_its_own_run(tmp_path, capsys):
    names = ("first", "killed", "failing", "second", "third")
    todo = {replace(SMALL, name=name): [] for name in names}
    made, errors = sweep(todo, fails, Cores(1), tmp_path, {})
    assert {e.name for e in made} == {"first", "second", "third"}
    told = {e.name: error for e, error in errors.items()}
    assert told["killed"].startswith("its process ended, with exit status -9 (see ")
    assert told["failing"].startswith("ValueError: no such luck (see ")
    log = Path(told["failing"].split("(see ")[1].rstrip(")"))
    assert "Traceback" in log.read_text()
    assert not multiprocessing.active_children()
    lines = capsys.readouterr().err.splitlines()  # here is no terminal: a line for each that ended
    assert [line.split(": ")[1] for line in lines] == [f"{name}, seed 0" for name in names]
    assert lines[0].startswith("1 of 5: first, seed 0: took 7 s; 1 running, 4 waiting")


def test_ctrl_c_stops_every_process_with_its_checkpoint_kept():
    """A real sweep in a process group of its own, of which every process gets the signal."""
    home = Path(os.environ["CCNOTES_RUNS"])
    command = [sys.executable, "-m", "ccnotes", "sweep", "planted-at", "--seeds", "9000-9003"]
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    options = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": listen}
    deadline = time.monotonic() + 120
    with subprocess.Popen([*command, "--jobs", "2"], start_new_session=True, **options) as process:
        try:
            while len(list(home.glob("*/checkpoint.pt"))) < 2 and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert said.splitlines()[-1].startswith("stopped; finished epochs are kept")
    assert "Traceback" not in said
    deadline = time.monotonic() + 60
    while alive(process.pid) and time.monotonic() < deadline:  # the last may just be leaving
        time.sleep(0.1)
    assert not alive(process.pid)
    assert len(list(home.glob("*/checkpoint.pt"))) == 2


def alive(group):
    """The workers of that process group; Python's own helper outlives them by a moment."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True)
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    ours = [line for line in lines if line[0] == str(group) and not line[1].startswith("Z")]
    return [line for line in ours if "resource_tracker" not in line[2]]


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command line on experiments of seconds under the names of the book's page."""
    monkeypatch.setitem(EXPERIMENTS, "parts-at-small", replace(SMALL, name="parts-at-small"))

    def call(line):
        monkeypatch.setattr(sys, "argv", line.split()[2:])
        main()
        return capsys.readouterr().out

    return call


def commands_of_the_page(word):
    """The lines of the page's shell blocks that have the word or, with "", all.

    But those of torchrun, which ``tests/test_ranks.py`` runs.
    """
    blocks = re.findall("```bash\n(?!torchrun)(.*?)```", PAGE, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if word in line]


def test_the_page_s_commands_are_those_that_run_here_and_on_slurm():
    here, there = commands_of_the_page("--jobs 2"), commands_of_the_page("--slurm debug")
    assert (len(here), len(there)) == (1, 1)
    assert sorted(here + there) == sorted(commands_of_the_page(""))


def test_the_page_s_command_makes_what_runs_alone_would_and_its_python_recalls(
    command, tmp_path, monkeypatch
):
    before = run(replace(EXPERIMENTS["parts-at-small"], seed=2))
    (line,) = commands_of_the_page("--jobs 2")
    assert "all 6 runs are on record" in command(line)
    (snippet,) = re.findall("```python\n(.*?)```", PAGE, re.S)
    found = {"__name__": "__main__"}
    exec(snippet, found)
    together = found["records"]
    assert sorted(r.folder for r in together) == sorted(r.folder for r in find())
    assert together[2].content == before.content  # which was on record
    assert_as_made_alone(together, tmp_path, monkeypatch)


def assert_as_made_alone(together, tmp_path, monkeypatch):
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "alone"))
    for made, alone in zip(together, runs("parts-at-small", range(len(together))), strict=True):
        assert made.folder != alone.folder
        assert made.provenance["threads"] == 1
        assert_equal_records(made, alone)
        for which in ("best", "last"):
            weights = alone.model(which).state_dict()
            for name, value in made.model(which).state_dict().items():
                assert torch.equal(value, weights[name]), f"{which} {name}"


def is_told_of_its_limit(e, **options):
    """A run that in its first session hangs after five steps, and gets the signal of a limit.

    Slurm sends the same one when a job's time is nearly over, but no sooner than its clock does.
    """
    began = records.runs_dir() / "began"
    if e.seed == 0 and not began.exists():
        began.touch()
        step, done = training.train_step, []

        def hangs(*arguments):
            if len(done) == 5:
                subprocess.run(["scancel", "--signal=USR2", os.environ["SLURM_JOB_ID"]], check=True)
                time.sleep(600)
            done.append(1)
            return step(*arguments)

        training.train_step = hangs
    return run(e, **options)


@pytest.fixture
def real_slurm(tmp_path, monkeypatch):
    """A Slurm of this machine alone, whose jobs find this checkout."""
    programs = ("slurmctld", "slurmd", "munged", "sbatch")
    if missing := [name for name in programs if not shutil.which(name)]:
        pytest.skip(f"there is no {missing[0]} here: .ci/run installs Slurm where it may")
    if os.getuid():
        pytest.skip("only root can start a Slurm")
    pytest.importorskip("submitit", reason="the extra cluster is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("SLURM_LOCAL", str(tmp_path / "slurm"))
    monkeypatch.setenv("SLURM_PORT", str(port))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm/slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    script = ROOT / ".ci/slurm-local"
    try:
        started = subprocess.run([script, "start"], capture_output=True, text=True)
        if started.returncode:
            pytest.skip(f"Slurm does not start here: {started.stderr}")
        yield
    finally:
        subprocess.run([script, "stop"], check=True)


def test_jobs_of_slurm_make_what_runs_alone_would_though_one_is_queued_again(
    real_slurm, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(slurm, "ASK_EVERY", 1.0)
    (line,) = commands_of_the_page("--slurm debug")
    with monkeypatch.context() as patched:
        patched.setattr("ccnotes.records.runner.run", is_told_of_its_limit)
        assert "all 6 runs are on record" in command(line)
    logs = Path(os.environ["CCNOTES_RUNS"]) / "sweeps/slurm"
    assert sum(path.read_text().count("Requeued job") for path in logs.glob("*.out")) == 1
    together = [records.recall(replace(EXPERIMENTS["parts-at-small"], seed=n)) for n in range(6)]
    assert_as_made_alone(together, tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"(?s)Slurm does not take the job: .*partition"):
        command("python -m ccnotes sweep parts-at-small --seeds 7 --slurm nowhere")


@pytest.mark.parametrize(
    ("word", "seeds"), [("0-2", [0, 1, 2]), ("5", [5]), ("7,0-1,1-3", [7, 0, 1, 2, 3])]
)
def test_seeds_are_ranges_and_single_numbers_each_once(word, seeds):
    assert seeds_in(word) == seeds


@pytest.mark.parametrize("word", ["", "a", "1-", "-1", "3-1", "0-99999999", "1.5", "0:3", "1,,2"])
def test_other_words_are_no_seeds(word):
    with pytest.raises(ValueError, match=f"seeds='{word}' "):
        seeds_in(word)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep parts-at-small --jobs 0", "jobs=0 must be at least 1"),
        ("sweep parts-at-small --gpus 1", "they need --slurm PARTITION"),
        ("sweep parts-at-small --time 5", "they need --slurm PARTITION"),
        ("sweep no-such", "no experiment is called 'no-such'"),
        ("sweep", "name the experiments"),
        ("sweep parts-at-small --slurm debug --time 4", "time=4 must be at least 5"),
        ("sweep parts-at-small --slurm debug --gpus -1", "gpus=-1 must be at least 0"),
    ],
)
def test_what_no_sweep_can_do_is_said_before_anything_runs(command, line, message):
    with pytest.raises(SystemExit) as caught:
        command(f"python -m ccnotes {line}")
    assert message in str(caught.value)


def test_slurm_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install 'ccnotes[cluster]'")):
        Slurm("debug")
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="no sbatch is on this machine"):
        Slurm("debug")


def test_the_epoch_is_read_from_the_bar_that_a_run_prints(tmp_path, capsys):
    run(SMALL)
    log = tmp_path / "log"
    log.write_text(capsys.readouterr().err)
    assert epoch_in(log) == SMALL.epochs


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_a_line_for_all_and_one_for_each_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    log = tmp_path / "log"
    log.write_text("small seed 1:  25%|##  | 1/4 [00:01<00:03]\rsmall seed 1:  75%|### | 3/4 [")
    table = Table(3)
    table.show([SEEDS[2]], {SEEDS[1]: log, SEEDS[0]: tmp_path / "none"}, {"small": [100]})
    shown = re.split("[\r\n]+", terminal.getvalue())
    assert any(re.match(r"small, seed 1: +75%.*\b3/4 ", line) for line in shown)
    assert any(re.match(r"small, seed 0: +0%.*\b0/4 ", line) for line in shown)
    assert "2 running, 1 waiting, ends about" in shown[-1]
    table.ended(SEEDS[1], Made(tmp_path, 100))
    table.show([], {SEEDS[0]: log}, {"small": [100]})
    assert re.search(r"sweep: +33%.*\b1/3 .*1 running, 0 waiting", terminal.getvalue())
    table.close()


def test_the_end_is_foretold_from_runs_of_the_same_name_and_else_from_all():
    other = replace(SMALL, name="other")
    took = {"small": [100, 300], "long": [800]}

    def seconds(left, at_once):
        end = expected_end(left, at_once, took)
        return (end - sweeps.datetime.now()).total_seconds()

    # By hand: of the name 200 s each, of an unknown one (100 + 300 + 800) / 3 = 400 s. A second
    # passes at most until the clock is read again.
    assert seconds([(SMALL, 1.0), (SMALL, 0.25)], 1) == pytest.approx(250, abs=1)
    assert seconds([(SMALL, 1.0), (other, 1.0)], 2) == pytest.approx(300, abs=1)
    assert expected_end([(SMALL, 1.0)], 1, {}) is None
    assert expected_end([(SMALL, 1.0)], 0, took) is None
