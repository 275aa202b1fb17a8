"""Files that are there whole or not at all, and what tells one file's bytes from another's."""

import hashlib
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_ARRAYS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises, besides OSError, for .npy and .npz files that are damaged or something else."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden place beside `path` to write to: it becomes `path`, durably, when the block ends well, else it goes.

    One job at a time may write a path; the next one writes over what a killed one left.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)
        with suppress(OSError):  # Which some network disks refuse for folders.
            sync(path.parent)  # Else a power cut could undo the new name.
    finally:
        unfinished.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache(name: str) -> Path:
    """A folder for this user's cached files: under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddpm_jax" / name
