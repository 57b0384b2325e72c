"""Files that are whole or not there, and that others may read."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


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
