"""Decoded images on disk, so that a set is read from its files only once: <cache>/<key>-v2/images.u8, memory-mapped.

The key covers all that shapes the pixels. An entry appears when it is complete (files.py), so an interrupted
preparation never passes for one; of two jobs that need the same set, one prepares it and the other waits.
A cache at an address (store.py) is a folder of this machine all the same, which fetches from there what it lacks.
"""

import hashlib
import json
import logging
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import NO_ARRAYS, staged, user_cache
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.store import Store, is_url

VERSION = 2
ABOUT = "about.json"
"""The last file of an entry to be written, which vouches for the others."""
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


@dataclass(frozen=True)
class Cache:
    """Where decoded images are kept."""

    folder: Path
    store: Store | None = None
    """The address that is looked into where the folder lacks something, and gets what is made."""

    def fetch(self, name: str) -> None:
        """Brings here what the address has of this name, unless it is here."""
        if self.store is not None and not (self.folder / name).exists():
            found = [path for path in self.store.sizes() if path.partition("/")[0] == name]
            if found == [name] or f"{name}/{ABOUT}" in found:
                with suppress(FileNotFoundError):  # Where it is being replaced, it is made here.
                    self.store.get(found, self.folder)

    def push(self, name: str) -> None:
        """Brings what is here of this name to the address, with what vouches for the rest at the end."""
        if self.store is not None:
            path = self.folder / name
            names = [f"{name}/{file.name}" for file in path.iterdir()] if path.is_dir() else [name]
            last = [name for name in names if name.endswith(f"/{ABOUT}")]
            try:
                self.store.put([name for name in names if name not in last], self.folder)
                self.store.put(last, self.folder)
            except (OSError, UserError) as error:
                logger.warning("%s is not kept at %s: %s", name, self.store.address, error)


def open_cache(path: str | None) -> Cache:
    """data.cache, or a folder of this user's."""
    if path is None or not is_url(path):
        return Cache(Path(path).expanduser() if path else user_cache("data"))
    store = Store(path)
    return Cache(user_cache("data") / hashlib.sha256(store.address.encode()).hexdigest()[:16], store)


def remembered(cache: Cache, key: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Some small arrays by name: from the cache, or computed and then kept there."""
    folder = cache.folder
    path = folder / f"{key}-v{VERSION}.npz"
    try:
        with exclusive_lock(folder / f"{key}.lock", None) if cache.store else nullcontext():
            cache.fetch(path.name)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        pass
    except (OSError, *NO_ARRAYS) as error:
        logger.warning("%s is damaged and is made anew: %s", path, error)
    arrays = compute()
    try:
        with (
            exclusive_lock(folder / f"{key}.lock", None),
            staged(path) as partial,
            partial.open("wb") as file,
        ):
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        logger.warning("%s cannot be kept for the next start: %s", path, error.strerror)
    else:
        cache.push(path.name)
    return arrays


def cached(
    cache: Cache, key: str, shape: tuple[int, int, int], decode: Callable[[], Iterator[Row]]
) -> tuple[UInt8[np.ndarray, "N height width channels"], Int[np.ndarray, "N"]]:
    """The images of a key, and the number that each came with: from the cache, or from decode(), which fills the cache.

    shape: of an image. Where another job prepares the same images, this one waits for them.
    """
    folder = cache.folder
    entry = folder / f"{key}-v{VERSION}"
    if (found := read_entry(entry)) is not None:
        return found
    others = [path.name for path in folder.glob(f"{key}-v*") if re.fullmatch(r"\w+-v\d+", path.name)]
    if others and entry.name not in others:
        logger.warning("%s was prepared by another version of the cache and is made anew", folder / others[0])
    with _alone(folder, key):
        cache.fetch(entry.name)
        if (found := read_entry(entry, quietly=True)) is not None:
            return found
        _prepare(entry, shape, decode)
        cache.push(entry.name)
    found = read_entry(entry)
    if found is None:
        raise UserError(f"{entry} was removed while it was prepared; start again.")
    return found


@contextmanager
def _alone(folder: Path, key: str) -> Iterator[None]:
    """Lets one job at a time prepare a key."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(folder / f"{key}.lock", None))
        except OSError as error:
            raise UserError(
                f"data.cache={folder} cannot be written ({error.strerror}); set data.cache to a folder that can."
            ) from error
        yield


def _prepare(entry: Path, shape: tuple[int, int, int], decode: Callable[[], Iterator[Row]]) -> None:
    """Writes an entry, in place of a damaged one if there is one. Raises UserError for troubles of the disk."""
    with ExitStack() as staging:
        with _disk_trouble(entry.parent):
            partial = staging.enter_context(staged(entry, folder=True))
        _write(partial, shape, decode())
        with _disk_trouble(entry.parent):
            staging.close()


@contextmanager
def _disk_trouble(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"data.cache={folder} cannot be filled ({error.strerror}); free some space there.") from error


def _write(partial: Path, shape: tuple[int, int, int], rows: Iterator[Row]) -> None:
    """Writes images one after the other, so that neither memory nor the file is larger than what was decoded."""
    numbers, checksum = array("q"), 0
    with _disk_trouble(partial.parent):
        file = (partial / "images.u8").open("wb", buffering=CHUNK)
    try:
        for number, image in rows:
            pixels = image.tobytes()
            checksum = zlib.crc32(pixels, checksum)
            with _disk_trouble(partial.parent):
                file.write(pixels)
            numbers.append(number)
        with _disk_trouble(partial.parent):
            file.flush()
    finally:
        with suppress(OSError):  # After a fault, what is left in the buffer cannot be written either.
            file.close()
    about = {
        "version": VERSION,
        "shape": [len(numbers), *shape],
        "crc32": checksum,
        "numbers_crc32": zlib.crc32(np.array(numbers, np.int64).tobytes()),
        "changed": (partial / "images.u8").stat().st_mtime_ns,
    }
    with _disk_trouble(partial.parent):
        np.save(partial / "numbers.npy", np.array(numbers, np.int64), allow_pickle=False)
        (partial / ABOUT).write_text(json.dumps(about) + "\n")


def read_entry(entry: Path, *, quietly: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
    """The images and numbers of an entry; None, and a line in the log, if it is not there or not sound."""
    if not entry.is_dir():
        return None
    try:
        about = json.loads((entry / ABOUT).read_text())
        if about["version"] != VERSION:
            raise ValueError(f"it was written by version {about['version']} of the cache, this is {VERSION}")
        images = np.memmap(entry / "images.u8", np.uint8, "r", shape=tuple(about["shape"]))
        numbers = np.load(entry / "numbers.npy", allow_pickle=False)
        if zlib.crc32(numbers.tobytes()) != about["numbers_crc32"]:
            raise ValueError("the checksum of its numbers is wrong")
        if images.nbytes != (entry / "images.u8").stat().st_size:
            raise ValueError("its images are too long")
        # To read all of it at every start would take minutes for a large set; a copy or a change has another time.
        if (entry / "images.u8").stat().st_mtime_ns != about["changed"]:
            if _checksum(entry) != about["crc32"]:
                raise ValueError("its checksum is wrong")
            with suppress(OSError):  # Where it is ours to write, it need not be read again.
                os.utime(entry / "images.u8", ns=(about["changed"], about["changed"]))
    except (FileNotFoundError, *NO_ARRAYS) as error:
        if not quietly:
            logger.warning("The prepared images in %s are not used and are made anew: %s", entry, error)
        return None
    except OSError as error:
        raise UserError(
            f"data.cache={entry.parent} cannot be read ({error.strerror}); set data.cache to another folder."
        ) from error
    return images, numbers


def _checksum(entry: Path) -> int:
    checksum = 0
    with (entry / "images.u8").open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
