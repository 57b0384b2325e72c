"""Files that are whole or not there, and that others may read."""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

NOTICE = 2.0  # seconds of waiting for another process before it is said


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: dict[str, str] | None = None,
    *,
    by: Path | None = None,
) -> None:
    """Replace ``path`` by a safetensors file in one step: at any moment old or new one is whole.

    Its permissions are those that the user's umask gives; safetensors itself gives none to others.
    A write that fails raises OSError and leaves what was there; for ``by`` see
    :func:`replace_file`.

    >>> import torch
    >>> from safetensors.torch import load_file
    >>> save_tensors({"ones": torch.ones(3)}, Path("ones.safetensors"))
    >>> load_file("ones.safetensors")
    {'ones': tensor([1., 1., 1.])}
    """
    replace_file(path, save(dict(tensors), metadata), by=by)


def replace_file(path: Path, content: bytes, *, by: Path | None = None) -> None:
    """Replace ``path`` in one step. A write that fails leaves what was there, and nothing else.

    ``by`` is the file that is written first, beside ``path`` and with ``.new`` behind its name
    unless given. What a killed process has left there is removed, not written to.

    >>> replace_file(Path("note"), b"old")
    >>> replace_file(Path("note"), b"new")
    >>> Path("note").read_bytes()
    b'new'
    """
    fresh = by or path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex.

    >>> _ = Path("abc").write_text("abc")
    >>> sha256_of(Path("abc"))  # the example of the standard, FIPS 180
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(folder: Path, remedy: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """An error of that ``kind``, with the ``remedy``, where the block cannot write to ``folder``.

    >>> with writing(Path("nowhere"), "Make it."):
    ...     _ = Path("nowhere/note").write_text("")
    Traceback (most recent call last):
    OSError: the folder nowhere cannot be written to (No such file or directory). Make it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise kind(
            f"the folder {folder} cannot be written to "
            f"({getattr(error, 'strerror', None) or error}). {remedy}"
        ) from error


@contextmanager
def locked(
    path: Path, remedy: str, kind: type[Exception] = OSError, *, wait: bool = True
) -> Iterator[None]:
    """Hold the lock file ``path``, made with its folder where missing.

    Where another process holds it, wait for that one, and say so; or, unless ``wait``, raise
    RuntimeError. For ``remedy`` and ``kind`` see :func:`writing`.

    >>> with locked(Path("run/lock"), "Make room."), locked(Path("run/lock"), "", wait=False):
    ...     pass
    Traceback (most recent call last):
    RuntimeError: another process is at work in run. Wait for it or stop it.
    """
    lock = FileLock(path)
    with writing(path.parent, remedy, kind):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=NOTICE if wait else 0)
        except Timeout:
            if not wait:
                raise RuntimeError(
                    f"another process is at work in {path.parent}. Wait for it or stop it."
                ) from None
            print(f"waiting for another process, which holds {path}", file=sys.stderr)
            held = lock.acquire()
    with held:
        yield
