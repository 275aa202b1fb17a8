"""CelebA as published: 202,599 aligned faces of 178x218, 40 attributes, official splits (Liu et al. 2015).

data.path is a folder with img_align_celeba.zip (read in place) or a folder img_align_celeba, or either of them itself;
list_attr_celeba and list_eval_partition, .txt or Kaggle's .csv, are beside it or in Anno/ and Eval/.

FID_CROP, as data.crop, is the box of 128x128 pixels around x=89, y=121 that is used for most published FIDs (Song et
al. 2020 among others); others use the centred squares (140,) and (178,).
"""

import logging
from pathlib import Path

import numpy as np

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import Annotations
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.sources.files import find_images
from ddpm_jax.data.sources.splits import choose_split
from ddpm_jax.data.sources.tree import Tree, TreeReader, open_tree
from ddpm_jax.errors import UserError, abbreviated

FID_CROP = (89 - 64, 121 - 64, 89 + 64, 121 + 64)
SPLITS = ("train", "validation", "test")
"""In the order of their numbers in list_eval_partition."""
IMAGES = "img_align_celeba"
ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"
SEPARATORS = str.maketrans(",;", "  ", '"')
"""The separators and quotes of a .csv, as spreadsheets save it, are replaced by blanks and removed."""

logger = logging.getLogger(__name__)


def open_celeba(data: Data) -> Collection:
    """The faces of a split (by default "train") in the order of their names."""
    if not data.path:
        raise UserError("data.path is not set; give the folder with img_align_celeba.zip, or the zip itself.")
    place = Path(data.path).expanduser()
    tree = _open_images(place)
    names, left_out = find_images(tree)
    texts = place if place.is_dir() else place.parent
    names = _of_split(names, data.split, texts)
    annotations = Annotations(np.zeros(len(names), np.int32), (), *_attributes(names, texts))
    reader = TreeReader(tree, names)
    return Collection(
        origin=f"data.path={place}",
        names=names,
        read=reader,
        stamp=reader.stamp,
        fingerprint=reader.fingerprint,
        fingerprint_kind=tree.fingerprint_kind,
        annotations=annotations,
        left_out=left_out,
    )


def is_celeba(place: Path) -> bool:
    """Whether a folder or file looks like CelebA."""
    return place.exists() and (place.name.startswith(IMAGES) or bool(_places(place)))


def _places(folder: Path) -> list[Path]:
    """Zips and folders of images in a folder, at its top level or one below."""
    found = [path for pattern in (f"{IMAGES}*", f"*/{IMAGES}*") for path in sorted(folder.glob(pattern))]
    return [path for path in found if path.is_dir() or path.suffix == ".zip"]


def _open_images(place: Path) -> Tree:
    if place.is_dir() and not place.name.startswith(IMAGES):
        places = _places(place)
        if not places and not any(place.glob("*.jpg")):
            raise UserError(f"data.path={place} contains no {IMAGES}.zip and no folder {IMAGES}.")
        place = places[0] if places else place
    return open_tree(place)


def _of_split(names: list[str], wanted: str | None, texts: Path) -> list[str]:
    found = _find_text(texts, PARTITION)
    if found is None:
        if wanted == "all":
            return names
        raise UserError(
            f"{texts} has no {PARTITION}.txt, which lists the splits; copy it there, or set data.split=all."
        )
    split = choose_split(wanted, SPLITS, str(found))
    row_of, values, _ = _read_list(found)
    numbers = values[_rows_of(names, row_of, found), 0]
    if len(row_of) > len(names):
        logger.info("Found %s of the %s images that %s lists", f"{len(names):,}", f"{len(row_of):,}", found.name)
    if not np.isin(values, (0, 1, 2)).all():
        raise UserError(f"{found}: expected 0, 1 or 2 for each image; download it again.")
    return names if split == "all" else [name for name, n in zip(names, numbers, strict=True) if SPLITS[n] == split]


def _attributes(names: list[str], texts: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    found = _find_text(texts, ATTRIBUTES)
    if found is None:
        logger.info("%s has no %s.txt, so the faces have no attributes", texts, ATTRIBUTES)
        return np.zeros((len(names), 0), np.uint8), ()
    row_of, values, columns = _read_list(found)
    if not np.isin(values, (-1, 0, 1)).all():
        raise UserError(f"{found}: expected 1 and -1 for each attribute; download it again.")
    return (values[_rows_of(names, row_of, found)] > 0).astype(np.uint8), columns


def _read_list(path: Path) -> tuple[dict[str, int], np.ndarray, tuple[str, ...]]:
    """Reads a .txt (two header lines above the attributes, none above the splits) or one of Kaggle's .csv files.

    Returns the row of each file by its name without suffix, the numbers [rows, columns] and the column names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").translate(SEPARATORS)
        lines = [line for line in text.splitlines() if line.strip()]
        if path.suffix == ".csv":
            columns, lines = tuple(lines[0].split()[1:]), lines[1:]
        elif path.stem == ATTRIBUTES:
            columns, lines = tuple(lines[1].split()), lines[2:]
        else:
            columns = ("partition",)
        files, rows = zip(*(line.split(maxsplit=1) for line in lines), strict=True)
        values = np.loadtxt(rows, np.int8, ndmin=2)
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not in CelebA's format ({error}); download it again.") from error
    if values.shape[1] != len(columns):
        raise UserError(f"{path} has {values.shape[1]} numbers per row for {len(columns)} columns; download it again.")
    return {_stem(file): row for row, file in enumerate(files)}, values, columns


def _rows_of(names: list[str], row_of: dict[str, int], path: Path) -> np.ndarray:
    """The row of each image; UserError for an image without one."""
    if missing := [name for name in names if _stem(name) not in row_of]:
        raise UserError(
            f"{path} has no row for {len(missing)} of {len(names)} images ({abbreviated(missing)}); download it again."
        )
    return np.array([row_of[_stem(name)] for name in names], int)


def _find_text(texts: Path, stem: str) -> Path | None:
    """The file in the folder, in one of its subfolders, or in its parent."""
    for folder in (texts, *sorted(path for path in texts.iterdir() if path.is_dir()), texts.parent):
        for suffix in (".txt", ".csv"):
            if (path := folder / (stem + suffix)).is_file():
                return path
    return None


def _stem(name: str) -> str:
    """File name without its suffix, which differs between CelebA's versions."""
    return Path(name).stem
