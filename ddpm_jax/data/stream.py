"""Images that are decoded every time they are used, for sets that would not fit on disk once decoded.

They are indexed like the cache's memory-mapped array, so batches are the same either way.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from jaxtyping import Int, UInt

from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import UNREADABLE, CropError, Decoding, decode
from ddpm_jax.data.fingerprints import Fingerprints, fingerprints_of
from ddpm_jax.data.prepare import ask_of_each, read_with_retry
from ddpm_jax.errors import UserError, printable
from ddpm_jax.runtime.cpu import usable_cpus


class Streamed:
    """Rows of a collection, indexed like an array of pixels [N, height, width, channels]."""

    def __init__(self, collection: Collection, rows: Int[np.ndarray, "N"], how: Decoding) -> None:
        self._collection, self._rows, self._how = collection, rows, how
        self._pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
        self.shape, self.dtype = (len(rows), *how.shape), np.dtype(how.pixel_type)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Int[np.ndarray, "*shape"]) -> UInt[np.ndarray, "*shape height width channels"]:
        """The pixels of some rows; UserError for an image that cannot be read."""
        index = np.asarray(index)
        pixels = np.empty((index.size, *self.shape[1:]), self.dtype)
        for place, image in enumerate(self._pool.map(self._decode, index.ravel().tolist())):
            pixels[place] = image
        return pixels.reshape(*index.shape, *self.shape[1:])

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Those that the source has of the rows without reading them; asked for once, with progress."""
        source = self._collection
        found = ask_of_each(source.fingerprint, self._rows, f"Comparing {source.origin}")
        return fingerprints_of(source.fingerprint_kind, (text.encode() for text in found))

    def _decode(self, place: int) -> UInt[np.ndarray, "height width channels"]:
        row = int(self._rows[place])
        try:
            return decode(read_with_retry(self._collection.read, row), self._how)
        except UNREADABLE as error:
            name = f"{self._collection.origin}: {printable(self._collection.names[row])}"
            if isinstance(error, CropError):
                raise UserError(f"{name}: {error}; {error.remedy}.") from error
            raise UserError(
                f"{name} cannot be read ({error}); fix or remove it, or set data.stream=False, which finds such images "
                "before training and leaves them out."
            ) from error
