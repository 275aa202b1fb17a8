"""CelebA as it is published: 202,599 aligned faces of 178x218, 40 attributes, official splits (Liu et al. 2015).

data.path is the folder that holds img_align_celeba.zip (read in place) or the folder img_align_celeba, with
list_attr_celeba and list_eval_partition, .txt or Kaggle's .csv, beside them or in Anno/ and Eval/; or the zip itself.

Crops, as data.crop: FID_CROP is the box of 128x128 pixels around x=89, y=121, from which the images of published FIDs
are resized (Song et al. 2020 among others); (140,) and (178,) are the centred squares that others take.
"""

import logging
from pathlib import Path

import numpy as np

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import annotate, read_table
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.sources.splits import choose_split
from ddpm_jax.data.sources.tree import Tree, TreeReader, open_tree
from ddpm_jax.errors import UserError, some

FID_CROP = (89 - 64, 121 - 64, 89 + 64, 121 + 64)
SPLITS = ("train", "validation", "test")
"""In the order of their numbers in list_eval_partition."""
IMAGES = "img_align_celeba"
ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"

logger = logging.getLogger(__name__)


def open_celeba(data: Data) -> Collection:
    """The faces of a split (by default "train") in the order of their names."""
    if not data.path:
        raise UserError("data.path is not set; give the folder that holds img_align_celeba.zip, or the zip itself.")
    place = Path(data.path).expanduser()
    tree = _find_images(place)
    names = [name for name in tree.names if name.lower().endswith((".jpg", ".jpeg", ".png"))]
    texts = place if place.is_dir() else place.parent
    names = _of_split(names, data.split, texts)
    attributes = _attributes(names, texts)
    return Collection(
        origin=f"data.path={place}",
        names=names,
        read=TreeReader(tree, names),
        stamp=lambda number: f"{names[number]}:{tree.stamp(names[number])}",
        annotations=annotate(len(names), attributes=attributes),
    )


def is_celeba(place: Path) -> bool:
    """Whether a folder or file looks like CelebA, with its splits."""
    found = place.name.startswith(IMAGES) or bool(_places(place))
    return found and _find_text(place if place.is_dir() else place.parent, PARTITION) is not None


def _places(folder: Path) -> list[Path]:
    """Where the images may lie in a folder: a zip or a folder of the name, at the top or one level below."""
    found = [path for pattern in (f"{IMAGES}*", f"*/{IMAGES}*") for path in sorted(folder.glob(pattern))]
    return [path for path in found if path.is_dir() or path.suffix == ".zip"]


def _find_images(place: Path) -> Tree:
    if place.is_dir() and not place.name.startswith(IMAGES):
        places = _places(place)
        if not places and not any(place.glob("*.jpg")):
            raise UserError(f"data.path={place} holds no {IMAGES}.zip and no folder {IMAGES}.")
        place = places[0] if places else place
    return open_tree(place)


def _of_split(names: list[str], wanted: str | None, texts: Path) -> list[str]:
    found = _find_text(texts, PARTITION)
    if found is None:
        if wanted == "all":
            return names
        raise UserError(f"{texts} has no {PARTITION}.txt, which tells the splits; put it there, or set data.split=all.")
    split = choose_split(wanted, SPLITS, str(found))
    rows = _rows(found, ("partition",))
    _check_listed(names, rows, found)
    if len(rows) > len(names):
        logger.info("%s of the %s images that %s lists are there", f"{len(names):,}", f"{len(rows):,}", found.name)
    numbers = {name: row.get("partition") for name, row in rows.items()}
    if not set(numbers.values()) <= {"0", "1", "2"}:
        raise UserError(f"{found} has no column `partition` of 0, 1 and 2; fetch it again.")
    return names if split == "all" else [name for name in names if numbers[_stem(name)] == str(SPLITS.index(split))]


def _attributes(names: list[str], texts: Path) -> dict[str, list[int]]:
    found = _find_text(texts, ATTRIBUTES)
    if found is None:
        logger.info("%s has no %s.txt: the faces come without attributes", texts, ATTRIBUTES)
        return {}
    rows = _rows(found, None)
    _check_listed(names, rows, found)
    columns = list(next(iter(rows.values())))
    try:
        values = np.array([[int(rows[_stem(name)][column]) for column in columns] for name in names]) > 0
    except ValueError as error:
        raise UserError(f"{found}: expected 1 and -1 for each attribute ({error}); fetch it again.") from error
    return {column: values[:, i].astype(int).tolist() for i, column in enumerate(columns)} if names else {}


def _rows(path: Path, columns: tuple[str, ...] | None) -> dict[str, dict[str, str]]:
    """The table in a .txt (counted or bare, columns divided by spaces) or a .csv, by the stem of the file name."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from error
    if path.suffix == ".csv":
        return {_stem(name): row for name, row in read_table(path.name, text, str(path.parent)).items()}
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if columns is None:
        columns, lines = tuple(lines[1]) if len(lines) > 2 else (), lines[2:]
    if not lines or any(len(line) != len(columns) + 1 for line in lines):
        raise UserError(f"{path} is not CelebA's: expected rows of {len(columns) + 1} words; fetch it again.")
    return {_stem(name): dict(zip(columns, values, strict=True)) for name, *values in lines}


def _find_text(texts: Path, stem: str) -> Path | None:
    """The file in the folder, in one of its subfolders, or beside the folder."""
    for folder in (texts, *sorted(path for path in texts.iterdir() if path.is_dir()), texts.parent):
        for suffix in (".txt", ".csv"):
            if (path := folder / (stem + suffix)).is_file():
                return path
    return None


def _check_listed(names: list[str], rows: dict, path: Path) -> None:
    missing = [name for name in names if _stem(name) not in rows]
    if missing:
        raise UserError(f"{path} misses {len(missing)} of {len(names)} images ({some(missing)}); fetch it again.")


def _stem(name: str) -> str:
    """What 000001.jpg and 000001.png have in common."""
    return Path(name).stem
