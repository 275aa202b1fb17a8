"""A Dataset: all images of a source as one uint8 array, with their labels; what every source returns.

The array is usually memory-mapped, so a Dataset costs no memory until its rows are gathered into batches.
"""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.data.stream import Streamed
from ddpm_jax.errors import UserError

Labels = Int[np.ndarray, "N"] | UInt8[np.ndarray, "N attributes"]
MAX_HELD_OUT = 1024
SPOT_CHECKS = 64


class Dataset(NamedTuple):
    """All images that a run may see."""

    images: UInt8[np.ndarray, "N height width channels"] | Streamed
    labels: Labels
    """Class numbers [N], or multi-hot attributes uint8 [N, attributes]."""
    names: tuple[str, ...]
    """Of the classes or of the attributes, in order."""


class Traits(NamedTuple):
    """What tells one dataset from another, so that a run does not go on with other images than it began with."""

    images: int
    names: tuple[str, ...]
    crc32: int
    """Of some images and labels, evenly spread."""


def traits(dataset: Dataset) -> Traits:
    """The traits of a dataset."""
    count = len(dataset.images)
    some = np.unique(np.linspace(0, count - 1, SPOT_CHECKS).astype(int))
    checksum = zlib.crc32(
        np.ascontiguousarray(dataset.labels[some]).tobytes(), zlib.crc32(dataset.images[some].tobytes())
    )
    return Traits(count, dataset.names, checksum)


def held_out(count: int, share: float) -> int:
    """How many of so many images are held out."""
    return min(round(share * count), MAX_HELD_OUT)


def hold_out(dataset: Dataset, share: float) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "held"]]:
    """Rows to train on and rows to validate on: a fixed random split, whatever the seed of the run.

    share: of the images, at most MAX_HELD_OUT of them are held out.
    """
    count = len(dataset.images)
    held = held_out(count, share)
    if held >= count:
        raise UserError(f"data.holdout={share} leaves none of the {count} images to train on; lower it.")
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])
