"""Atomic writes of files and folders (`staged`), errors of disks, checksums, and the user's cache folder."""

import base64
import errno
import hashlib
import logging
import lzma
import os
import re
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
from etils import epath

from ddpm_jax.runtime.signals import raise_if_stopped
from ddpm_jax.runtime.urls import AnyPath, files_below, uploaded

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
"""Errors that NumPy raises, besides OSError, for files that are not intact .npy or .npz files."""
DISK_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    errno.EFBIG: "free some space, or raise the limit on the size of files (ulimit -f)",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit on open files (ulimit -n)"),
    errno.ENOENT: "restore it, and start again",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose another place, or change its permissions"),
    **dict.fromkeys(
        (errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOTEMPTY),
        "choose another place",
    ),
}
"""The remedy for each number of an error of a disk that the user can mend."""
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""NumPy's text for a write that was cut off, to which it gives no number: the disk or the allowed size is full."""
SYNCS_AT_ONCE = 16
"""Number of files that are synced at once, which takes file systems about as long as one."""
SYNCS_BETWEEN_LOOKS = 512
"""Number of files that are synced before a stop is noticed."""

logger = logging.getLogger(__name__)


@contextmanager
def staged(target: AnyPath, *, folder: bool = False) -> Iterator[Path]:
    """Yields a hidden sibling of `target`, `.<name>.partial`, which becomes the target when the block succeeds.

    The old or the new target is on disk, complete, at all times, and the new one survives a power cut. If a process is
    killed while one folder replaces another, the next call for that target restores the old one. If the block raises,
    the target stays as it was. Only one job at a time may stage a target (locks.py).

    folder: the sibling is a folder, which exists when the block begins; else a file that the block creates.
    Raises OSError if nothing can be written. At a URL the path is a temporary one (`uploaded`).
    """
    if not isinstance(target, Path):
        with uploaded(target, folder=folder) as partial:
            yield partial
        return
    partial, replaced = (target.with_name(f".{target.name}.{suffix}") for suffix in ("partial", "replaced"))
    _restore(target, replaced)
    _remove(partial)
    if folder:
        partial.mkdir()
    try:
        with with_path(target):
            yield partial
            (_sync_tree if folder else sync)(partial)
        if folder and os.path.lexists(target):  # A folder that holds files cannot be the target of a rename.
            target.rename(replaced)
        partial.rename(target)
        with suppress(OSError):  # Some network disks refuse to sync folders.
            sync(target.parent)  # Otherwise a power cut could undo the rename.
        _restore(target, replaced)
    except BaseException:
        _restore(target, replaced)
        _remove(partial)
        raise


@contextmanager
def with_path(path: Path) -> Iterator[None]:
    """Adds a path to errors of disks that name none, as those of writing to an open file; others stay as they are."""
    try:
        yield
    except OSError as error:
        if error.errno is None and SHORT_WRITE.search(str(error)):
            error.errno, error.strerror = errno.EFBIG, str(error)
        if error.filename is None and error.errno in {*DISK_REMEDIES, errno.EIO, errno.ESTALE}:
            error.filename = str(path)
        raise


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an .npy file; raises OSError if it cannot be written whole."""
    with path.open("wb") as file:
        # To a real file NumPy writes through a buffer of C, and does not notice when the end of it cannot be written.
        writer: Any = SimpleNamespace(write=file.write)
        np.save(writer, array, allow_pickle=False)


def _restore(target: Path, replaced: Path) -> None:
    """Renames a replaced target back, or removes it if the new one is in place."""
    if os.path.lexists(target):
        _remove(replaced)
    elif os.path.lexists(replaced):
        replaced.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Waits until a folder and everything in it would survive a power cut."""
    folders, files = [folder], []
    for path in folder.rglob("*"):
        (folders if path.is_dir() else files).append(path)
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
        for start in range(0, len(files), SYNCS_BETWEEN_LOOKS):
            raise_if_stopped()
            list(pool.map(sync, files[start : start + SYNCS_BETWEEN_LOOKS]))
    with suppress(OSError):  # Some network disks refuse to sync folders.
        for path in folders:
            sync(path)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sha256(path: AnyPath) -> str:
    """The SHA-256 of a file in hexadecimal."""
    return file_digest(path, "sha256")


def file_digest(path: AnyPath, algorithm: str) -> str:
    """The checksum of a file in hexadecimal; algorithm: its name in hashlib."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()  # pyright: ignore[reportArgumentType]


def md5_sums(folder: epath.Path) -> dict[str, str]:
    """The MD5 of each file below a URL, by name: as the store computed it from the bytes that arrived, else read."""
    sums = {}
    for name, about in files_below(folder).items():
        if listed := about.get("md5Hash"):  # Google Cloud Storage's.
            sums[name] = base64.b64decode(listed).hex()
        else:
            sums[name] = file_digest(folder / name, "md5")
    return sums


def user_cache(name: str) -> Path:
    """The path of a folder for this user's cached files, under XDG_CACHE_HOME or ~/.cache.

    A user without a home folder, or with one that cannot be entered or written, as in many containers, gets a temporary
    folder.
    """
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "ddpm_jax" / name
    if os.environ.get("HOME") == "":  # Path.home would be the root of the disk.
        return _temporary_cache("HOME is empty") / name
    try:
        home = Path.home()
    except RuntimeError:  # No HOME, and the user is not in the system's list.
        return _temporary_cache("there is no home folder") / name
    folder = home / ".cache" / "ddpm_jax" / name
    # Unlike Path.exists, this raises nothing for folders inside one that cannot be entered.
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    # A folder that exists and can only be read is still of use.
    needed, verb = (os.R_OK, "read") if nearest == folder else (os.W_OK, "written")
    if not os.access(nearest, needed | os.X_OK):
        return _temporary_cache(f"{nearest} cannot be {verb}") / name
    return folder


@cache
def _temporary_cache(reason: str) -> Path:
    """A folder that only this user can read, the same for each command where possible; says so once."""
    folder = Path(gettempdir()) / f"ddpm_jax-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # Another user's, who could change what is read.
        folder = Path(mkdtemp(prefix="ddpm_jax-"))
    logger.warning(
        "%s, so prepared images and compiled code are kept in %s; set XDG_CACHE_HOME to a folder that lasts.",
        reason[0].upper() + reason[1:],
        folder,
    )
    return folder
