"""The images that a call of --mode=sample names: files or folders, cropped and resized as the data of the run were."""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt

from ddpm_jax.config import Config, split_names
from ddpm_jax.data.decode import SUFFIXES, UNREADABLE, CropError, Decoding, decode, decoding_of, size_of
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.urls import local_file
from ddpm_jax.sampling.editing import PixelMask
from ddpm_jax.shapes import Pixels

logger = logging.getLogger(__name__)


def read_images(
    config: Config,
    field: str = "sample.images",
    decoding: Decoding | None = None,
    *,
    most: int | None = None,
    remedy: str | None = None,
) -> Pixels:
    """The images that a field names.

    decoding: None for that of the data; most: only so many of them, the first ones; remedy: for images of another size,
    which are then refused instead of resized.
    """
    decoding = decoding or decoding_of(config.data)
    return np.stack([_read(path, decoding, field, remedy) for path in files_of(config, field)[:most]])


def files_of(config: Config, field: str) -> list[Path]:
    """The files that a field names, and the sorted files of its folders."""
    named = getattr(config.sample, field.removeprefix("sample."))
    if not named:
        raise UserError(
            f"sample.task={config.sample.task!r} needs images; set {field} to a folder or to files separated by commas."
        )
    files: list[Path] = []
    for name in split_names(named, field, is_path):
        path = local_file(name, field)
        files += _images_in(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{field}={named!r} holds no image; expected PNG, JPEG or similar files.")
    return files


def is_path(name: str) -> bool:
    """Whether a text is the path of something, so that its commas separate no names."""
    return os.path.exists(Path(name).expanduser())  # Path.exists raises for long lists, which are no names.


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def read_mask(config: Config) -> PixelMask:
    """sample.mask as 1 where it is white and 0 elsewhere."""
    if not config.sample.mask:
        raise UserError(
            f"sample.task={config.sample.task!r} needs sample.mask, an image that is white where pixels are to change."
        )
    like_images = decoding_of(config.data)
    decoding = dataclasses.replace(like_images, channels=1, pixel_type="uint8", resize="box")
    mask = _read(local_file(config.sample.mask, "sample.mask"), decoding, "sample.mask")
    mask = (mask > 127).astype(np.float32)
    if mask.min() == mask.max():
        colour = "white" if mask.max() else "black"
        raise UserError(
            f"sample.mask={config.sample.mask} is {colour} throughout after cropping; paint white the pixels to "
            "change, black those to keep."
        )
    return mask


def assign_in_turn(config: Config, field: str) -> np.ndarray:
    """For each of sample.count results, the index of its image; they use the images that a field names in turn."""
    count, given = config.sample.count, len(files_of(config, field))
    if count < given:
        left = given - count
        logger.warning("sample.count=%d leaves out the last %d images of %s; raise it to use all.", count, left, field)
    return np.arange(count) % given


def _read(
    path: Path, decoding: Decoding, field: str, remedy: str | None = None
) -> UInt[np.ndarray, "height width channels"]:
    """An image, cropped and resized like the data unless it already has their size; remedy: as of `read_images`."""
    try:
        raw = path.read_bytes()
        size, expected = size_of(raw), decoding.shape[1::-1]
        if size == expected:
            decoding = dataclasses.replace(decoding, crop=())
        elif remedy is not None:
            found, needed = ("x".join(map(str, each)) for each in (size, expected))
            raise UserError(f"{field}: {path} is {found} (width x height); expected {needed}: {remedy}.")
        return decode(raw, decoding)
    except CropError as error:
        raise UserError(f"{field}: {path}: {error}; give a larger image.") from error
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{field}: {path} cannot be read ({reason}); give a PNG, JPEG or similar file.") from error
