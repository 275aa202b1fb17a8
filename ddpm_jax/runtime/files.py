"""Files and folders that are written whole or not at all (`staged`), and what tells one file's bytes from another's."""

import hashlib
import lzma
import os
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
SYNCS_AT_ONCE = 16
"""Files whose writes are waited for together: file systems commit many at once for the price of one."""


@contextmanager
def staged(target: Path, *, folder: bool = False, resumable: bool = False) -> Iterator[Path]:
    """A hidden sibling of `target`, `.<name>.partial`, to be written; it becomes the target when the block ends well.

    At every instant the old target or the new one is on disk, complete, and the new one survives a power cut. If a
    process is killed just while one folder replaces another, the next call for that target brings the old one back.
    When the block raises, the target stays as it was. Only one job at a time may stage a target (locks.py).

    folder: the sibling is a folder, and exists when the block begins; else a file that the block makes.
    resumable: the sibling stays when the block raises, and the next call for the target goes on with it.
    Raises OSError where nothing can be written.
    """
    partial, replaced = (target.with_name(f".{target.name}.{suffix}") for suffix in ("partial", "replaced"))
    _bring_back(target, replaced)
    if not resumable:
        _remove(partial)
    if folder:
        partial.mkdir(exist_ok=resumable)
    try:
        yield partial
        if folder:
            _sync_tree(partial)
            if os.path.lexists(target):  # No folder can be renamed onto one that holds files.
                target.rename(replaced)
        else:
            sync(partial)
        partial.rename(target)
        with suppress(OSError):  # Which some network disks refuse for folders.
            sync(target.parent)  # Else a power cut could undo the new name.
        _bring_back(target, replaced)
    except BaseException:
        _bring_back(target, replaced)
        if not resumable:
            _remove(partial)
        raise


def _bring_back(target: Path, replaced: Path) -> None:
    """Gives a target that was renamed aside its name back, or removes it where its successor has that name."""
    if not os.path.lexists(replaced):
        return
    if os.path.lexists(target):
        _remove(replaced)
    else:
        replaced.rename(target)


def _remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Waits until a folder and all that lies in it would survive a power cut."""
    folders, files = [folder], []
    for path in folder.rglob("*"):
        (folders if path.is_dir() else files).append(path)
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
        list(pool.map(sync, files))
    with suppress(OSError):  # Which some network disks refuse for folders.
        for path in folders:
            sync(path)


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
