"""Images that are decoded each time they are needed: for sets that do not fit on a disk once they are decoded.

They are indexed like the memory-mapped array of the cache, so batches are the same either way.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import UNREADABLE, Decoding, decode
from ddpm_jax.data.prepare import MAX_UNREADABLE, cores
from ddpm_jax.errors import UserError, printable

logger = logging.getLogger(__name__)


class Streamed:
    """Rows of a collection, as if they were an array uint8 [N, size, size, channels]."""

    def __init__(self, collection: Collection, rows: Int[np.ndarray, "N"], how: Decoding) -> None:
        self._collection, self._rows, self._how = collection, rows, how
        self._unreadable: set[int] = set()
        self._noting = threading.Lock()
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="decode")
        self.shape = (len(rows), how.image_size, how.image_size, how.channels)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Int[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape size size channels"]:
        """The pixels of some rows; in place of an image that cannot be read comes the next that can."""
        index = np.asarray(index)
        pixels = np.empty((index.size, *self.shape[1:]), np.uint8)
        for place, image in enumerate(self._pool.map(self._decode, index.ravel().tolist())):
            pixels[place] = image
        return pixels.reshape(*index.shape, *self.shape[1:])

    def _decode(self, place: int) -> UInt8[np.ndarray, "size size channels"]:
        while True:
            try:
                return decode(self._collection.read(int(self._rows[place])), self._how)
            except UNREADABLE as error:
                self._note(place, error)
                place = (place + 1) % len(self)

    def _note(self, place: int, error: Exception) -> None:
        with self._noting:
            if place in self._unreadable:
                return
            self._unreadable.add(place)
        name = printable(self._collection.names[int(self._rows[place])])
        logger.warning("%s cannot be read, and the next image takes its place: %s", name, error)
        if len(self._unreadable) > MAX_UNREADABLE * len(self):
            raise UserError(
                f"{self._collection.origin}: {len(self._unreadable)} of {len(self)} images cannot be read, more than "
                f"the 1% that is let pass; the last was {name} ({error})."
            )
