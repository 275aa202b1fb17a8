"""Checksums of the images that training reads, so that a run does not resume with others.

They cover all pixels ("pixels"), which the cache sums up when it decodes them; or, for images that are decoded at every
use, what the source says of each file without reading it, such as its size.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PIXELS = "pixels"


class Contents(NamedTuple):
    """Checksums of a sequence of images."""

    basis: str
    """What they cover; only checksums of one basis can be compared."""
    ordered: int
    """CRC-32 of the images, one after another."""
    unordered: int
    """Sum of the CRC-32 of each image, which their order does not change."""


def contents_of(basis: str, images: Iterable[bytes | np.ndarray]) -> Contents:
    """The checksums of images, each as bytes or as a contiguous array."""
    ordered, unordered = 0, 0
    for image in images:
        ordered, unordered = zlib.crc32(image, ordered), unordered + zlib.crc32(image)
    return Contents(basis, ordered, unordered)
