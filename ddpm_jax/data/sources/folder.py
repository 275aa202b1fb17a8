"""A folder or zip of image files at any depth.

photos/dog/1.png, photos/cat/2.jpg      the topmost folders that differ are the classes
photos/train/dog/1.png, photos/test/…   if all of them are named like splits, the folders below are the classes
photos/labels.csv, metadata.jsonl       classes and attributes by file name, instead of folders; data.label_column
                                        names the column of the classes
"""

import logging
from posixpath import splitext

import numpy as np

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import TABLES, Annotations, annotate, annotations_of_table, match_files, read_table
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import FORMAT_NAMES, SUFFIXES
from ddpm_jax.data.sources.files import find_images, summary
from ddpm_jax.data.sources.shards import SOURCES
from ddpm_jax.data.sources.splits import ALL, SPLITS, choose_split
from ddpm_jax.data.sources.tree import Tree, TreeReader, open_tree
from ddpm_jax.errors import UserError, abbreviated, printable

logger = logging.getLogger(__name__)


def open_folder(data: Data) -> Collection:
    """The images of data.path, a folder or a zip, or of one of its splits, by class and then by name."""
    if not data.path:
        raise UserError("data.path is not set; give a folder or zip of images, such as --config.data.path=photos/.")
    tree = open_tree(data.path)
    images, left_out = find_images(tree)
    origin = f"data.path={tree.root}"
    if not images:
        found = "contains no images" if tree.names or left_out else "is empty"
        found += f", only {summary(left_out)} files" if left_out else ""
        shards = "".join(
            f" data.source={SOURCES[suffix]} reads {suffix} files." for suffix in left_out.keys() & SOURCES
        )
        raise UserError(f"{origin} {found}; expected {FORMAT_NAMES}, at any depth.{shards}")
    level = _common_level(images)
    names, splits = _choose_split(images, level, data.split, origin)
    annotations = _annotations(tree, names, level, splits, data.label_column, origin)
    order = np.argsort(annotations.classes, kind="stable")
    names = [names[i] for i in order]
    reader = TreeReader(tree, names)
    return Collection(
        origin=origin,
        names=names,
        read=reader,
        stamp=reader.stamp,
        fingerprint=reader.fingerprint,
        fingerprint_kind=tree.fingerprint_kind,
        annotations=annotations.take(order),
        left_out=left_out,
    )


def _common_level(images: list[str]) -> int:
    """Number of nested folders that contain all images, and so cannot be classes."""
    first, last = (images[0].split("/")[:-1], images[-1].split("/")[:-1])  # The most different, in sorted order.
    level = 0
    while level < min(len(first), len(last)) and first[level] == last[level] and first[level].lower() not in SPLITS:
        level += 1
    return level


def _folder_at(name: str, level: int) -> str:
    """The folder of a file at a level of nesting; "." if the file is above that level."""
    parts = name.split("/")[:-1]
    return printable(parts[level]) if len(parts) > level else "."


def _choose_split(images: list[str], level: int, wanted: str | None, origin: str) -> tuple[list[str], list[str]]:
    """The images of the split to read and the folders of that split; all images and none if there are no splits."""
    folders = [_folder_at(name, level) for name in images]
    split_of = {folder: SPLITS.get(folder.lower()) for folder in set(folders)}
    others = [folder for folder, split in split_of.items() if split is None]
    if others:
        if {"train", "test"} <= set(split_of.values()):
            logger.warning("%s: treating train and test as classes, because of %s", origin, abbreviated(others))
        choose_split(wanted, (), origin)
        return images, []
    split = choose_split(wanted, sorted({str(split) for split in split_of.values()}), origin)
    chosen = sorted(folder for folder in split_of if split in (ALL, split_of[folder]))
    return [name for name, folder in zip(images, folders, strict=True) if folder in chosen], chosen


def _annotations(
    tree: Tree, names: list[str], level: int, splits: list[str], label_column: str | None, origin: str
) -> Annotations:
    common = names[0].split("/")[:level]
    places = ["", *("/".join([*common[: i + 1], ""]) for i in range(level))]
    places += [f"{places[-1]}{split}/" for split in splits]
    there = set(tree.names)
    tables = [f"{place}{table}" for table in TABLES for place in places if f"{place}{table}" in there]
    if tables:
        return _annotations_of_tables(tree, names, tables, label_column, origin)
    if label_column is not None:
        raise UserError(
            f"data.label_column={label_column!r}: {origin} has no {' or '.join(TABLES)} at its top or in its splits' "
            "folders; add one, or leave data.label_column out."
        )
    folders = [_folder_at(name, level + bool(splits)) for name in names]
    return annotate(len(names), folders if len(set(folders)) > 1 else None)


def _annotations_of_tables(
    tree: Tree, names: list[str], tables: list[str], label_column: str | None, origin: str
) -> Annotations:
    """Annotations from tables at the root or in the splits' folders; their rows name files relative to the table."""
    rows: dict[str, dict[str, str]] = {}
    for table in tables:
        try:
            text = tree.read(table).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"{origin}: {table} cannot be read ({error}); save it as UTF-8 text.") from error
        folder = table.rpartition("/")[0]
        if any(other != table and other.rpartition("/")[0] == folder for other in tables):
            raise UserError(f"{origin} contains {abbreviated(tables)}; keep one of them.")
        for name, row in read_table(table, text, origin).items():
            rows[f"{folder}/{name}" if folder else name] = row
    rows = match_files(rows, (name for name in tree.names if splitext(name)[1].lower() in SUFFIXES))
    # Rows for images of other splits are ignored; rows for files that do not exist are refused.
    others = set(tree.names) - set(names)
    rows = {name: row for name, row in rows.items() if name not in others}
    return annotations_of_table(names, rows, f"{origin}: {', '.join(tables)}", label_column)
