"""Images that are decoded each time they are needed: for sets that do not fit on a disk once they are decoded.

They are indexed like the memory-mapped array of the cache, so batches are the same either way.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import UNREADABLE, CropError, Decoding, decode
from ddpm_jax.data.prepare import read_with_retry, usable_cpus
from ddpm_jax.errors import UserError, printable


class Streamed:
    """Rows of a collection, as if they were an array uint8 [N, size, size, channels]."""

    def __init__(self, collection: Collection, rows: Int[np.ndarray, "N"], how: Decoding) -> None:
        self._collection, self._rows, self._how = collection, rows, how
        self._pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
        self.shape = (len(rows), how.image_size, how.image_size, how.channels)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Int[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape size size channels"]:
        """The pixels of some rows; UserError if one of them cannot be read."""
        index = np.asarray(index)
        pixels = np.empty((index.size, *self.shape[1:]), np.uint8)
        for place, image in enumerate(self._pool.map(self._decode, index.ravel().tolist())):
            pixels[place] = image
        return pixels.reshape(*index.shape, *self.shape[1:])

    def _decode(self, place: int) -> UInt8[np.ndarray, "size size channels"]:
        row = int(self._rows[place])
        try:
            return decode(read_with_retry(self._collection.read, row), self._how)
        except CropError as error:
            name = printable(self._collection.names[row])
            raise UserError(f"{self._collection.origin}: {name}: {error}; choose a smaller data.crop.") from error
        except UNREADABLE as error:
            raise UserError(
                f"{self._collection.origin}: {printable(self._collection.names[row])} cannot be read ({error}); mend "
                "or remove it, or set data.stream=False, which finds such images before training and leaves them out."
            ) from error
