"""A Dataset: the selected images of a source as one array of pixels, with their labels.

The array is usually memory-mapped, so a Dataset takes no memory until its rows are gathered into batches.
"""

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt, UInt8

from ddpm_jax.data.fingerprints import PIXELS, Fingerprints, fingerprints_of
from ddpm_jax.data.stream import Streamed
from ddpm_jax.errors import UserError, abbreviated

Labels = Int[np.ndarray, "N"] | UInt8[np.ndarray, "N attributes"]
MAX_HELD_OUT = 1024
SPOT_CHECKS = 64


class Dataset(NamedTuple):
    """All images that a run may see."""

    images: UInt[np.ndarray, "N height width channels"] | Streamed
    labels: Labels
    """Class numbers int32 [N], or attributes uint8 [N, attributes], 1 for yes and 0 for no."""
    names: tuple[str, ...]
    """Names of the classes or of the attributes, in order."""
    fingerprints: Fingerprints | None = None
    """Those of the images, if the cache knows them."""
    left_out: Mapping[str, Sequence[str]] = MappingProxyType({})
    """Names of the source's files that are not among its images, by reason."""


class Traits(NamedTuple):
    """A few properties of a dataset, which are quick to compare."""

    images: int
    names: tuple[str, ...]
    crc32: int
    """Checksum of evenly spaced images and their labels."""


class Identity(NamedTuple):
    """All that training reads of a dataset, so that a run does not resume with other data."""

    traits: Traits
    labels: int
    """CRC-32 of all labels, in order."""
    fingerprints: Fingerprints | None
    """None for runs of older versions, which recorded only the traits."""


def traits(dataset: Dataset) -> Traits:
    """The traits of a dataset."""
    spots = np.unique(np.linspace(0, len(dataset.images) - 1, SPOT_CHECKS).astype(int))
    return Traits(len(dataset.images), dataset.names, checksum(dataset, spots))


def identity(dataset: Dataset) -> Identity:
    """The identity of a dataset; reads all pixels only if they are in memory, and is slow once if they are streamed."""
    images, known = dataset.images, dataset.fingerprints
    if known is None:
        known = images.fingerprints if isinstance(images, Streamed) else fingerprints_of(PIXELS, images)
    return Identity(traits(dataset), zlib.crc32(dataset.labels.tobytes()), known)


def checksum(dataset: Dataset, rows: Int[np.ndarray, "M"]) -> int:
    """CRC-32 of the pixels and labels of some rows."""
    return zlib.crc32(dataset.labels[rows].tobytes(), zlib.crc32(dataset.images[rows].tobytes()))


def difference(before: Identity, now: Identity) -> str | None:
    """How a dataset differs from an earlier one, in words; None if it does not.

    Where the fingerprints cannot be compared, the traits must suffice.
    """
    (count, names, spots), (count_now, names_now, spots_now) = before.traits, now.traits
    if count != count_now:
        return f"{count:,} images, now {count_now:,}"
    if names != names_now:
        listed = [abbreviated(some) or "nothing" for some in (names, names_now)]
        return f"labels named {listed[0]}, now {listed[1]}"
    old, new = before.fingerprints, now.fingerprints
    if old is None or new is None or old.kind != new.kind:
        return "other images or labels" if spots != spots_now else None
    if old.ordered != new.ordered:
        # Sources are in the order of their classes, so images whose labels changed are in another order, too.
        if None in (old.unordered, new.unordered):
            return "other images, other labels or another order"
        if old.unordered == new.unordered:
            return "the same images with other labels or in another order"
    found = ["other labels"] if before.labels != now.labels else []
    if old.ordered != new.ordered:
        found.append("other images")
    if not found and spots != spots_now:  # Where file sizes stand for images, different ones may agree in them.
        found.append("other images")
    return " and ".join(found) or None


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
