"""A run that is not finished, as a file that is always whole."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccnotes.files import replace_file

MARK = b"SHA-256:"  # before the digest of all that precedes it, at the end of the file


@dataclass(kw_only=True)
class State:
    """All that a run carries from one batch to the next.

    A field with a default may be missing in a file that an earlier version wrote.

    >>> State(fingerprint="a run's", device="cpu").finished
    False
    """

    fingerprint: str
    device: str  # cpu, cuda or mps
    model: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    generators: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)  # of the weights, where one is kept
    epoch: int = 0  # finished
    batch: int = 0  # finished, of the epoch that runs
    order: Tensor = field(default_factory=lambda: torch.empty(0))  # of the images in that epoch
    delta: Tensor = field(default_factory=lambda: torch.empty(0))  # see Learner.delta
    total: Tensor = field(default_factory=lambda: torch.zeros(()))  # loss of its images, summed
    seconds: float = 0.0
    pause: float = 0.0  # seconds that an evaluation takes
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # see ccnotes.monitor
    watched: list[dict[str, Any]] = field(default_factory=list)  # see ccnotes.alarm.look
    before: dict[str, Any] = field(default_factory=dict)  # epoch, weights: of the last good look
    collapsed: int = 0  # the epoch after which it was seen; 0: none
    best: dict[str, Any] = field(default_factory=dict)  # epoch, weights, score, test
    last: dict[str, Any] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)  # the provenance of each

    @property
    def finished(self) -> bool:
        """Whether the last epoch has been examined on the test images."""
        return "test" in self.last


def write_state(state: State, checkpoint: Path) -> None:
    """Replace the checkpoint in one step: at any moment the old or the new one is whole.

    Raises OSError, with the remedy, where the new one cannot be written.

    >>> write_state(State(fingerprint="a run's", device="cpu", epoch=3), Path("checkpoint.pt"))
    >>> read_state(Path("checkpoint.pt"), "a run's", epochs=5).epoch
    3
    """
    file = io.BytesIO()
    torch.save({f.name: getattr(state, f.name) for f in fields(state)}, file)
    content = file.getvalue()
    try:
        replace_file(checkpoint, content + MARK + hashlib.sha256(content).digest())
    except OSError as error:
        raise OSError(
            f"cannot write {checkpoint}: {error}. Free some space or choose another folder by "
            f"$CCNOTES_RUNS; the checkpoint before stands."
        ) from error


def read_state(checkpoint: Path, fingerprint: str, *, epochs: int) -> State:
    """A checkpoint's state. Raises ValueError where it is damaged or another run's.

    >>> write_state(State(fingerprint="a run's", device="cpu"), Path("checkpoint.pt"))
    >>> read_state(Path("checkpoint.pt"), "another's", epochs=5)
    Traceback (most recent call last):
    ValueError: checkpoint.pt belongs to run a run's, not to another's. Move it away.
    """
    remedy = "Delete it to start this run from its first epoch."
    try:
        content, mark, digest = checkpoint.read_bytes().rpartition(MARK)
        if not mark:  # an earlier version kept no digest but those of the zip
            content = digest
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                if damaged := file.testzip():
                    raise ValueError(f"{damaged} is not what was written")
        elif hashlib.sha256(content).digest() != digest:
            raise ValueError("it is not what was written")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        state = State(**checked(found))
        if not (0 <= state.epoch <= epochs and state.batch >= 0):
            raise ValueError(f"epoch {state.epoch}, batch {state.batch} of {epochs} epochs")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{checkpoint} cannot be read as a checkpoint ({type(error).__name__}: {error}). "
            f"{remedy}"
        ) from error
    if state.fingerprint != fingerprint:
        raise ValueError(
            f"{checkpoint} belongs to run {state.fingerprint}, not to {fingerprint}. Move it away."
        )
    return state


def checked(found: dict[str, Any]) -> dict[str, Any]:
    """The fields of a state in a file. Raises ValueError for one of another type."""
    plain = State(fingerprint="", device="")
    known = {f.name: type(getattr(plain, f.name)) for f in fields(State)}
    state = {name: value for name, value in found.items() if name in known}
    for name, value in state.items():
        if not isinstance(value, known[name]):
            raise ValueError(
                f"{name} is of type {type(value).__name__}, not {known[name].__name__}"
            )
    rows = [row for name in ("evaluations", "sessions", "watched") for row in state.get(name, [])]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("its evaluations, sessions and looks are no dictionaries")
    for name in ("best", "last", "before"):
        if (kept := state.get(name)) and not {"epoch", "weights"} <= kept.keys():
            raise ValueError(f"its {name} network is not whole")
    if (best := state.get("best")) and "score" not in best:  # by its name in an earlier version
        best["score"] = [best["validation_robust_accuracy"]]
    if state.get("epoch") and state.get("total", plain.total).ndim:
        raise ValueError("total is no single number")
    return state
