"""Decoded images on disk, so that a set is decoded only once: <cache>/<key>-v2/images.u8, memory-mapped.
Images of 16 bits are in images.u16.

The key covers everything that determines the pixels. An entry appears only once it is complete (`staged`), so an
interrupted preparation is never mistaken for one; of two jobs that need the same set, one prepares it and the other
waits. A cache at a URL is a local folder that downloads missing entries from there and uploads new ones.
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
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int, UInt

from ddpm_jax.data.fingerprints import PIXELS, Fingerprints
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import DISK_REMEDIES, NO_ARRAYS, save_array, staged, user_cache
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.urls import as_url, check_folder, download, files_below, is_url, store_errors, upload

VERSION = 2
ABOUT = "about.json"
"""The last file of an entry to be written and uploaded: an entry without it is incomplete."""
CHUNK = 2**24
"""Bytes that are read or written at a time."""
IMAGES = {"uint8": "images.u8", "uint16": "images.u16"}
"""The file of the images in an entry, by the type of their pixels."""
Row = tuple[int, UInt[np.ndarray, "height width channels"]]

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """The decoded images under a key."""

    images: UInt[np.ndarray, "N height width channels"]
    numbers: Int[np.ndarray, "N"]
    """The number of each image among those that were to be decoded."""
    fingerprints: Fingerprints


def key_of(parts: Iterable[str]) -> str:
    """A short hash of a sequence of strings, as the name of a cache entry."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:24]


@dataclass(frozen=True)
class Cache:
    """A folder of decoded images."""

    folder: Path
    url: epath.Path | None = None
    """Remote copy, from which missing entries are downloaded and to which new ones are uploaded."""

    def fetch(self, name: str) -> None:
        """Downloads an entry, if it is complete there and missing here."""
        if self.url is None or (self.folder / name).exists():
            return
        with store_errors(self.url), suppress(FileNotFoundError):  # Another job is replacing it; prepare it here.
            if (self.url / name / ABOUT).exists():
                with staged(self.folder / name, folder=True) as partial:
                    download(files_below(self.url / name), self.url / name, partial)
            elif name.endswith(".npz") and (self.url / name).exists():
                with staged(self.folder / name) as partial:
                    partial.write_bytes((self.url / name).read_bytes())

    def push(self, name: str) -> None:
        """Uploads an entry, `ABOUT` last."""
        if self.url is None:
            return
        path = self.folder / name
        names = [f"{name}/{file.name}" for file in path.iterdir()] if path.is_dir() else [name]
        last = [name for name in names if name.endswith(f"/{ABOUT}")]
        try:
            with store_errors(self.url):
                upload([name for name in names if name not in last], self.folder, self.url)
                upload(last, self.folder, self.url)
        except (OSError, UserError) as error:
            logger.warning("%s could not be uploaded to %s: %s", name, self.url, error)


def open_cache(path: str | None) -> Cache:
    """The cache at data.cache, a folder or a URL; for None, a folder of the current user."""
    if path is None or not is_url(path):
        return Cache(Path(path).expanduser() if path else user_cache("data"))
    url = as_url(path)
    check_folder(url)
    return Cache(user_cache("data") / hashlib.sha256(str(url).encode()).hexdigest()[:16], url)


def remembered(cache: Cache, key: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Small arrays by name: from the cache, or computed and stored there."""
    path, lock = cache.folder / f"{key}-v{VERSION}.npz", cache.folder / f"{key}.lock"
    try:
        with exclusive_lock(lock, None) if cache.url else nullcontext():
            cache.fetch(path.name)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        pass
    except (OSError, *NO_ARRAYS) as error:
        logger.warning("%s is damaged and will be recomputed: %s", path, error)
    arrays = compute()
    try:
        with exclusive_lock(lock, None), staged(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        logger.warning("%s cannot be written (%s); the next start will recompute it", path, error.strerror or error)
    else:
        cache.push(path.name)
    return arrays


def cached(
    cache: Cache,
    key: str,
    shape: tuple[int, int, int],
    decode: Callable[[], Iterator[Row]],
    pixel_type: str = "uint8",
) -> Entry:
    """The images under a key: from the cache, or from decode(), whose rows are stored there.

    shape: of one image; pixel_type: one of IMAGES. If another job is preparing the same images, this one waits for it.
    """
    folder = cache.folder
    entry = folder / f"{key}-v{VERSION}"
    if (found := read_entry(entry)) is not None:
        return found
    others = [path.name for path in folder.glob(f"{key}-v*") if re.fullmatch(r"\w+-v\d+", path.name)]
    if others and entry.name not in others:
        logger.warning("%s was prepared by another version of the cache; preparing it again", folder / others[0])
    with ExitStack() as lock:
        with _disk_errors(folder, "written", "set data.cache to a writable folder"):
            lock.enter_context(exclusive_lock(folder / f"{key}.lock", None))
        cache.fetch(entry.name)
        if (found := read_entry(entry, quietly=True)) is not None:
            return found
        with ExitStack() as staging:  # Also replaces a damaged entry.
            with _disk_errors(folder):
                partial = staging.enter_context(staged(entry, folder=True))
            _write(partial, shape, decode(), pixel_type)
            with _disk_errors(folder):
                staging.close()
        cache.push(entry.name)
    if (found := read_entry(entry)) is None:
        raise UserError(f"{entry} was removed while it was being prepared; start again.")
    return found


@contextmanager
def _disk_errors(folder: Path, failed: str = "filled", remedy: str | None = None) -> Iterator[None]:
    """remedy: None for the one that fits the error."""
    try:
        yield
    except OSError as error:
        remedy = remedy or DISK_REMEDIES.get(error.errno or 0, "free some space there")
        raise UserError(f"data.cache={folder} cannot be {failed} ({error.strerror or error}); {remedy}.") from error


def _write(partial: Path, shape: tuple[int, int, int], rows: Iterator[Row], pixel_type: str) -> None:
    """Writes images one at a time, so that memory use does not depend on their number."""
    numbers, checksum, unordered = array("q"), 0, 0
    images = partial / IMAGES[pixel_type]
    with _disk_errors(partial.parent):
        file = images.open("wb", buffering=CHUNK)
    try:
        for number, image in rows:
            pixels = image.tobytes()
            checksum, unordered = zlib.crc32(pixels, checksum), unordered + zlib.crc32(pixels)
            with _disk_errors(partial.parent):
                file.write(pixels)
            numbers.append(number)
        with _disk_errors(partial.parent):
            file.flush()
    finally:
        with suppress(OSError):  # After an error, the rest of the buffer cannot be written either.
            file.close()
    about = {
        "version": VERSION,
        "shape": [len(numbers), *shape],
        "dtype": pixel_type,
        "crc32": checksum,
        "unordered": unordered,
        "numbers_crc32": zlib.crc32(np.array(numbers, np.int64).tobytes()),
        "changed": images.stat().st_mtime_ns,
    }
    with _disk_errors(partial.parent):
        save_array(partial / "numbers.npy", np.array(numbers, np.int64))
        (partial / ABOUT).write_text(json.dumps(about) + "\n")


def read_entry(entry: Path, *, quietly: bool = False) -> Entry | None:
    """An entry of the cache; None, with a warning unless quietly, if it is missing or damaged."""
    if not entry.is_dir():
        return None
    try:
        about = json.loads((entry / ABOUT).read_text())
        if about["version"] != VERSION:
            raise ValueError(f"it was written by version {about['version']} of the cache, this is {VERSION}")
        pixel_type = about.get("dtype", "uint8")  # Older versions had no other.
        file = entry / IMAGES[pixel_type]
        images = np.memmap(file, pixel_type, "r", shape=tuple(about["shape"]))
        numbers = np.load(entry / "numbers.npy", allow_pickle=False)
        if zlib.crc32(numbers.tobytes()) != about["numbers_crc32"]:
            raise ValueError("the checksum of its numbers is wrong")
        if images.nbytes != file.stat().st_size:
            raise ValueError("its images are too long")
        # Checking every byte at every start would take minutes for a large set; a copy or a change has a new time.
        if file.stat().st_mtime_ns != about["changed"]:
            if _checksum(file) != about["crc32"]:
                raise ValueError("its checksum is wrong")
            with suppress(OSError):  # If the time can be set, the next start need not check again.
                os.utime(file, ns=(about["changed"], about["changed"]))
        # Older versions stored no "unordered", which only words a refusal: not worth reading all pixels.
        return Entry(images, numbers, Fingerprints(PIXELS, about["crc32"], about.get("unordered")))
    except (FileNotFoundError, *NO_ARRAYS) as error:
        if not quietly:
            logger.warning("The cached images in %s are damaged and will be prepared again: %s", entry, error)
        return None
    except OSError as error:
        raise UserError(
            f"data.cache={entry.parent} cannot be read ({error.strerror or error}); set data.cache to another folder."
        ) from error


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
