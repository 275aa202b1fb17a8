"""Images appended to a file batch by batch, so that memory does not grow and an interrupted call can resume."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt

from ddpm_jax.runtime.files import with_path


class PixelFile:
    """A growing array of pixels [N, height, width, channels] in a file, whose length determines N."""

    def __init__(self, path: Path, shape: tuple[int, int, int], pixel_type: str = "uint8") -> None:
        """shape: of one image. An incomplete image of an interrupted write is cut off."""
        self._path, self._shape, self._type = path, shape, np.dtype(pixel_type)
        self._bytes = int(np.prod(shape)) * self._type.itemsize
        with path.open("ab") as file:
            self.count = file.tell() // self._bytes
            file.truncate(self.count * self._bytes)

    def append(self, images: UInt[np.ndarray, "batch height width channels"]) -> None:
        """Adds images at the end."""
        with with_path(self._path), self._path.open("ab") as file:
            file.write(np.ascontiguousarray(images).tobytes())
            file.flush()
            os.fsync(file.fileno())  # Otherwise a power cut could leave the right length with wrong pixels.
        self.count += len(images)

    def truncate(self, count: int) -> None:
        """Keeps only the first images."""
        with self._path.open("ab") as file:
            file.truncate(count * self._bytes)
        self.count = count

    def images(self) -> UInt[np.ndarray, "N height width channels"]:
        """All images, memory-mapped."""
        return np.memmap(self._path, self._type, "r", shape=(self.count, *self._shape))
