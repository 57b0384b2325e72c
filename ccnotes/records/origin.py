"""Where a result came from."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ccnotes
from ccnotes.devices import hardware, pick_device, pick_precision
from ccnotes.ranks import ranks


def provenance(device: torch.device, precision: str) -> dict[str, Any]:
    """What a result needs to be judged and made again, apart from its configuration.

    >>> found = provenance(torch.device("cpu"), "float32")
    >>> found["device"], found["precision"], found["torch"] == torch.__version__
    ('cpu', 'float32', True)
    """
    return {
        "ccnotes": ccnotes.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device.type,
        "hardware": hardware(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "ranks": ranks().count,
        "torch": str(torch.__version__),  # a plain string, for the checkpoint
        "python": platform.python_version(),
        "system": platform.system(),
    }


def commit() -> str:
    """The checkout's commit, with "+" where files differ from it; the version if installed.

    ``$CCNOTES_COMMIT`` where that is set, as for a copy on a lent machine.

    >>> commit() in ("unknown", f"v{ccnotes.__version__}") or len(commit()) >= 12
    True
    """
    if told := os.environ.get("CCNOTES_COMMIT"):
        return told
    here = Path(ccnotes.__file__).parent
    if not (here.parent / ".git").exists():  # another project's repository may lie further up
        return f"v{ccnotes.__version__}"
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=12"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}
    try:
        found = subprocess.run([*command, "--dirty=+", "--exclude=*"], **options)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def about() -> str:
    """One line on version and device, for the head of a notebook.

    >>> about().startswith(f"ccnotes {ccnotes.__version__}, ")
    True
    """
    device = pick_device()
    precision = pick_precision("auto", device)
    return (
        f"ccnotes {ccnotes.__version__}, {hardware(device)}, {precision}, torch {torch.__version__}"
    )
