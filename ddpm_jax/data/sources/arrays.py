"""Images in .npy and .npz files: [N, height, width] or [N, height, width, channels], never unpickled.

uint8, uint16 (data.depth=16), or floats whose black and white data.value_range states.

photos.npy                                            labels in photos_labels.npy or labels.npy, optionally
photos.npz: images, labels                            or x and y, or arr_0, as --mode=sample writes
photos.npz: train_images, train_labels, test_images   or x_train, y_train, x_test: splits
"""

import dataclasses
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import annotate
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.sources.splits import SPLITS, choose_split
from ddpm_jax.errors import UserError, abbreviated
from ddpm_jax.runtime.files import NO_ARRAYS

KINDS = {"images": "labels", "x": "y", "arr_0": "arr_1"}
"""Names of image arrays, and of the corresponding label arrays."""

CHUNK = 2**26
"""Bytes of an array that are read at a time."""
AFFIXES = [
    ("{}", ""),
    *((pattern, split) for name, split in SPLITS.items() for pattern in (f"{name}_{{}}", f"{{}}_{name}")),
]
"""How the names of arrays mark a split, and which."""


class Member(NamedTuple):
    """An array on disk."""

    path: str
    name: str | None
    """Name inside an .npz; None for an .npy."""
    version: int
    """Modification time of the file, so that a changed file is loaded again."""


@dataclasses.dataclass(frozen=True)
class ArrayReader:
    """Reads images, which are rows of arrays, by their number."""

    members: tuple[Member, ...]
    places: np.ndarray
    """The member and the row of each image."""
    value_range: tuple[float, ...]
    """The floats that are black and white."""
    pixel_type: str
    """Type of the pixels that floats become."""
    origin: str

    def __call__(self, number: int) -> UInt[np.ndarray, "..."]:
        which, row = self.places[number]
        image = np.array(_load(self.members[which])[row])
        return self._levels(image, self.members[which]) if image.dtype.kind == "f" else image.astype(image.dtype.name)

    def _levels(self, image: np.ndarray, member: Member) -> UInt[np.ndarray, "..."]:
        """Floats in value_range as pixels; UserError for others."""
        low, high = self.value_range
        shares = (image.astype(np.float64) - low) / (high - low)
        # The array's type may round black and white themselves.
        slack = np.finfo(image.dtype).eps * max(abs(low), abs(high)) / (high - low)
        if not np.all((shares >= -slack) & (shares <= 1 + slack)):  # Nor is NaN in the range.
            raise UserError(
                f"{self.origin}: {_title(member)} has values {_found_range(member)}, outside of data.value_range="
                f"{self.value_range}; set it to the range of black to white, or change the array."
            )
        return np.round(np.clip(shares, 0, 1) * np.iinfo(self.pixel_type).max).astype(self.pixel_type)


def open_arrays(data: Data) -> Collection:
    """The images of data.path, an .npy or .npz file, or of one of its splits, stably sorted by class."""
    path = Path(data.path or "").expanduser()
    if not data.path or not path.is_file():
        raise UserError(f"data.path={data.path} is not a file; data.source='arrays' reads an .npy or .npz file.")
    origin = f"data.path={path}"
    pairs = (_npz_pairs if zipfile.is_zipfile(path) else _npy_pair)(path, data.split, origin)
    counts = [_checked(images, data, origin) for images, _ in pairs]
    places = np.concatenate([np.stack([np.full(n, which), np.arange(n)], axis=1) for which, n in enumerate(counts)])
    classes = [_classes(labels, count, origin) for (_, labels), count in zip(pairs, counts, strict=True)]
    labelled = [name for names in classes if names is not None for name in names]
    if labelled and len(labelled) < len(places):
        raise UserError(f"{origin}: some splits have labels and others do not; choose one with data.split.")
    annotations = annotate(len(places), labelled or None)
    order = np.argsort(annotations.classes, kind="stable")
    members, places = tuple(images for images, _ in pairs), places[order]
    version = f"{path.resolve()}:{path.stat().st_size}:{path.stat().st_mtime_ns}"
    mapped = f":{data.value_range}" if data.value_range else ""
    sums = _fingerprints(path, members)
    return Collection(
        origin=origin,
        names=[f"image {row} of {members[which].name or path.name}" for which, row in places],
        read=ArrayReader(members, places, data.value_range, data.pixel_type, origin),
        stamp=lambda number: f"{version}{mapped}:{members[places[number][0]].name}:{places[number][1]}",
        fingerprint=lambda number: f"{sums[places[number][0]]}:{places[number].tolist()}",
        fingerprint_kind="the file's size and the rows" if members[0].name is None else "checksums in the .npz, rows",
        annotations=annotations.take(order),
        shared=True,
    )


def _npy_pair(path: Path, wanted: str | None, origin: str) -> list[tuple[Member, Member | None]]:
    choose_split(wanted, (), origin)
    beside = (path.with_name(f"{path.stem}_labels.npy"), path.with_name("labels.npy"))
    labels = next((_member(file, None) for file in beside if file.is_file() and file != path), None)
    return [(_member(path, None), labels)]


def _npz_pairs(path: Path, wanted: str | None, origin: str) -> list[tuple[Member, Member | None]]:
    with _unreadable(_member(path, None), origin), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    found: dict[str, tuple[Member, Member | None]] = {}
    for images, labels in KINDS.items():
        for pattern, split in AFFIXES:
            image_name, label_name = pattern.format(images), pattern.format(labels)
            if image_name in names:
                label_member = _member(path, label_name) if label_name in names else None
                found.setdefault(split, (_member(path, image_name), label_member))
    if not found:
        raise UserError(
            f"{origin} contains the arrays {abbreviated(sorted(names))}; expected images (and labels), x (and y), or "
            "arr_0, or splits such as train_images and test_images."
        )
    if "" in found:
        choose_split(wanted, (), origin)
        return [found[""]]
    split = choose_split(wanted, sorted(found), origin)
    return list(found.values()) if split == "all" else [found[split]]


def _fingerprints(path: Path, members: Sequence[Member]) -> list[str]:
    """The CRC-32 of each array in an .npz, which its directory lists; the size of an .npy, which may be huge."""
    if members[0].name is None:
        return [str(path.stat().st_size)]
    with zipfile.ZipFile(path) as archive:
        return [str(archive.getinfo(f"{member.name}.npy").CRC) for member in members]


def _member(path: Path, name: str | None) -> Member:
    return Member(str(path), name, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load(member: Member) -> np.ndarray:
    """An array, memory-mapped; an .npz member is unpacked to a deleted temporary file, which lives while it is open."""
    path, name, _ = member
    if name is None:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with (
        tempfile.NamedTemporaryFile(suffix=".npy") as unpacked,
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as packed,
    ):
        shutil.copyfileobj(packed, unpacked, 2**20)
        unpacked.flush()
        return np.load(unpacked.name, mmap_mode="r", allow_pickle=False)


def _checked(member: Member, data: Data, origin: str) -> int:
    """Number of images in an array, from its header; UserError if it contains none of data.depth."""
    with _unreadable(member, origin):
        shape, dtype = _header(member)
    what, floats = f"{origin}: {_title(member)} is {dtype} {list(shape)}", dtype.kind == "f"
    channels = shape[3] if len(shape) == 4 else 1
    deep = dtype.name == "uint16" or (floats and data.depth == 16)
    if dtype.name not in ("uint8", "uint16") and not floats:
        raise UserError(f"{what}; expected uint8, uint16 or floats.")
    if floats and not data.value_range and 0 not in shape:
        raise UserError(
            f"{what} with values {_found_range(member)}; set data.value_range to those of black and white, such as "
            "(0.0, 1.0), or save it as uint8."
        )
    if len(shape) not in (3, 4) or 0 in shape or channels not in ((1,) if deep else (1, 2, 3, 4)):
        allowed = "1" if deep else "1, 2, 3 or 4"
        raise UserError(f"{what}; expected [N, height, width] or [N, height, width, {allowed}].")
    if deep and data.depth == 8:
        raise UserError(f"{what}, of 16 bits; set data.depth=16 (and data.channels=1).")
    if data.value_range and not floats:
        raise UserError(f"{what}, and data.value_range={data.value_range} is for floats; unset it.")
    return shape[0]


def _title(member: Member) -> str:
    return member.name or "the array"


def _found_range(member: Member) -> str:
    """The lowest and highest value of an array, in words; reads all of it."""
    array = _load(member)
    parts = [part for part in np.array_split(array, -(-array.nbytes // CHUNK)) if part.size]
    missing = sum(int(np.isnan(part).sum()) for part in parts)
    ends = [(np.fmin.reduce(part, None), np.fmax.reduce(part, None)) for part in parts]
    also = f" and {missing:,} times NaN" if missing else ""
    return f"from {np.fmin.reduce(ends, None):g} to {np.fmax.reduce(ends, None):g}{also}"


def _header(member: Member) -> tuple[tuple[int, ...], np.dtype]:
    if member.name is None:
        array = _load(member)
        return array.shape, array.dtype
    with zipfile.ZipFile(member.path) as archive, archive.open(f"{member.name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it contains pickled objects")
    return shape, dtype


def _classes(member: Member | None, count: int, origin: str) -> list[str] | None:
    if member is None:
        return None
    with _unreadable(member, origin):
        labels = _load(member)
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iuU":
        raise UserError(
            f"{origin}: {member.name or Path(member.path).name} is {labels.dtype} {list(labels.shape)}; expected an "
            f"integer or a name for each of the {count} images."
        )
    return [str(label) for label in labels.ravel()]


@contextmanager
def _unreadable(member: Member, origin: str) -> Iterator[None]:
    try:
        yield
    except NO_ARRAYS as error:  # Not OSError: a full disk while unpacking is no fault of the file.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{origin}: {member.name or Path(member.path).name} cannot be read ({reason}); save it with numpy.save or "
            "numpy.savez, as plain numbers."
        ) from error
