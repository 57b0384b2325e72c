"""Many runs at once, on the cores of this machine or wherever workers take them."""

import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from tqdm.auto import tqdm

from ccnotes.experiments import Experiment, fingerprint

MOST_JOBS = 1024  # at once; above it systems end the process
LOOK_EVERY = 0.5  # seconds between two looks at what runs here
STOPPING = 60.0  # seconds that what runs may take to stop


class Made(NamedTuple):
    """What a finished run left behind."""

    folder: Path  # of its record
    seconds: float  # that it took, all its sessions together


Outcome = Made | str  # a string says what went wrong
Call = Callable[[Experiment], Any]  # of ccnotes.records.run: the record


@runtime_checkable
class Workers(Protocol):
    """What makes runs: :class:`Cores`, or :class:`ccnotes.slurm.Slurm`."""

    jobs: int  # at once, at most
    running: dict[Experiment, Any]

    def start(self, call: Call, e: Experiment, logs: Path) -> None:
        """Begin a run, which prints to a file in ``logs``."""

    def visible(self) -> dict[Experiment, Path]:
        """What is at work by now, each with the file to which it prints."""

    def ended(self) -> Iterator[tuple[Experiment, Outcome]]:
        """What has ended since the last call; waits a moment for it."""

    def stop(self) -> None:
        """Stop what runs, what it has done so far being kept, and wait until it has ended."""


def sweep(
    todo: Mapping[Experiment, Sequence[Experiment]],
    call: Call,
    workers: Workers,
    logs: Path,
    took: Mapping[str, Sequence[float]],
) -> tuple[dict[Experiment, Made], dict[Experiment, str]]:
    """Make each experiment's record by ``call``, several at once; records, and what went wrong.

    ``todo`` names for each the ones that it waits for; where one of these fails, it is not
    begun. What a run prints goes to its file in ``logs``. ``took`` has the seconds of earlier
    runs by name, from which the end is foretold. Whatever ends the sweep stops what runs.

    >>> from ccnotes.records import run
    >>> sweep({}, run, Cores(2), Path("logs"), {})
    ({}, {})
    """
    waiting, made, errors = list(todo), dict[Experiment, Made](), dict[Experiment, str]()
    known = {name: list(seconds) for name, seconds in took.items()}
    logs.mkdir(parents=True, exist_ok=True)
    table = Table(len(todo))
    try:
        while waiting or workers.running:
            for e in list(waiting):
                if failed := [title(teacher) for teacher in todo[e] if teacher in errors]:
                    errors[e] = f"not begun, as {failed[0]} failed, which is its teacher"
                    waiting.remove(e)
                    table.ended(e, errors[e])
                elif len(workers.running) < workers.jobs and made.keys() >= set(todo[e]):
                    workers.start(call, e, logs)
                    waiting.remove(e)
            begun = workers.visible()
            queued = [e for e in workers.running if e not in begun]
            table.show([*queued, *waiting], begun, known)
            for e, outcome in workers.ended():
                if isinstance(outcome, Made):
                    made[e] = outcome
                    known.setdefault(e.name, []).append(outcome.seconds)
                else:
                    errors[e] = outcome
                table.ended(e, outcome)
    finally:
        table.close()
        workers.stop()
    return made, errors


def title(e: Experiment) -> str:
    """What people call the run.

    >>> title(Experiment(name="mine", seed=3))
    'mine, seed 3'
    """
    return f"{e.name}, seed {e.seed}"


def attempt(call: Call, e: Experiment) -> Outcome:
    """What the call makes, on one thread of the processor, or the error that it raises."""
    torch.set_num_threads(1)
    try:
        record = call(e)
        return Made(record.folder, record.provenance["seconds"])
    except Exception as error:  # whatever is wrong with one run must not stop the others
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"


def located(outcome: Outcome, log: Path) -> Outcome:
    """An error with the file that tells more of it; what was made as it is."""
    return f"{outcome} (see {log})" if isinstance(outcome, str) else outcome


class Cores:
    """Runs on this machine, at most ``jobs`` at once: one process each, one thread each.

    A process takes one run after the other, so that torch is loaded once.

    >>> Cores(2).jobs
    2
    """

    def __init__(self, jobs: int):
        self.jobs = checked(jobs)
        self.running: dict[Experiment, Worker] = {}
        self.idle: list[Worker] = []

    def start(self, call: Call, e: Experiment, logs: Path) -> None:
        self.idle = [worker for worker in self.idle if worker.process.is_alive()]
        worker = self.idle.pop() if self.idle else Worker.begun()
        log = logs / f"{e.name}-seed{e.seed}-{fingerprint(e, e.precision, e.data)}.log"
        self.running[e] = worker._replace(log=log)
        with suppress(ConnectionError):  # of one that died just now, as ended() will find
            worker.pipe.send((call, e, log))

    def visible(self) -> dict[Experiment, Path]:
        return {e: worker.log for e, worker in self.running.items()}

    def ended(self) -> Iterator[tuple[Experiment, Outcome]]:
        ready = wait([worker.pipe for worker in self.running.values()], LOOK_EVERY)
        for e, worker in list(self.running.items()):
            if worker.pipe not in ready:
                continue
            del self.running[e]
            try:
                outcome: Outcome = worker.pipe.recv()
                self.idle.append(worker)
            except (EOFError, ConnectionError):
                worker.process.join()
                outcome = f"its process ended, with exit status {worker.process.exitcode}"
            yield e, located(outcome, worker.log)

    def stop(self) -> None:
        for worker in self.running.values():
            worker.process.terminate()
        workers = [*self.idle, *self.running.values()]
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(STOPPING)
            worker.process.kill()
        self.running, self.idle = {}, []


class Worker(NamedTuple):
    """A process that waits for runs, and the way to it."""

    process: BaseProcess
    pipe: "Connection[Any, Any]"
    log: Path = Path(os.devnull)

    @classmethod
    def begun(cls) -> "Worker":
        context = multiprocessing.get_context("spawn")  # a fork of torch's threads may hang
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs,), daemon=True)
        # Ctrl-C goes to every process of the terminal; ours alone decides what it stops.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of the process is the end of the pipe
        return cls(process, ours)


def work(pipe: "Connection[Any, Any]") -> None:
    """Make the runs that come through the pipe, until it ends or SIGTERM comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop_once)
    try:
        while True:
            call, e, log = pipe.recv()
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            pipe.send(attempt(call, e))
    except (KeyboardInterrupt, EOFError, ConnectionError):
        pass


def stop_once(number: int, frame: Any) -> None:
    """As Ctrl-C; a second signal does not disturb the writing of what there is."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def checked(jobs: int) -> int:
    """The number of runs at once. Raises ValueError for one that cannot be.

    >>> checked(0)
    Traceback (most recent call last):
    ValueError: jobs=0 must be at least 1 and at most 1024: as many runs as there are cores.
    """
    if not 1 <= jobs <= MOST_JOBS:
        raise ValueError(
            f"jobs={jobs} must be at least 1 and at most {MOST_JOBS}: as many runs as there are "
            f"cores."
        )
    return jobs


class Table:
    """The live table: a line for all and one for each run; where no terminal is, a line an end."""

    def __init__(self, count: int):
        self.all = tqdm(total=count, desc="sweep", unit="run", disable=None)
        self.bars: dict[Experiment, tqdm[Any]] = {}
        self.forecast = ""

    def show(
        self,
        waiting: Sequence[Experiment],
        running: Mapping[Experiment, Path],
        took: Mapping[str, Sequence[float]],
    ) -> None:
        epochs = {e: epoch_in(log) for e, log in running.items()}
        for e, epoch in epochs.items():
            if e not in self.bars:
                options = {"total": e.epochs, "desc": title(e), "unit": "epoch", "leave": False}
                self.bars[e] = tqdm(**options, disable=None)
            self.bars[e].n = epoch
            self.bars[e].refresh()
        left = [(e, 1.0) for e in waiting]
        left += [(e, 1 - epoch / e.epochs) for e, epoch in epochs.items()]
        self.forecast = f"{len(running)} running, {len(waiting)} waiting"
        if end := expected_end(left, len(running), took):
            self.forecast += f", ends about {end:%a %H:%M}"
        self.all.set_postfix_str(self.forecast)

    def ended(self, e: Experiment, outcome: Outcome) -> None:
        if e in self.bars:
            self.bars.pop(e).close()
        self.all.n += 1
        if self.all.disable:
            how = f"took {outcome.seconds:.0f} s" if isinstance(outcome, Made) else outcome
            print(
                f"{self.all.n} of {self.all.total}: {title(e)}: {how}; {self.forecast}",
                file=sys.stderr,
            )

    def close(self) -> None:
        for bar in (*self.bars.values(), self.all):
            bar.close()


def epoch_in(log: Path) -> int:
    """The epoch that the run came to, from the bar that it prints.

    >>> _ = Path("log").write_text("mine seed 3: 40%|####   | 20/50 [00:10<00:15, 2.0epoch/s]")
    >>> epoch_in(Path("log")), epoch_in(Path("none"))
    (20, 0)
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            bars = re.findall(rb"(\d+)/\d+ \[", file.read())
    except FileNotFoundError:
        return 0
    return int(bars[-1]) if bars else 0


def expected_end(
    left: Sequence[tuple[Experiment, float]],
    at_once: int,
    took: Mapping[str, Sequence[float]],
) -> datetime | None:
    """When the shares of runs that are left will be done, if like runs take what they took.

    None before the first of all has ended. A run of a name of which none has ended is taken for
    a mean one.

    >>> end = expected_end([(Experiment(), 1.0), (Experiment(), 0.5)], 2, {"custom": [400, 800]})
    >>> round((end - datetime.now()).total_seconds(), -1)
    450.0
    """
    every = [seconds for several in took.values() for seconds in several]
    if not every or not at_once:
        return None
    seconds = sum(share * mean(took.get(e.name, every)) for e, share in left)
    return datetime.now() + timedelta(seconds=seconds / at_once)
