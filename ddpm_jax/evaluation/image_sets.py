"""Image sets that are compared without a run: folders, zips, arrays, the cache, or saved statistics."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.config.sections import Data
from ddpm_jax.data.cache import IMAGES, read_entry
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import UNREADABLE, decode_whole
from ddpm_jax.data.open import FILES, kind_of
from ddpm_jax.errors import UserError, printable
from ddpm_jax.evaluation.statistics import load_statistics
from ddpm_jax.runtime.cpu import usable_cpus
from ddpm_jax.runtime.files import NO_ARRAYS


class ImageSet:
    """Images of one size, decoded when indexed, as if they were an array [N, height, width, 3]."""

    def __init__(self, collection: Collection, name: str) -> None:
        """name: of the set, in errors."""
        self._collection, self._name = collection, name
        self._pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
        self._size = self._decode(0).shape
        self.shape = (len(collection.names), *self._size)

    def __len__(self) -> int:
        return len(self._collection.names)

    def __getitem__(self, numbers: Int[np.ndarray, "batch"]) -> UInt8[np.ndarray, "batch height width 3"]:
        images = list(self._pool.map(self._decode, numbers.tolist()))
        for number, image in zip(numbers, images, strict=True):
            if image.shape != self._size:
                name = printable(self._collection.names[int(number)])
                size, first = (f"{shape[1]}x{shape[0]}" for shape in (image.shape, self._size))
                raise UserError(f"{self._name}: {name} is {size}, the first image is {first}; expected one size.")
        return np.stack(images)

    def _decode(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        try:
            return decode_whole(self._collection.read(number))
        except UNREADABLE as error:
            name = printable(self._collection.names[number])
            raise UserError(f"{self._name}: {name} cannot be read ({error}); repair or remove it.") from error


def open_set(path: Path, extractor: str, split: str | None) -> Any:
    """The Statistics in an .npz file that holds mu and sigma, or else an array of images or an ImageSet."""
    path = path.expanduser()
    if path.suffix == ".npz" and _holds_statistics(path):
        return load_statistics(path, extractor)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder, zip, .npz or .npy of images, or statistics.")
    if (path / "samples.npz").is_file():  # A folder that --mode=sample wrote.
        path = path / "samples.npz"
    if any((path / name).exists() for name in IMAGES.values()):
        entry = read_entry(path)
        if entry is None:
            raise UserError(f"{path} is not an intact folder of the cache; prepare it again.")
        return entry.images
    data = Data(path=str(path), split=split or "all", channels=1, depth=16)  # So that arrays may be of 8 or 16 bits.
    collection = FILES[kind_of(data)](data)
    return collection.decoded if collection.decoded is not None else ImageSet(collection, str(path))


def _holds_statistics(path: Path) -> bool:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {"mu", "sigma"} <= set(arrays.files)
    except (OSError, *NO_ARRAYS):
        return False  # Opening its images then raises the UserError.
