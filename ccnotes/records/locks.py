"""Publishing and reading at the same time: one publisher, and readers before or after it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import BaseFileLock, FileLock

LOCK = ".publishing.lock"  # in a folder of records, from the first publication on
Found = TypeVar("Found")


def publishing(home: Path) -> BaseFileLock:
    """To be held while records in ``home`` are replaced: others wait. A thread may nest it.

    >>> with publishing(Path()):
    ...     print(Path(LOCK).exists())
    True
    """
    return FileLock(home / LOCK, is_singleton=True, poll_interval=0.01)


def undisturbed(home: Path, read: Callable[[], Found]) -> Found:
    """What ``read()`` finds while no record in ``home`` is replaced; it may be called twice.

    Nothing is written where nothing was ever published. Who may not write in ``home`` reads
    without waiting.

    >>> undisturbed(Path(), lambda: sorted(path.name for path in Path().iterdir()))
    []
    """
    lock = home / LOCK
    if not lock.exists():
        try:
            found = read()
        except Exception:
            if not lock.exists():
                raise
        else:
            if not lock.exists():  # else the first publication has begun meanwhile
                return found
    try:
        with publishing(home):
            return read()
    except OSError:
        return read()
