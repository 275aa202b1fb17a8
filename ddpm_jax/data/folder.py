"""A folder of image files, however nested: found, decoded, cropped to a centred square and resized, once.

The first level of folders gives the classes. `cache.py` keeps the result.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ddpm_jax.data.cache import Fingerprint, cached
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.errors import UserError
from ddpm_jax.reporting.progress import progress

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})
MAX_UNREADABLE = 0.01
GROUND = (255, 255, 255)  # What shows through transparent pixels.

logger = logging.getLogger(__name__)


def load_folder(path: str | None, image_size: int, channels: int, cache: Path) -> Dataset:
    """All readable images below `path` as uint8 [N, image_size, image_size, channels], sorted by name.

    Unreadable files are named in the log and left out; more than 1% of them is an error.
    """
    if not path:
        raise UserError("data.path is not set; give a folder of images, such as --config.data.path=photos/.")
    folder = Path(path).expanduser()
    files = list_images(folder)
    classes = sorted({_class_of(folder, file) for file in files})
    fingerprint = Fingerprint(
        source="folder",
        files=tuple((str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files),
        image_size=image_size,
        channels=channels,
    )

    def decode() -> Iterator[tuple[UInt8[np.ndarray, "height width channels"], int]]:
        return _decode(folder, files, image_size, channels, classes)

    shape = (len(files), image_size, image_size, channels)
    images, labels = cached(cache, fingerprint, shape, decode)
    return Dataset(images, labels, tuple(classes))


def list_images(folder: Path) -> list[Path]:
    """Image files below a folder in order of their names; hidden files and folders are passed over."""
    if not folder.is_dir():
        raise UserError(f"data.path={folder} is not a folder; give one that holds {_kinds()} files.")
    found = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    files = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if not files:
        raise UserError(f"data.path={folder} holds no image; expected {_kinds()} files in it or in its folders.")
    return sorted(files)


def read_image(file: Path, image_size: int, channels: int) -> UInt8[np.ndarray, "height width channels"]:
    """One image file, upright, on white where transparent, cropped to its centre and resized with antialiasing."""
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*GROUND, 255)), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (image_size, image_size):
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
        return np.asarray(image, np.uint8).reshape(image_size, image_size, channels)


def _decode(
    folder: Path, files: list[Path], image_size: int, channels: int, classes: list[str]
) -> Iterator[tuple[UInt8[np.ndarray, "height width channels"], int]]:
    number = {name: i for i, name in enumerate(classes)}
    unreadable: list[str] = []

    def read(file: Path) -> UInt8[np.ndarray, "height width channels"] | None:
        try:
            return read_image(file, image_size, channels)
        # What Pillow raises for files that are damaged, of another kind, or decompression bombs.
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            unreadable.append(f"{file.relative_to(folder)} ({error})")
            return None

    with ThreadPoolExecutor() as pool:
        decoded = zip(files, pool.map(read, files), strict=True)
        for file, image in progress(decoded, f"Reading {folder}", total=len(files)):
            if image is not None:
                yield image, number[_class_of(folder, file)]
    if unreadable:
        _report_unreadable(folder, unreadable, len(files))


def _report_unreadable(folder: Path, unreadable: list[str], total: int) -> None:
    shown = "; ".join(sorted(unreadable)[:5]) + (f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else "")
    if len(unreadable) > MAX_UNREADABLE * total:
        raise UserError(
            f"data.path={folder}: {len(unreadable)} of {total} images cannot be read, more than the 1% that is let "
            f"pass; mend or remove {shown}."
        )
    logger.warning("%d of %d images cannot be read and are left out: %s", len(unreadable), total, shown)


def _class_of(folder: Path, file: Path) -> str:
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


def _kinds() -> str:
    return "PNG, JPEG, BMP, GIF or WebP"
