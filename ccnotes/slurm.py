"""Many runs as jobs of a Slurm cluster, submitted by submitit."""

import getpass
import importlib.util
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccnotes.experiments import Experiment
from ccnotes.sweeps import LOOK_EVERY, MOST_JOBS, STOPPING, Call, Outcome, attempt, checked, located

ASK_EVERY = 5.0  # seconds between two questions to Slurm, which has others to serve
GONE = 6  # such questions that a job may be unknown to Slurm before its result is seen
LEAST_LIMIT = 5  # minutes; 90 seconds and what loads torch would leave nothing of less
MOST_LIMITS = 100  # that a job may reach, and be queued again


class Slurm:
    """Runs as jobs of a Slurm partition, by submitit; at most ``jobs`` submitted at once.

    Each has one core and ``gpus`` cards. One that comes to its limit of ``minutes``, or is
    preempted, is queued again and goes on from its checkpoint. Jobs must see this machine's
    folders. Raises ValueError where submitit or Slurm is missing.
    """

    def __init__(self, partition: str, *, gpus: int = 0, minutes: int = 60, jobs: int = MOST_JOBS):
        for name, value, least in (("gpus", gpus, 0), ("time", minutes, LEAST_LIMIT)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}.")
        if not importlib.util.find_spec("submitit"):
            raise ValueError(
                "Slurm needs submitit, which is not installed here: pip install 'ccnotes[cluster]'."
            )
        if missing := [name for name in ("sbatch", "srun", "squeue") if not shutil.which(name)]:
            raise ValueError(
                f"no {missing[0]} is on this machine: call from one from which Slurm takes jobs."
            )
        self.jobs = checked(jobs)
        self.settings: dict[str, Any] = {
            "partition": partition,
            "time": minutes,
            "cpus_per_task": 1,
            "gpus_per_node": gpus or None,
            "job_name": "ccnotes",
            "additional_parameters": {"requeue": True},
        }
        self.running: dict[Experiment, Any] = {}
        self.states: dict[str, str] = {}  # of this user's jobs, by number
        self.unseen: Counter[str] = Counter()  # how often Slurm did not know the job

    def start(self, call: Call, e: Experiment, logs: Path) -> None:
        import submitit

        executor = submitit.SlurmExecutor(logs / "slurm", max_num_timeout=MOST_LIMITS)
        executor.update_parameters(**self.settings)
        try:
            self.running[e] = executor.submit(Requeued(), call, e)
        except RuntimeError as error:
            raise RuntimeError(f"Slurm does not take the job: {error}") from error

    def visible(self) -> dict[Experiment, Path]:
        jobs = self.running.items()
        return {e: j.paths.stderr for e, j in jobs if self.states.get(j.job_id) == "RUNNING"}

    def ended(self) -> Iterator[tuple[Experiment, Outcome]]:
        time.sleep(ASK_EVERY)
        self.look()
        for e, job in list(self.running.items()):
            os.utime(job.paths.folder)  # else a network's folder may show what it had before
            here = job.paths.result_pickle.exists()
            self.unseen[job.job_id] += job.job_id not in self.states
            if here or self.unseen[job.job_id] > GONE:
                del self.running[e]
                error = job.exception() if here else "Slurm ended its job"
                outcome: Outcome = str(error).strip() if error else job.result()
                yield e, located(outcome, job.paths.stderr)

    def look(self) -> None:
        """Ask Slurm for the states of this user's jobs; where it does not answer, keep the last."""
        question = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%A %T"]
        answer = subprocess.run(question, capture_output=True, text=True)
        if answer.returncode == 0:
            self.states = dict(line.split() for line in answer.stdout.splitlines())

    def stop(self) -> None:
        ids = [job.job_id for job in self.running.values()]
        if ids:
            subprocess.run(["scancel", *ids])
        deadline = time.monotonic() + STOPPING
        while ids and time.monotonic() < deadline:
            self.look()
            ids = [number for number in ids if number in self.states]
            time.sleep(LOOK_EVERY)


class Requeued:
    """What a job of Slurm does; submitit asks it what to do when it is queued again: the same."""

    def __call__(self, call: Call, e: Experiment) -> Outcome:
        return attempt(call, e)

    def checkpoint(self, call: Call, e: Experiment) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, call, e)
