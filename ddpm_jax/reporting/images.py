"""Pictures of image arrays: grids, denoising strips and animations, as uint8 arrays or files.

They are for people: alpha is shown over a checkerboard, and 16 bits as 8. Only `save_png` of single images keeps both.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image, ImageDraw

from ddpm_jax.shapes import Pixels

Picture = UInt8[np.ndarray, "picture_height picture_width colours"]
"""Grey or RGB."""
MIN_SHOWN = 64
"""Height in pixels below which images are enlarged by a whole factor, so that small images are visible."""
GAP = 2
BACKGROUND = 255
CAPTION_HEIGHT = 14
CHECKERS = (204, 255)
"""Grey levels of the squares behind transparent pixels, of which eight fit on the shorter side of an image."""


def as_shown(images: UInt[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "..."]:
    """Images [..., height, width, channels] for people: grey or RGB of 8 bits, transparent ones over a checkerboard."""
    if images.dtype == np.uint16:
        images = np.round(images / 257).astype(np.uint8)
    height, width, channels = images.shape[-3:]
    if channels in (1, 3):
        return images
    y, x = (np.arange(side) * 8 // min(height, width) for side in (height, width))
    board = np.where((y[:, None] + x) % 2, *CHECKERS)[..., None]
    alpha = images[..., -1:] / np.float32(255)
    return np.round(alpha * images[..., :-1] + (1 - alpha) * board).astype(np.uint8)


def grid(images: Pixels, columns: int | None = None) -> Picture:
    """Images in rows of `columns` (by default about as many as rows), with gaps between them."""
    images = as_shown(np.asarray(images))
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    factor = max(1, math.ceil(MIN_SHOWN / height))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    cell_height, cell_width = height * factor + GAP, width * factor + GAP
    picture = np.full((rows * cell_height + GAP, columns * cell_width + GAP, channels), BACKGROUND, np.uint8)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * cell_height, GAP + i % columns * cell_width
        picture[top : top + height * factor, left : left + width * factor] = image
    return picture


def stacked_grid(*sets: Pixels, columns: int = 10) -> Picture:
    """Sets of equally many images: rows of up to `columns` of the first, each above the same images of the others."""
    columns = min(len(sets[0]), columns)
    padding, white = [(0, -len(sets[0]) % columns), (0, 0), (0, 0), (0, 0)], np.iinfo(sets[0].dtype).max
    rows = [np.pad(np.asarray(images), padding, constant_values=white) for images in sets]
    rows = [images.reshape(-1, columns, *images.shape[1:]) for images in rows]
    return grid(np.stack(rows, axis=1).reshape(-1, *rows[0].shape[2:]), columns=columns)


def strip(frames: UInt[np.ndarray, "frames batch height width channels"], columns: int) -> Picture:
    """One row for each image: `columns` evenly spaced frames, from noise to image."""
    return grid(evenly_spaced(frames, columns).swapaxes(0, 1).reshape(-1, *frames.shape[2:]), columns)


def evenly_spaced(frames: np.ndarray, count: int) -> np.ndarray:
    """`count` of the frames, including the first and the last."""
    return frames[np.round(np.linspace(0, len(frames) - 1, count)).astype(int)]


def save_png(picture: Picture | UInt[np.ndarray, "height width channels"], path: Path) -> None:
    """Writes a picture, or an image with its alpha and its 8 or 16 bits; one channel is saved as greyscale."""
    to_image(picture).save(path)


def save_gif(pictures: Sequence[Picture], path: Path, *, milliseconds: int = 80, hold: int = 1500) -> None:
    """Writes a looping animation that shows its last picture for `hold` milliseconds."""
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    first, *rest = (to_image(picture) for picture in pictures)
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def captioned_rows(rows: Sequence[tuple[str, Pixels]]) -> Picture:
    """Rows of images, each below its name."""
    parts = []
    for name, images in rows:
        picture = grid(images, columns=len(images))
        line = Image.new("L", (picture.shape[1], CAPTION_HEIGHT), BACKGROUND)
        ImageDraw.Draw(line).text((GAP, 1), name, fill=0)
        parts += [np.asarray(line)[..., None].repeat(picture.shape[2], axis=2), picture]
    return np.concatenate(parts)


def grey_levels_apart(a: Pixels, b: Pixels) -> float:
    """The root mean square difference of two sets of images, in units of 1/255 of the range at any depth."""
    unit = np.iinfo(a.dtype).max / 255
    return float(np.sqrt(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))) / unit


def to_image(picture: Picture | UInt[np.ndarray, "height width channels"]) -> Image.Image:
    """The picture as a Pillow image, which notebooks display; one channel is greyscale."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
