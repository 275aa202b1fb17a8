"""Pictures from arrays: grids, denoising strips and animations, as uint8 arrays or files."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from ddpm_jax.shapes import Pixels

Picture = UInt8[np.ndarray, "picture_height picture_width channels"]
MIN_SHOWN = 64  # Pixels; smaller images are enlarged by whole factors, so that a grid of digits can be seen.
GAP = 2
GROUND = 255
CAPTION_HEIGHT = 14


def grid(images: Pixels, columns: int | None = None) -> Picture:
    """Images in rows of `columns` (as square as can be, by default), with a gap between them."""
    images = np.asarray(images)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    factor = max(1, math.ceil(MIN_SHOWN / height))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    cell_height, cell_width = height * factor + GAP, width * factor + GAP
    picture = np.full((rows * cell_height + GAP, columns * cell_width + GAP, channels), GROUND, np.uint8)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * cell_height, GAP + i % columns * cell_width
        picture[top : top + height * factor, left : left + width * factor] = image
    return picture


def strip(frames: UInt8[np.ndarray, "frames batch height width channels"], columns: int) -> Picture:
    """One row for each image: `columns` evenly spaced frames, from noise to image."""
    return grid(evenly_spaced(frames, columns).swapaxes(0, 1).reshape(-1, *frames.shape[2:]), columns)


def evenly_spaced(frames: np.ndarray, count: int) -> np.ndarray:
    """`count` of the frames, the first and the last among them."""
    return frames[np.round(np.linspace(0, len(frames) - 1, count)).astype(int)]


def save_png(picture: Picture, path: Path) -> None:
    """Writes a picture; one channel is saved as greyscale."""
    to_image(picture).save(path)


def save_gif(pictures: Sequence[Picture], path: Path, *, milliseconds: int = 80, hold: int = 1500) -> None:
    """Writes an endless animation whose last picture stays for `hold` milliseconds."""
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    first, *rest = (to_image(picture) for picture in pictures)
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def caption(picture: Picture, text: str) -> UInt8[np.ndarray, "taller picture_width channels"]:
    """The picture with a line of text above it."""
    height, width, channels = picture.shape
    line = Image.new("L", (width, CAPTION_HEIGHT), GROUND)
    ImageDraw.Draw(line).text((GAP, 1), text, fill=0)
    above = np.asarray(line)[..., None].repeat(channels, axis=2)
    return np.concatenate([above, picture])


def captioned_rows(rows: Sequence[tuple[str, Pixels]]) -> Picture:
    """Images below their names, a row each."""
    return np.concatenate([caption(grid(row, columns=len(row)), name) for name, row in rows])


def grey_levels_apart(a: Pixels, b: Pixels) -> float:
    """The root mean square of the difference."""
    return float(np.sqrt(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)))


def to_image(picture: Picture) -> Image.Image:
    """For Pillow, and for notebooks, which show it; one channel is grey."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
