"""WebDataset's tars, read in place: cat/1.jpg, cat/1.cls and cat/1.json are one sample, whose key is cat/1.

data.path is a .tar, or a folder with such files at any depth. The key of a member is its name up to the first dot of
the base name, and the rest is its extension: the image of cat/1 is cat/1.jpg, not cat/1.seg.jpg. The class is in .cls,
or in data.label_column of .json, by default `label` or `class`; values of true and false in .json are attributes.

The members are listed once and the list is cached, since a tar has none; it is never unpacked.
"""

import dataclasses
import json
import logging
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import CLASS_COLUMNS, Annotations, annotate, class_column, hint
from ddpm_jax.data.cache import key_of, open_cache, remembered
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import SUFFIXES
from ddpm_jax.data.sources.files import summary
from ddpm_jax.data.sources.shards import find_shards
from ddpm_jax.data.sources.tree import MAX_BYTES, is_hidden
from ddpm_jax.errors import UserError, abbreviated, printable
from ddpm_jax.runtime.progress import progress

NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
"""The key and the extension in the name of a member."""
EXTENSIONS = ("jpg", "jpeg", "png", "webp", *sorted(suffix[1:] for suffix in SUFFIXES))
"""Extensions of images; the first in this list, where a sample has several."""
CLS, JSON = "cls", "json"
BLOCK = tarfile.BLOCKSIZE
FILE = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
"""Types of members with contents of their own; not links, nor sparse files."""

logger = logging.getLogger(__name__)
Sample = dict[str, tuple[int, int]]
"""The offset and size of each member of a sample in its tar, in bytes, by extension."""


@dataclasses.dataclass(frozen=True, eq=False)
class TarReader:
    """Reads the images of a list of tars by their number."""

    shards: tuple[str, ...]
    places: Int[np.ndarray, "N 3"]
    """The tar, the offset in it and the size of each image."""

    def __call__(self, number: int) -> bytes:
        shard, offset, size = self.places[number].tolist()
        if size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)


def open_webdataset(data: Data) -> Collection:
    """The images of data.path, a .tar or a folder of them, or of one of its splits, in the order of the members."""
    shards = tuple(str(path) for path in find_shards(data.path, data.split, ".tar"))
    origin = f"data.path={Path(data.path or '').expanduser()}"
    states = [Path(shard).stat() for shard in shards]
    stamps = [f"{os.path.abspath(shard)}:{s.st_size}:{s.st_mtime_ns}" for shard, s in zip(shards, states, strict=True)]
    key = key_of(["webdataset", data.label_column or "", *stamps])
    table = remembered(open_cache(data.cache), key, lambda: _index(shards, data.label_column, origin))
    places, names, lost = table["places"], _texts(table["names"]), _texts(table["without_image"])
    left_out = {"samples without an image": lost} if lost else {}
    if left_out:
        logger.info("%s: left out %s", origin, summary(left_out))
    if others := _texts(table["other_columns"]):
        logger.info("%s: ignoring the columns %s%s", origin, abbreviated(others), hint(data.label_column))
    return Collection(
        origin=origin,
        names=names,
        read=TarReader(shards, places),
        stamp=lambda number: f"{stamps[places[number, 0]]}:{names[number]}:{places[number, 1]}",
        fingerprint=lambda number: f"{states[places[number, 0]].st_size}:{places[number, 1:].tolist()}",
        fingerprint_kind="sizes of the tars, and places in them",
        annotations=Annotations(
            table["classes"],
            tuple(_texts(table["class_names"])),
            table["attributes"],
            tuple(_texts(table["attribute_names"])),
        ),
        left_out=left_out,
    )


def _index(shards: Sequence[str], label_column: str | None, origin: str) -> dict[str, np.ndarray]:
    """Where the images are, and their labels, as arrays for the cache."""
    places, names, without_image, rows = [], [], [], []
    columns: dict[str, None] = {}
    kept = {label_column} if label_column else {CLS, *CLASS_COLUMNS}
    for number, shard in enumerate(progress(shards, f"Listing {origin}", "shards", total=len(shards))):
        tar = Path(shard).name
        with open(shard, "rb") as file:
            for key, sample in _samples(file, shard).items():
                image = next((extension for extension in EXTENSIONS if extension in sample), None)
                if image is None:
                    without_image.append(f"{key}.{min(sample)}")
                    continue
                row = _columns(file, sample, f"{shard}: {printable(key)}")
                columns |= dict.fromkeys(row)
                places.append((number, *sample[image]))
                names.append(f"{key}.{image} in {tar}")
                # Others, such as captions, can be neither the class nor attributes.
                rows.append({c: v for c, v in row.items() if isinstance(v, bool) or c in kept or c.lower() in kept})
    if not names:
        found = "contains no images" + (f", only {abbreviated(without_image)}" if without_image else "")
        raise UserError(f"{origin} {found}; expected members such as 0001.jpg, whose names have no other dot.")
    annotations, others = _annotations(names, rows, list(columns), label_column, origin)
    return {
        "places": np.array(places, np.int64),
        "names": _packed(names),
        "without_image": _packed(without_image),
        "classes": annotations.classes,
        "class_names": _packed(annotations.class_names),
        "attributes": annotations.attributes,
        "attribute_names": _packed(annotations.attribute_names),
        "other_columns": _packed(others),
    }


def _samples(file: BinaryIO, shard: str) -> dict[str, Sample]:
    """The samples of a tar by key; raises UserError for a tar that is damaged or ends early."""
    samples: dict[str, Sample] = defaultdict(dict)
    for member in _members(file, shard):
        name = member.name.removeprefix("./")
        if (parts := NAME.fullmatch(name)) is None or is_hidden(name) or member.type not in FILE or member.issparse():
            continue  # A folder, a link, or a hidden file.
        key, extension = parts[1], parts[2].lower()
        if extension in samples[key]:
            raise UserError(f"{shard} contains {printable(name)} twice; create it again with different keys.")
        samples[key][extension] = (member.offset_data, member.size)
    return samples


def _members(file: BinaryIO, shard: str) -> Iterator[tarfile.TarInfo]:
    """The members of a tar; UserError where Python's own loop takes damage, or the end of the file, for its end."""
    size, last = file.seek(0, 2), "its beginning"
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                last = printable(member.name)
                if not 0 <= member.size <= size - member.offset_data:
                    raise UserError(f"{shard} ends early, at byte {size:,} inside {last}; download or copy it again.")
                yield member
            end = tar.offset
        file.seek(end)
        if (block := file.read(BLOCK)) != bytes(BLOCK):
            how = "is damaged" if len(block) == BLOCK else "ends early"
            raise UserError(f"{shard} {how}, at byte {end:,} after {last}; download or copy it again.")
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        if str(error) == "unexpected end of data":  # Python's words for a file that ends in a member's padding.
            raise UserError(f"{shard} ends early, at byte {size:,} after {last}; download or copy it again.") from error
        raise UserError(
            f"{shard} cannot be read as a tar after {last} ({error}); download it again, or undo its compression."
        ) from error


def _columns(file: BinaryIO, sample: Sample, name: str) -> dict[str, Any]:
    """The labels of a sample: those numbers, texts and truth values that are in its .json, and `cls`."""
    columns = {}
    if JSON in sample:
        try:
            table = json.loads(_read(file, *sample[JSON]))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}.{JSON} is not JSON ({error}); create the tar again.") from error
        if not isinstance(table, dict):
            raise UserError(f'{name}.{JSON} is {str(table)[:40]!r}; expected {{"label": …}}.')
        columns |= {name: value for name, value in table.items() if isinstance(value, (str, int, float))}
    if CLS in sample:
        columns[CLS] = _read(file, *sample[CLS]).decode("utf-8", "backslashreplace").strip()
    return columns


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(min(size, MAX_BYTES))


def _annotations(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str], wanted: str | None, origin: str
) -> tuple[Annotations, list[str]]:
    """The annotations, and the columns that are neither the class nor attributes."""
    chosen = CLS if wanted is None and CLS in columns else class_column(columns, wanted, origin)
    binary = [c for c in columns if c != chosen and all(isinstance(row.get(c), bool) for row in rows)]
    classes = [str(row[chosen]) for row in rows if chosen in row] if chosen else []
    if classes and len(classes) < len(rows):
        first = next(name for name, row in zip(names, rows, strict=True) if chosen not in row)
        raise UserError(
            f"{origin}: {len(rows) - len(classes)} of {len(rows)} images have no {chosen!r}, first {printable(first)}; "
            "choose another data.label_column, or a split with data.split."
        )
    attributes = {column: [int(row[column]) for row in rows] for column in binary}
    return annotate(len(rows), classes or None, attributes), [c for c in columns if c not in (chosen, *binary)]


def _packed(texts: Sequence[str]) -> np.ndarray:
    """Texts as bytes, which take less memory than an array of the longest text's width."""
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def _texts(packed: np.ndarray) -> list[str]:
    return json.loads(packed.tobytes())
