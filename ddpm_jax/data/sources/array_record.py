"""ArrayRecord shards of tf.train.Example records, as TensorFlow Datasets writes them, read by Grain without TensorFlow.

data.path is a local folder or gs:// URL with *.array_record* files. A record's `image` is an encoded file, its `label`
(or data.label_column) a class number or name, its `attributes/<name>` are 0 or 1. Optional files beside the shards are
dataset_info.json, with splits and lengths, and label.labels.txt, with class names. For sets that would not fit on disk
once decoded, set data.stream=True.
"""

import bisect
import dataclasses
import itertools
import json
import os
import re
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import PurePath
from typing import Any

import numpy as np
from etils import epath

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import Annotations, annotate, class_column
from ddpm_jax.data.cache import key_of, open_cache, remembered
from ddpm_jax.data.collection import Collection, LazyNames
from ddpm_jax.data.sources.example import Features, read_example
from ddpm_jax.data.sources.splits import SPLITS, choose_split
from ddpm_jax.errors import UserError, abbreviated
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.urls import as_url, check_folder, is_url

IMAGE_KEYS = ("image", "image/encoded", "jpg", "jpeg", "png", "webp")
LABEL, ATTRIBUTE = "label", "attributes/"
END = 2**17
"""Bytes at the end of a shard: its last 64 KiB block, and at least a part of the index before it."""
THREADS = 16
"""Threads that read from a disk or bucket, for which they mostly wait."""
_READING_ENDS = threading.Lock()
"""Held by the one thread that reads the ends of the shards, for which the others wait."""


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """Reads the records of a list of shards by their number."""

    shards: tuple[str, ...]
    ends: tuple[int, ...]
    """Cumulative number of records, up to and including each shard."""
    image: str = ""
    """Name of the feature that holds the image."""

    def __call__(self, number: int) -> bytes:
        image = self.features(number).get(self.image)
        if not image or not isinstance(image[0], bytes):
            raise ValueError(f"the record has no {self.image!r}")
        return image[0]

    def features(self, number: int) -> Features:
        """All features of a record; raises ValueError or OSError."""
        shard, index = self.locate(number)
        try:
            return read_example(_open(self.shards[shard])[index])
        except RuntimeError as error:  # A checksum inside the shard is wrong.
            raise OSError(f"the shard is damaged: {error}") from error

    def fingerprint(self, number: int) -> str:
        """A checksum of a record's shard, and the index of the record in it; the first call reads all shards' ends."""
        shard, index = self.locate(number)
        with _READING_ENDS:
            ends = _checksums_of_ends(self.shards)
        return f"{ends[shard]}:{index}"

    def name_of(self, number: int) -> str:
        """The name of a record, for messages."""
        shard, index = self.locate(number)
        return f"record {index} of {epath.Path(self.shards[shard]).name}"

    def locate(self, number: int) -> tuple[int, int]:
        """The index of a record's shard, and its index in that shard."""
        shard = bisect.bisect_right(self.ends, number)
        return shard, number - (self.ends[shard - 1] if shard else 0)


def open_array_record(data: Data) -> Collection:
    """The images of a folder of shards, or of one of its splits, in the order of the records."""
    if not data.path:
        raise UserError("data.path is not set; give a folder of *.array_record* files.")
    folder = as_url(data.path) if is_url(data.path) else epath.Path(data.path).expanduser()
    if is_url(data.path):
        check_folder(folder)
    origin = f"data.path={folder}"
    splits, lengths = _splits(folder, origin)
    split = choose_split(data.split, sorted(splits) if "" not in splits else (), origin)
    shards = tuple(itertools.chain(*splits.values())) if split == "all" else splits[split]
    reader = RecordReader(shards, tuple(itertools.accumulate(_count(shard, lengths) for shard in shards)))
    reader = dataclasses.replace(reader, image=_image_key(reader, origin))
    stamps = [f"{shard}:{_state(shard)}" for shard in shards]
    return Collection(
        origin=origin,
        names=LazyNames(reader.ends[-1], reader.name_of),
        read=reader,
        stamp=lambda number: f"{stamps[reader.locate(number)[0]]}:{number}",
        fingerprint=reader.fingerprint,
        fingerprint_kind="sizes and indices of the shards",
        annotations=annotate(reader.ends[-1]),
        scan=lambda: _annotations(reader, folder, stamps, data, origin),
    )


def _splits(folder: epath.Path, origin: str) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """The shards of each split, or all under "", and the length of each shard, if dataset_info.json lists them."""
    try:
        found = sorted(str(path) for path in folder.glob("*.array_record*"))
    except OSError as error:
        raise UserError(f"{origin} cannot be listed ({error}).") from error
    if not found:
        raise UserError(f"{origin} contains no *.array_record* files.")
    numbered = [match.groups() for path in found if (match := re.search(r"([^/]*)-\d+-of-(\d+)$", path))]
    for (stem, total), count in Counter(numbered).items():
        if count != int(total):
            raise UserError(f"{origin} contains {count} of the {int(total)} shards of {stem}; copy the others too.")
    if (folder / "dataset_info.json").exists():
        return _splits_of_info(folder, origin)
    splits: dict[str, tuple[str, ...]] = {}
    for path in found:
        match = re.search(r"(?:^|[-_])([a-z]+)\.array_record", epath.Path(path).name)
        name = SPLITS.get(match[1], match[1]) if match else ""
        splits[name] = (*splits.get(name, ()), path)
    if "" in splits or not splits.keys() & set(SPLITS.values()):
        return {"": tuple(found)}, {}
    return splits, {}


def _splits_of_info(folder: epath.Path, origin: str) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        if info.get("fileFormat") != "array_record":
            raise UserError(
                f"{origin} was prepared as {info.get('fileFormat', 'tfrecord')}, which only TensorFlow reads; prepare "
                "it as array_record in another folder (docs/data.md)."
            )
        splits, lengths = {}, {}
        for split in info["splits"]:
            counts, stem = [int(count) for count in split["shardLengths"]], f"{info['name']}-{split['name']}"
            names = [f"{stem}.array_record-{i:05d}-of-{len(counts):05d}" for i in range(len(counts))]
            splits[split["name"]] = tuple(str(folder / name) for name in names)
            lengths |= dict(zip(splits[split["name"]], counts, strict=True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{origin}: dataset_info.json cannot be read ({error!r}); prepare the set again.") from error
    return splits, lengths


def _count(shard: str, lengths: dict[str, int]) -> int:
    """Number of records in a shard; UserError if dataset_info.json lists another."""
    count = len(_open(shard))
    if lengths.get(shard, count) != count:
        raise UserError(f"{shard} contains {count} records, not {lengths[shard]}; prepare or copy the set again.")
    return count


@cache
def _open(shard: str) -> Any:
    """A shard, opened once per process."""
    try:
        from grain.sources import ArrayRecordDataSource
    except ImportError as error:
        raise UserError("ArrayRecord files need Grain; install it: pip install --upgrade grain") from error
    try:
        return ArrayRecordDataSource([shard])
    except RuntimeError as error:
        raise UserError(f"{shard} cannot be read ({error}); prepare or copy it again.") from error


def _state(shard: str) -> str:
    path = epath.Path(shard)
    if isinstance(path, PurePath) and os.path.exists(shard):
        return f"{os.stat(shard).st_size}:{os.stat(shard).st_mtime_ns}"
    status = path.stat()
    return f"{status.length}:{status.mtime}"


@cache
def _checksums_of_ends(shards: tuple[str, ...]) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(progress(pool.map(_checksum_of_end, shards), "Comparing the shards", "shards", total=len(shards)))


def _checksum_of_end(shard: str) -> str:
    """The size of a shard and a CRC-32 of its end, which lists where its records lie."""
    path = epath.Path(shard)
    size = path.stat().length
    with path.open("rb") as file:
        file.seek(max(size - END, 0))
        return f"{size}:{zlib.crc32(file.read())}"


def _image_key(reader: RecordReader, origin: str) -> str:
    if not reader.ends[-1]:
        raise UserError(f"{origin} contains no records.")
    try:
        features = reader.features(0)
    except (ValueError, OSError) as error:
        raise UserError(f"{origin}: the first record cannot be read ({error}).") from error
    key = next((key for key in IMAGE_KEYS if key in features), None)
    if key is None:
        raise UserError(
            f"{origin}: records have the features {abbreviated(sorted(features))}; expected an encoded image in "
            f"{' or '.join(IMAGE_KEYS)}."
        )
    return key


def _annotations(reader: RecordReader, folder: epath.Path, stamps: list[str], data: Data, origin: str) -> Annotations:
    """Annotations from the records, all of which are read once; the cache stores the result."""
    label = data.label_column or LABEL
    key = key_of(["labels", *stamps, *([label] if label != LABEL else [])])
    table = remembered(open_cache(data.cache), key, lambda: _scan(reader, data.label_column, origin))
    count = reader.ends[-1]
    attributes = {"attributes": table["attributes"], "attribute_names": tuple(map(str, table["attribute_names"]))}
    if "texts" in table:
        return dataclasses.replace(annotate(count, [str(text) for text in table["texts"]]), **attributes)
    bare = dataclasses.replace(annotate(count), **attributes)
    if "classes" not in table or table["classes"].max() < 0:  # -1 throughout: a test split without labels.
        return bare
    if table["classes"].min() < 0:
        raise UserError(f"{origin}: some records have labels and others do not; choose a split with data.split.")
    listed = folder / f"{label}.labels.txt"
    names = listed.read_text().splitlines() if listed.exists() else []
    names += [str(number) for number in range(len(names), table["classes"].max() + 1)]
    return dataclasses.replace(bare, classes=table["classes"].astype(np.int32), class_names=tuple(names))


def _scan(reader: RecordReader, label_column: str | None, origin: str) -> dict[str, np.ndarray]:
    first = reader.features(0)
    scalar = [name for name in sorted(first) if name != reader.image and len(first[name]) == 1]
    single = [name for name in scalar if isinstance(first[name][0], (int, bytes))]
    label = (class_column(single, label_column, origin) if label_column else None) or LABEL
    # Sorted, since protobuf's maps have no order.
    names = [name for name in sorted(first) if name.startswith(ATTRIBUTE)]
    count = reader.ends[-1]
    attributes, labels = np.zeros((count, len(names)), np.int64), []
    for number in progress(range(count), f"Reading the labels of {origin}", "records", total=count):
        try:
            features = reader.features(number)
        except (ValueError, OSError) as error:
            raise UserError(
                f"{origin}: the label of {reader.name_of(number)} cannot be read ({error}); copy the set again."
            ) from error
        labels.append((features.get(label) or [-1])[0])
        attributes[number] = [(features.get(name) or [0])[0] for name in names]
    binary = np.isin(attributes, (0, 1)).all(axis=0)
    table = {
        "attributes": attributes[:, binary].astype(np.uint8),
        "attribute_names": np.array([name.removeprefix(ATTRIBUTE) for name in np.array(names)[binary]], str),
    }
    kinds = {type(label) for label in labels}
    if label not in first or not kinds <= {int, bytes}:
        return table
    if kinds == {int}:
        return table | {"classes": np.array(labels, np.int64)}
    texts = [label.decode("utf-8", "backslashreplace") if isinstance(label, bytes) else "(none)" for label in labels]
    return table | {"texts": np.array(texts, str)}
