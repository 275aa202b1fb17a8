"""Decoded images on disk, so that a set is read from its files only once: <cache>/<key>/images.npy, memory-mapped.

The key covers all that shapes the result. An entry is written under a temporary name and renamed when it is complete,
so an interrupted preparation never passes for one, and of two jobs preparing the same set the first to end wins.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Int, UInt8

from ddpm_jax.errors import UserError

VERSION = 1
Row = tuple[UInt8[np.ndarray, "height width channels"], int]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Everything that shapes the decoded images of a source."""

    source: str
    files: tuple[tuple[str, int, int], ...]
    """Name, bytes and time of last change of each file."""
    image_size: int
    channels: int

    def key(self) -> str:
        """A short name for the entry."""
        text = json.dumps([VERSION, PIL.__version__, dataclasses.asdict(self)])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def user_cache(name: str) -> Path:
    """A folder for this user's cached files: under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddpm_jax" / name


def cached(
    folder: Path, fingerprint: Fingerprint, shape: tuple[int, int, int, int], rows: Callable[[], Iterable[Row]]
) -> tuple[UInt8[np.ndarray, "N height width channels"], Int[np.ndarray, "N"]]:
    """The images and labels of a fingerprint: from the cache, or from `rows()`, which then fill the cache.

    shape: the most that `rows` yields; it may yield fewer images.
    """
    entry = folder / fingerprint.key()
    if (found := _read(entry)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{entry.name}.building-", dir=folder))
    except OSError as error:
        raise UserError(
            f"data.cache={folder} cannot be written ({error.strerror}); set data.cache to a folder that can."
        ) from error
    try:
        _write(building, shape, rows())
        _publish(building, entry)
    except OSError as error:
        raise UserError(f"data.cache={folder} cannot be filled ({error.strerror}); free some space there.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    result = _read(entry)
    assert result is not None
    return result


def _publish(building: Path, entry: Path) -> None:
    """Gives a complete entry its name, unless another job was first; a damaged one in the way is replaced."""
    try:
        building.rename(entry)
    except OSError:
        if _read(entry) is None:
            shutil.rmtree(entry)
            building.rename(entry)


def _read(entry: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        labels = np.load(entry / "labels.npy", allow_pickle=False)
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # absent, or cut short
        return None
    return images[: len(labels)], labels


def _write(building: Path, shape: tuple[int, int, int, int], rows: Iterable[Row]) -> None:
    images = np.lib.format.open_memmap(building / "images.npy", "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # A sparse file on a full disk would end in SIGBUS instead of an error.
        with (building / "images.npy").open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    labels: list[int] = []
    for image, label in rows:
        images[len(labels)] = image
        labels.append(label)
    images.flush()
    np.save(building / "labels.npy", np.asarray(labels, np.int32), allow_pickle=False)
