"""Images appended to a file batch by batch, so that memory does not grow and an interrupted call can go on."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


class PixelFile:
    """An array uint8 [N, height, width, channels] that grows at its end; its length tells how many images are there."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        """shape: of an image. What an interrupted write left of an image is cut off."""
        self._path, self._shape, self._bytes = path, shape, int(np.prod(shape))
        with path.open("ab") as file:
            self.count = file.tell() // self._bytes
            file.truncate(self.count * self._bytes)

    def append(self, images: UInt8[np.ndarray, "batch height width channels"]) -> None:
        """Adds images at the end."""
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(images).tobytes())
            file.flush()
            os.fsync(file.fileno())  # Else after a power cut the length might be right and the pixels not.
        self.count += len(images)

    def truncate(self, count: int) -> None:
        """Keeps only the first images."""
        with self._path.open("ab") as file:
            file.truncate(count * self._bytes)
        self.count = count

    def images(self) -> UInt8[np.ndarray, "N height width channels"]:
        """All images, memory-mapped."""
        return np.memmap(self._path, np.uint8, "r", shape=(self.count, *self._shape))
