"""Images on their way to disk, batch by batch, so that memory does not grow and a broken-off call can go on."""

import os
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

CHUNK = 2**24
"""Bytes that are copied at once."""


class PixelFile:
    """An array uint8 [N, height, width, channels] that grows at its end; its length tells how far one has come."""

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

    def keep(self, count: int) -> None:
        """Cuts off all but the first images."""
        with self._path.open("ab") as file:
            file.truncate(count * self._bytes)
        self.count = count

    def delete(self) -> None:
        """Removes the file."""
        self._path.unlink()

    def images(self) -> UInt8[np.ndarray, "N height width channels"]:
        """All images, memory-mapped."""
        return np.memmap(self._path, np.uint8, "r", shape=(self.count, *self._shape))

    def save_npz(self, path: Path) -> None:
        """Writes what numpy.savez(path, images) would, without holding the images in memory."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self._shape)}
        with (
            zipfile.ZipFile(path, "w") as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as packed,
            self._path.open("rb") as file,
        ):
            np.lib.format.write_array_header_1_0(packed, header)
            while chunk := file.read(CHUNK):
                packed.write(chunk)
