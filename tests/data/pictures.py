"""Made-up image files for the tests of the data."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.config.sections import Data
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import Decoding, decode

COLOURS = [(200, 30, 40), (20, 180, 60), (40, 60, 220), (230, 210, 20)]


def noise(draw: np.random.Generator, height: int = 10, width: int = 14, channels: int = 3) -> np.ndarray:
    return draw.integers(0, 256, (height, width, channels), np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def data(**options) -> Data:
    return Data(**{"image_size": 8, "channels": 3, **options})


def pixels_of(collection: Collection, image_size: int = 8, channels: int = 3) -> np.ndarray:
    how = Decoding(image_size, channels)
    return np.stack([decode(collection.read(i), how) for i in range(len(collection.names))])
