"""Fingerprints of the images that training reads, so that a run does not resume with others.

They cover all pixels ("pixels"), which the cache sums up when it decodes them; or, for images that are decoded at every
use, what the source says of each file without reading it, such as its size.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PIXELS = "pixels"


class Fingerprints(NamedTuple):
    """Checksums of the fingerprints of a sequence of images."""

    kind: str
    """Name of the property that they cover; only fingerprints of one kind can be compared."""
    ordered: int
    """CRC-32 of the images, one after another."""
    unordered: int | None
    """Sum of the CRC-32 of each image, which their order does not change; None if an older version left it out."""


def fingerprints_of(kind: str, images: Iterable[bytes | np.ndarray]) -> Fingerprints:
    """The fingerprints of images, each as bytes or as a contiguous array."""
    ordered, unordered = 0, 0
    for image in images:
        ordered, unordered = zlib.crc32(image, ordered), unordered + zlib.crc32(image)
    return Fingerprints(kind, ordered, unordered)
