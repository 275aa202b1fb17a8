"""A Dataset: the selected images of a source as one uint8 array, with their labels.

The array is usually memory-mapped, so a Dataset takes no memory until its rows are gathered into batches.
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
    """Class numbers int32 [N], or attributes uint8 [N, attributes], 1 for yes and 0 for no."""
    names: tuple[str, ...]
    """Names of the classes or of the attributes, in order."""


class Traits(NamedTuple):
    """A fingerprint of a dataset, so that a run does not resume with other images."""

    images: int
    names: tuple[str, ...]
    crc32: int
    """Checksum of evenly spaced images and their labels."""


def traits(dataset: Dataset) -> Traits:
    """The fingerprint of a dataset."""
    count = len(dataset.images)
    rows = np.unique(np.linspace(0, count - 1, SPOT_CHECKS).astype(int))
    checksum = zlib.crc32(dataset.labels[rows].tobytes(), zlib.crc32(dataset.images[rows].tobytes()))
    return Traits(count, dataset.names, checksum)


def held_out(count: int, share: float) -> int:
    """Number of images to hold out of `count`; share: 0 to 1."""
    return min(round(share * count), MAX_HELD_OUT)


def hold_out(dataset: Dataset, share: float) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "held"]]:
    """Rows to train on and rows to validate on: a random split that does not depend on the run's seed.

    share: of the images, 0 to 1; at most MAX_HELD_OUT images are held out.
    """
    count = len(dataset.images)
    held = held_out(count, share)
    if held >= count:
        raise UserError(f"data.holdout={share} leaves none of the {count} images to train on; lower it.")
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])
