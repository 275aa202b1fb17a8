"""A Collection: the images of a source before anything is decoded. Every source returns one.

source -> Collection -> select.py (which images) -> cache.py or stream.py (their pixels) -> Dataset
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ddpm_jax.data.annotations import Annotations
from ddpm_jax.data.decode import Raw


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Collection:
    """Images that can be read one at a time, in any order, by any process."""

    origin: str
    """The source as error messages name it, such as "data.path=photos"."""
    names: Sequence[str]
    """Name of each image, for messages."""
    read: Callable[[int], Raw]
    """Returns the bytes or pixels of an image by its number; picklable. Raises one of decode.UNREADABLE."""
    stamp: Callable[[int], str]
    """Returns a string that changes whenever the image does, by its number."""
    fingerprint: Callable[[int], str]
    """Returns the size or checksum of an image by its number, without reading it; a copy elsewhere has the same."""
    fingerprint_kind: str
    """Name of the property that `fingerprint` returns."""
    annotations: Annotations
    scan: Callable[[], Annotations] | None = None
    """Reads the annotations from all images, which is slow and so only called when they are needed."""
    shared: bool = False
    """Whether `read` is fast and uses memory of this process, so that threads decode better than processes."""
    decoded: UInt8[np.ndarray, "N height width channels"] | None = None
    """All pixels, if they are in memory."""
    left_out: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """Names of the source's files that are not among its images, by reason."""

    def __post_init__(self) -> None:
        assert len(self.annotations) == len(self.names)


class LazyNames(Sequence[str]):
    """Names of images, for messages; each is computed only when needed, since there may be millions."""

    def __init__(self, count: int, name_of: Callable[[int], str]) -> None:
        self._count, self._name_of = count, name_of

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> str:
        return self._name_of(number)


def in_memory(
    origin: str, images: UInt8[np.ndarray, "N height width channels"], annotations: Annotations
) -> Collection:
    """A collection whose pixels are in memory."""
    names = [f"image {i}" for i in range(len(images))]
    return Collection(
        origin=origin,
        names=names,
        read=images.__getitem__,
        stamp=str,
        fingerprint=str,
        fingerprint_kind="numbers",
        annotations=annotations,
        decoded=images,
    )
