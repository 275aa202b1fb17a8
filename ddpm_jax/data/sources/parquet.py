"""Parquet shards with encoded images, as the Hugging Face hub has them, read by pyarrow.

data.path is a .parquet file, or a folder with such files at any depth. The images are in a column of {bytes, path}, as
`datasets` writes them, or of bytes; the classes are in data.label_column, by default `label` or `class`; columns of
true and false are attributes. Classes may be numbers whose names are in the file's metadata.

A row group is read as a whole, so images are quick to read in order and slow at random.
"""

import bisect
import dataclasses
import itertools
import json
import logging
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import Annotations, annotate, class_column, hint
from ddpm_jax.data.collection import Collection, LazyNames
from ddpm_jax.data.prepare import CHUNK
from ddpm_jax.data.sources.shards import find_shards
from ddpm_jax.errors import UserError, abbreviated
from ddpm_jax.runtime.cpu import usable_cpus

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Names that decide which of several columns of bytes are the images."""
DAMAGED = (OSError, ValueError, NotImplementedError)
"""Exceptions of pyarrow for files that are damaged, or of a kind that it cannot read."""

logger = logging.getLogger(__name__)


class Shard(NamedTuple):
    """A file, with what changes whenever it does."""

    path: Path
    size: int
    changed: int
    """Modification time in nanoseconds."""


@dataclasses.dataclass(frozen=True, eq=False)
class ParquetReader:
    """Reads the images of a list of shards by their number."""

    shards: tuple[Shard, ...]
    groups: tuple[tuple[int, int], ...]
    """The shard and the index in it of each row group."""
    ends: tuple[int, ...]
    """Cumulative number of rows, up to and including each row group."""
    column: str

    def __call__(self, number: int) -> bytes:
        group, row = self.locate(number)
        image = self.images_of_group(group)[row].as_py()
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise ValueError(f"the row has no bytes in {self.column!r}")
        return content

    def locate(self, number: int) -> tuple[int, int]:
        """The index of an image's row group, and its row in that group."""
        group = bisect.bisect_right(self.ends, number)
        return group, number - (self.ends[group - 1] if group else 0)

    def name_of(self, number: int) -> str:
        """The name of an image, for messages."""
        group, row = self.locate(number)
        shard, index = self.groups[group]
        return f"row {row} of row group {index} of {self.shards[shard].path.name}"

    def shard_of(self, number: int) -> Shard:
        """The shard of an image."""
        return self.shards[self.groups[self.locate(number)[0]][0]]

    @cached_property
    def images_of_group(self) -> Callable[[int], Any]:
        """The images of a row group; as many groups are kept as all threads together are reading from."""
        ahead = usable_cpus() * CHUNK * len(self.groups) // self.ends[-1]
        reading = threading.Lock()  # Two threads must not read a group twice, nor an open file at once.

        @lru_cache(maxsize=2 * ahead + 2)
        def read(group: int) -> Any:
            shard, index = self.groups[group]
            return _open(self.shards[shard]).read_row_group(index, columns=[self.column]).column(self.column)

        def read_alone(group: int) -> Any:
            with reading:
                return read(group)

        return read_alone


def open_parquet(data: Data) -> Collection:
    """The images of data.path, a .parquet file or a folder of them, or of one of its splits, in the rows' order."""
    shards = tuple(_shard(path) for path in find_shards(data.path, data.split, ".parquet"))
    origin = f"data.path={Path(data.path or '').expanduser()}"
    if data.stream:
        raise UserError(
            f"data.stream=True reads single images at random, but {origin} is Parquet, which is read in groups; leave "
            "data.stream out."
        )
    footers = [_open(shard).metadata for shard in shards]
    groups = [(shard, group) for shard, footer in enumerate(footers) for group in range(footer.num_row_groups)]
    ends = tuple(itertools.accumulate(footers[shard].row_group(group).num_rows for shard, group in groups))
    if not ends or not ends[-1]:
        raise UserError(f"{origin} contains no rows; give a folder of .parquet files with images.")
    image = _image_column(_open(shards[0]).schema_arrow, origin)
    reader = ParquetReader(shards, tuple(groups), ends, image)
    _ = reader.images_of_group  # Once, before several threads ask for it.
    return Collection(
        origin=origin,
        names=LazyNames(ends[-1], reader.name_of),
        read=reader,
        stamp=lambda number: f"{reader.shard_of(number)}:{reader.name_of(number)}",
        fingerprint=lambda number: f"{reader.shard_of(number).size}:{reader.name_of(number)}",
        fingerprint_kind="sizes and rows of the shards",
        annotations=_annotations(shards, image, data.label_column, origin),
        shared=True,
    )


def _shard(path: Path) -> Shard:
    status = path.stat()
    return Shard(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _open(shard: Shard) -> Any:
    """An open shard; not all of them at once, since a process may have only so many open files."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow; install it: pip install pyarrow") from error
    try:
        return parquet.ParquetFile(shard.path)
    except DAMAGED as error:
        raise UserError(f"{shard.path} cannot be read as Parquet ({_reason(error)}); download it again.") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _image_column(schema: Any, origin: str) -> str:
    """The column of encoded images: one of {bytes, path}, or else one of bytes."""
    from pyarrow import types

    structs = [f.name for f in schema if types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    plain = [f.name for f in schema if types.is_binary(f.type) or types.is_large_binary(f.type)]
    found = structs or plain
    named = [name for wanted in IMAGE_COLUMNS for name in found if name.lower() == wanted]
    if not found:
        raise UserError(
            f"{origin} has no column of images, only {abbreviated(schema.names)}; expected one of bytes, or of "
            "{bytes, path}. If the images are files in that folder, set data.source=folder, or webdataset if in tars."
        )
    if len(found) > 1 and not named:
        raise UserError(f"{origin} has several columns of images ({abbreviated(found)}); rename one to image.")
    return (named or found)[0]


def _annotations(shards: Sequence[Shard], image: str, label_column: str | None, origin: str) -> Annotations:
    from pyarrow import types

    schema = _open(shards[0]).schema_arrow
    numbers = (types.is_integer, types.is_floating)
    scalar = (*numbers, types.is_boolean, types.is_string, types.is_large_string, types.is_dictionary)
    columns = [field.name for field in schema if any(fits(field.type) for fits in scalar)]
    chosen = class_column(columns, label_column, origin)
    binary = [name for name in columns if types.is_boolean(schema.field(name).type) and name != chosen]
    if others := [name for name in schema.names if name not in (image, chosen, *binary)]:
        logger.info("%s: ignoring the columns %s%s", origin, abbreviated(others), hint(label_column))
    wanted = [*([chosen] if chosen else []), *binary]
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    count = 0
    for shard in shards:
        found = _read_columns(shard, image, wanted)
        count += _open(shard).metadata.num_rows
        for name in wanted:
            values[name] += found[name]
    classes = values.pop(chosen) if chosen else None
    incomplete = [name for name, column in values.items() if None in column]
    if incomplete:
        logger.info("%s: ignoring the columns %s, which have gaps", origin, abbreviated(incomplete))
    attributes = {name: [int(value) for value in values[name]] for name in values if name not in incomplete}
    return _with_classes(classes, attributes, count, _class_names(schema, chosen), f"{origin}: {chosen}")


def _read_columns(shard: Shard, image: str, wanted: list[str]) -> dict[str, list[Any]]:
    """The columns with the labels; UserError if a shard lacks these or the images."""
    file = _open(shard)
    if lacking := [name for name in (image, *wanted) if name not in file.schema_arrow.names]:
        raise UserError(
            f"{shard.path} has no column {abbreviated(lacking)}, unlike the first shard; remove it, or copy it again."
        )
    try:
        table = file.read(columns=wanted)
        return {name: table.column(name).to_pylist() for name in wanted}
    except DAMAGED as error:
        raise UserError(f"{shard.path}: its labels cannot be read ({_reason(error)}); download it again.") from error


def _with_classes(
    classes: list[Any] | None, attributes: dict[str, list[int]], count: int, names: list[str], origin: str
) -> Annotations:
    """names: those of the class numbers, if known; a set without labels has -1 in their place."""
    if classes and names:
        classes = [None if value == -1 else value for value in classes]
    if not classes or all(value is None for value in classes):
        return annotate(count, None, attributes)
    if None in classes:
        raise UserError(
            f"{origin} is empty in {classes.count(None)} of {count} rows, first in row {classes.index(None)}; choose "
            "another data.label_column, or a split with data.split."
        )
    if names and all(isinstance(value, int) and 0 <= value < len(names) for value in classes):
        numbers = np.array(classes, np.int32)
        return dataclasses.replace(annotate(count, None, attributes), classes=numbers, class_names=tuple(names))
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in classes]
    return annotate(count, [str(value) for value in whole], attributes)


def _class_names(schema: Any, column: str | None) -> list[str]:
    """The names of a column's class numbers, which `datasets` writes into the metadata; none if it did not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
