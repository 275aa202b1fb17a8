"""Shards of a set, Parquet files or tars: which there are, and to which split each belongs.

data/train-00000-of-00002.parquet, val-000003.tar    the last such word of a name is the split
train/0000.parquet                                   or else that of a folder
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ddpm_jax.data.sources.files import holds_images
from ddpm_jax.data.sources.splits import ALL, SPLITS, choose_split
from ddpm_jax.data.sources.tree import open_tree
from ddpm_jax.errors import UserError, abbreviated

SOURCES = {".parquet": "parquet", ".tar": "webdataset"}
"""The data.source that reads files of a suffix."""
NUMBERED = re.compile(r"^(.*?)-?(\d+)-of-(\d+)(?:-[0-9a-f]+)?$")
"""The name, number and total in a name such as train-00000-of-00002, which the hub may end with a hash."""
POINTER = b"version https://git-lfs"


def source_of_shards(path: Path) -> str | None:
    """The data.source that reads a file, or a folder of shards at its top or one level below; None for any other.

    A folder that also holds images is none, unless its shards are numbered as those of the hub.
    """
    if path.is_file():
        return SOURCES.get(path.suffix.lower())
    found = {suffix: [*path.glob(f"*{suffix}"), *path.glob(f"*/*{suffix}")] for suffix in SOURCES}
    numbered = {suffix: any(NUMBERED.match(shard.stem) for shard in shards) for suffix, shards in found.items()}
    if found[".tar"] and not numbered[".parquet"]:
        found[".parquet"] = []  # img2dataset writes such a table of captions beside each tar.
    for suffix, source in SOURCES.items():
        if found[suffix]:
            return source if numbered[suffix] or not holds_images(open_tree(path)) else None
    return None


def find_shards(place: str | None, wanted: str | None, suffix: str) -> list[Path]:
    """The shards of data.path=place, a file or a folder, or of one of its splits, sorted; wanted: data.split.

    Raises UserError if there is none, and if the names say that some are missing.
    """
    if not place:
        raise UserError(f"data.path is not set; give a {suffix} file, or a folder of such files.")
    path = Path(place).expanduser()
    origin = f"data.path={path}"
    if path.is_file():
        choose_split(wanted, (), origin)
        return _checked([path])
    names = [name for name in open_tree(path).names if name.endswith(suffix)] if path.is_dir() else []
    if not names:
        missing = "contains no" if path.is_dir() else "does not exist; give one or a folder of"
        raise UserError(f"{origin} {missing} {suffix} files.")
    splits: dict[str, list[str]] = defaultdict(list)
    for name in names:
        splits[_split_of(name)].append(name)
    for split in splits.values():
        _check_numbers(split, origin)
    named = not splits.keys().isdisjoint(SPLITS.values())
    split = choose_split(wanted, sorted(splits) if named else (), origin)
    return _checked([path / name for name in (names if split == ALL else splits[split])])


def _split_of(name: str) -> str:
    """The split that is the last such word of a shard's name, or its innermost such folder; "other" for none."""
    path = PurePosixPath(name)
    numbered = NUMBERED.match(path.stem)
    words = re.split(r"[-_.]", (numbered[1] if numbered else path.stem).lower())
    found = [SPLITS[word] for word in (*(part.lower() for part in path.parts[:-1]), *words) if word in SPLITS]
    return found[-1] if found else "other"


def _checked(shards: list[Path]) -> list[Path]:
    """The shards; UserError for one that cannot be read, or that a clone without Git LFS left empty."""
    for shard in shards:
        if not os.access(shard, os.R_OK):
            raise UserError(f"{shard} cannot be read; check its link and permissions, or download it again.")
        with shard.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise UserError(f"{shard} is only a pointer of Git LFS; run git lfs pull in its folder.")
    return shards


def _check_numbers(names: Sequence[str], origin: str) -> None:
    """Raises UserError unless shards "…-00000-of-00002", or of Parquet, are one complete set; names: of one split."""
    found: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    folders = set()
    for name in names:
        path = PurePosixPath(name)
        numbered = NUMBERED.match(path.stem)
        if numbered or path.suffix == ".parquet":
            folders.add(str(PurePosixPath(*(part for part in path.parts[:-1] if part.lower() not in SPLITS))))
        if len(folders) > 1:
            raise UserError(
                f"{origin} contains several sets ({abbreviated(sorted(folders))}); give one of these folders."
            )
        if numbered:
            same = found[numbered[1], int(numbered[3])]
            if (other := same.setdefault(int(numbered[2]), name)) != name:
                raise UserError(f"{origin} contains a shard twice, as {other} and {name}; remove one of them.")
    for (stem, total), same in found.items():
        if missing := set(range(total)) - set(same):
            raise UserError(
                f"{origin} contains {len(same)} of the {total} shards of {stem}, not number {min(missing)}; copy the "
                "others too."
            )
