"""Decoded images on disk, so that a set is read from its files only once: <cache>/<key>/images.npy, memory-mapped.

The key covers all that shapes the pixels. An entry is written under another name and renamed when it is complete, so an
interrupted preparation never passes for one, and of two jobs preparing the same set the first to end wins.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.errors import UserError

VERSION = 2
LOCK, BUILDING = "lock", ".building-"
CHUNK = 2**24
"""Bytes that are read or written at once."""
Row = tuple[int, UInt8[np.ndarray, "height width channels"]]

logger = logging.getLogger(__name__)


def key_of(parts: Iterable[str]) -> str:
    """A short name for the pixels that these texts describe."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:24]


def user_cache(name: str) -> Path:
    """A folder for this user's cached files: under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddpm_jax" / name


def cache_folder(path: str | None) -> Path:
    """Where decoded images are kept: data.cache, or a folder of this user's."""
    return Path(path).expanduser() if path else user_cache("data")


def remembered(folder: Path, key: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Some small arrays by name: from the cache, or computed and then kept there."""
    path = folder / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s is damaged and is made anew: %s", path, error)
    arrays = compute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".npz.tmp", delete=False) as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        os.replace(file.name, path)
    except OSError as error:
        logger.warning("%s cannot be kept for the next start: %s", path, error.strerror)
    return arrays


def cached(
    folder: Path, key: str, shape: tuple[int, int, int], decode: Callable[[], Iterator[Row]]
) -> tuple[UInt8[np.ndarray, "N height width channels"], Int[np.ndarray, "N"]]:
    """The images of a key, and the number that each came with: from the cache, or from decode(), which fills the cache.

    shape: of an image.
    """
    entry = folder / key
    if (found := _read(entry)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        building, lock = _start(folder, key)
    except OSError as error:
        raise UserError(
            f"data.cache={folder} cannot be written ({error.strerror}); set data.cache to a folder that can."
        ) from error
    try:
        _write(building, shape, decode())
        _publish(building, entry)
    except OSError as error:
        raise UserError(f"data.cache={folder} cannot be filled ({error.strerror}); free some space there.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
        lock.close()
    result = _read(entry)
    assert result is not None
    return result


def _start(folder: Path, key: str) -> tuple[Path, IO[str]]:
    """A folder to write to, and the lock that shows that it is being written."""
    fresh = Path(tempfile.mkdtemp(prefix=f"{key}.starting-", dir=folder))
    lock = (fresh / LOCK).open("w")
    with suppress(OSError):  # Some shared file systems have no locks; then only the tidying up is lost.
        fcntl.flock(lock, fcntl.LOCK_EX)
    # Only now may others look at it.
    return fresh.rename(folder / fresh.name.replace(".starting-", BUILDING)), lock


def _remove_abandoned(folder: Path) -> None:
    """Removes what killed preparations left behind: a living one holds the lock of its folder."""
    for building in folder.glob(f"*{BUILDING}*"):
        try:
            with (building / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(building, ignore_errors=True)
        except OSError:  # Locked, or gone already.
            continue


def _publish(building: Path, entry: Path) -> None:
    """Gives a complete entry its name, unless another job was first; a damaged one in the way is replaced."""
    (building / LOCK).unlink()
    try:
        building.rename(entry)
    except OSError:
        if _read(entry) is None:
            shutil.rmtree(entry)
            building.rename(entry)


def _write(building: Path, shape: tuple[int, int, int], rows: Iterator[Row]) -> None:
    """Writes images one after the other, so that neither memory nor the file is larger than what was decoded."""
    numbers, checksum = array("q"), 0
    with (building / "images.u8").open("wb", buffering=CHUNK) as file:
        for number, image in rows:
            pixels = image.tobytes()
            checksum = zlib.crc32(pixels, checksum)
            file.write(pixels)
            numbers.append(number)
        file.flush()
        os.fsync(file.fileno())
    np.save(building / "numbers.npy", np.array(numbers, np.int64), allow_pickle=False)
    about = {
        "version": VERSION,
        "shape": [len(numbers), *shape],
        "crc32": checksum,
        "numbers_crc32": zlib.crc32(np.array(numbers, np.int64).tobytes()),
        "changed": (building / "images.u8").stat().st_mtime_ns,
    }
    (building / "about.json").write_text(json.dumps(about) + "\n")


def _read(entry: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The images and numbers of an entry; None, and a line in the log, if it is not there or not sound."""
    if not entry.is_dir():
        return None
    try:
        about = json.loads((entry / "about.json").read_text())
        if about["version"] != VERSION:
            raise ValueError(f"it was written by version {about['version']} of the cache, this is {VERSION}")
        images = np.memmap(entry / "images.u8", np.uint8, "r", shape=tuple(about["shape"]))
        numbers = np.load(entry / "numbers.npy", allow_pickle=False)
        if zlib.crc32(numbers.tobytes()) != about["numbers_crc32"]:
            raise ValueError("the checksum of its numbers is wrong")
        if images.nbytes != (entry / "images.u8").stat().st_size:
            raise ValueError("its images are too long")
        # To read all of it at every start would take minutes for a large set; a copy or a change has another time.
        if (entry / "images.u8").stat().st_mtime_ns != about["changed"] and _checksum(entry) != about["crc32"]:
            raise ValueError("its checksum is wrong")
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        logger.warning("The prepared images in %s are not used and are made anew: %s", entry, error)
        return None
    return images, numbers


def _checksum(entry: Path) -> int:
    checksum = 0
    with (entry / "images.u8").open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
