"""Synthetic image files and configurations for the tests of the data."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.config import Config, config_of
from ddpm_jax.config.sections import Data
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import Decoding, decode
from ddpm_jax.data.sources.digits import load_digits

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


def write_digits(folder: Path, count: int) -> Path:
    """Writes some digits as PNG files into a folder, which it makes and returns."""
    for i, image in enumerate(load_digits(Data()).decoded[:count]):
        write(folder / f"{i}.png", encoded(image[..., 0]))
    return folder


def zipped(folder: Path, root: str = "") -> Path:
    """Writes a zip of the folder beside it; root: a folder inside the zip to put the files in."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, Path(root) / file.relative_to(folder))
    return path


def data(**options) -> Data:
    return Data(**{"image_size": 8, "channels": 3, **options})


def config(model: dict | None = None, **options) -> Config:
    """A configuration of a toy model with these options of data, whose cache is beside data.path."""
    cache = {"cache": str(Path(options["path"]).parent / "cache")} if "path" in options else {}
    toy = {"multipliers": [1, 1], "attention_resolutions": []}
    return config_of({"data": {"image_size": 8} | cache | options, "model": toy | (model or {})})


def pixels_of(collection: Collection, image_size: int = 8, channels: int = 3) -> np.ndarray:
    how = Decoding(image_size, channels)
    return np.stack([decode(collection.read(i), how) for i in range(len(collection.names))])
