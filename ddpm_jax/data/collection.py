"""A Collection: the images of a source before anything is decoded. Every source returns one.

source -> Collection -> select.py: which of its images -> cache.py or stream.py: their pixels -> Dataset
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from ddpm_jax.data.annotations import Annotations
from ddpm_jax.data.decode import Raw


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """Images that can be read one at a time, in any order, by any process."""

    origin: str
    """Their source, for messages, such as "data.path=photos"."""
    names: Sequence[str]
    """Name of each image, for messages."""
    read: Callable[[int], Raw]
    """The bytes or pixels of an image, by its number; can be pickled. Raises one of decode.UNREADABLE."""
    stamp: Callable[[int], str]
    """Text that changes when the image does, by its number."""
    annotations: Annotations
    scan: Callable[[], Annotations] | None = None
    """Reads better annotations from the images themselves, which takes long: only where they are needed."""
    shared: bool = False
    """Whether `read` needs this process's memory and is quick, so that threads decode better than processes."""
    decoded: UInt8[np.ndarray, "N height width channels"] | None = None
    """All pixels, where they are in memory and need no decoding."""

    def __post_init__(self) -> None:
        assert len(self.annotations) == len(self.names)


def in_memory(
    origin: str, images: UInt8[np.ndarray, "N height width channels"], annotations: Annotations
) -> Collection:
    """A collection whose pixels are there already."""
    names = [f"image {i}" for i in range(len(images))]
    return Collection(origin, names, images.__getitem__, str, annotations, decoded=images)
