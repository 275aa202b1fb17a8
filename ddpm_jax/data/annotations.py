"""Classes and attributes of images, and how labels.csv and metadata.jsonl are read."""

import csv
import dataclasses
import io
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from posixpath import splitext
from typing import Any
from unicodedata import normalize

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.data.decode import SUFFIXES
from ddpm_jax.errors import UserError, abbreviated, nearest

TABLES = ("labels.csv", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file_name", "file", "filename", "image", "image_id", "path")
CLASS_COLUMNS = ("label", "class")
YES_OR_NO = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "0": 0, "0.0": 0, "-1": 0, "false": 0, "no": 0}

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """The class and the attributes of each image; a source may have either, both or none."""

    classes: Int[np.ndarray, "N"]
    """Class numbers; all 0 where there are no classes."""
    class_names: tuple[str, ...]
    attributes: UInt8[np.ndarray, "N attributes"]
    """1 where an image has the attribute, else 0."""
    attribute_names: tuple[str, ...]

    def take(self, rows: Int[np.ndarray, "M"]) -> "Annotations":
        """The annotations of these images."""
        return dataclasses.replace(self, classes=self.classes[rows], attributes=self.attributes[rows])

    def __len__(self) -> int:
        return len(self.classes)


def annotate(
    count: int,
    classes: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[int]] | None = None,
) -> Annotations:
    """Annotations from the class name of each image, and from each attribute's values (0 or 1) by its name.

    Classes are numbered in natural order: alphabetically, but with numbers inside names sorted by value.
    """
    names = sorted(set(classes), key=lambda name: (natural(name), name)) if classes is not None else []
    _warn_of_similar(names)
    number = {name: i for i, name in enumerate(names)}
    table = list((attributes or {}).values())
    return Annotations(
        np.array([number[name] for name in classes] if classes is not None else np.zeros(count), np.int32),
        tuple(names),
        np.array(table, np.uint8).reshape(len(table), count).T,
        tuple(attributes or {}),
    )


def _warn_of_similar(names: Sequence[str]) -> None:
    """Warns of classes that may be the same: one system tells their names apart, another does not."""
    similar: dict[str, list[str]] = {}
    for name in names:
        similar.setdefault(normalize("NFC", name.strip()).casefold(), []).append(name)
    for found in similar.values():
        if len(found) > 1:
            logger.warning(
                "The classes %s differ only in case, blanks or the encoding of accents; give them one name if they are "
                "the same",
                abbreviated(found),
            )


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts "9" before "10"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part)) if part[0] in "0123456789" else (1, part) for part in parts]


def read_table(name: str, text: str, origin: str) -> dict[str, dict[str, str]]:
    """The rows of labels.csv or metadata.jsonl by file name, each as {column: value}; origin: for error messages."""
    rows = (_csv_rows if name.endswith(".csv") else _json_rows)(text, f"{origin}: {name}")
    table: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        named = {column.lower(): column for column in row}
        column = next((named[name] for name in FILE_COLUMNS if name in named), None)
        if column is None:
            raise UserError(
                f"{origin}: row {number} of {name} has the columns {abbreviated(row)}; expected one of "
                f"{', '.join(FILE_COLUMNS)} with the file's name."
            )
        file = row.pop(column).removeprefix("./")
        if file in table:
            raise UserError(f"{origin}: {name} has two rows for {file}; remove one.")
        table[file] = row
    return table


def annotations_of_table(
    names: Sequence[str], table: Mapping[str, Mapping[str, str]], origin: str, label_column: str | None = None
) -> Annotations:
    """The annotations in a table: the class from `label_column` (`class_column`), attributes from yes-or-no columns.

    Raises UserError for an image without a row or class, for a row without an image, and for an unknown column.
    """
    if missing := [name for name in names if name not in table]:
        raise UserError(
            f"{origin} has no row for {len(missing)} of {len(names)} images ({abbreviated(missing)}); add the rows, or "
            "remove the images."
        )
    if extra := sorted(set(table) - set(names)):
        raise UserError(f"{origin} has rows for {len(extra)} missing images ({abbreviated(extra)}); remove them.")
    columns = list(dict.fromkeys(column for name in names for column in table[name]))
    values = {column: [table[name].get(column, "") for name in names] for column in columns}
    chosen = class_column(columns, label_column, origin)
    classes = values.pop(chosen) if chosen else None
    if classes and "" in classes:
        raise UserError(f"{origin}: {names[classes.index('')]} has no {chosen}; add one.")
    binary = {name: column for name, column in values.items() if all(value.lower() in YES_OR_NO for value in column)}
    if ignored := [name for name in values if name not in binary]:
        logger.info(
            "%s: ignoring columns that are not yes-or-no: %s%s", origin, abbreviated(ignored), hint(label_column)
        )
    return annotate(
        len(names), classes, {name: [YES_OR_NO[value.lower()] for value in column] for name, column in binary.items()}
    )


def class_column(columns: Sequence[str], wanted: str | None, origin: str) -> str | None:
    """The column that holds the classes: data.label_column, or by default the first in CLASS_COLUMNS, if any.

    Raises UserError if there is no column data.label_column.
    """
    if wanted is not None and wanted not in columns:
        found = nearest(wanted, columns) if columns else "leave it out."
        raise UserError(f"data.label_column={wanted!r}: {origin} has no such column of text or numbers; {found}")
    return wanted or next((column for column in columns if column.lower() in CLASS_COLUMNS), None)


def hint(wanted: str | None) -> str:
    """The end of a message that lists columns: how to choose the classes among them; wanted: data.label_column."""
    return "" if wanted else " (data.label_column=NAME makes one of them the class)"


def match_files(table: Mapping[str, dict[str, str]], images: Iterable[str]) -> dict[str, dict[str, str]]:
    """The table with the images' own names where a row's differs only in case, suffix or Windows' separators.

    Rows and images that are not each other's only match stay as they are.
    """
    images = set(images)
    of_images, of_rows = _by_stem(images - table.keys()), _by_stem(table.keys() - images)
    name_of = {
        rows[0]: of_images[stem][0] for stem, rows in of_rows.items() if len(rows) == len(of_images.get(stem, ())) == 1
    }
    return {name_of.get(name, name): row for name, row in table.items()}


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """The names by what remains of them in lower case, with slashes, and without an image's suffix."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = splitext(name.replace("\\", "/").lower())
        found.setdefault(stem if suffix in SUFFIXES else stem + suffix, []).append(name)
    return found


def _csv_rows(text: str, origin: str) -> Iterable[dict[str, str]]:
    lines = io.StringIO(text.lstrip("\r\n"), newline=None)  # The line ends of every system.
    header = lines.readline()
    lines.seek(0)
    delimiter = max(",;\t", key=header.count)  # In some countries, spreadsheets save CSV with semicolons.
    reader = csv.DictReader(lines, restval="", skipinitialspace=True, delimiter=delimiter)
    try:
        for row in reader:
            values = {column.strip(): value.strip() for column, value in row.items() if column}
            if any(values.values()):  # Spreadsheets save empty rows, too.
                yield values
    except csv.Error as error:
        raise UserError(f"{origin}: row {reader.line_num} cannot be read ({error}); fix it.") from error


def _json_rows(text: str, origin: str) -> Iterable[dict[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row: Any = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{origin}, line {number}, is not JSON ({error}); fix it.") from error
            if not isinstance(row, dict):
                raise UserError(f'{origin}, line {number}, is {line[:40]!r}; expected {{"file_name": …, "label": …}}.')
            yield {column: str(value).strip() for column, value in row.items() if isinstance(value, (str, int, float))}
