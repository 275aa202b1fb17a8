"""Decoding of an image file or array into the uint8 or uint16 pixels that the network sees.

bytes -> upright -> 8 bits per channel, or grey of 16 -> background behind transparent pixels, unless alpha is a channel
-> grey or RGB -> crop -> resize
"""

import dataclasses
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt, UInt8, UInt16
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from ddpm_jax.config.fields import sides
from ddpm_jax.config.sections import Data

Raw = bytes | UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width _"] | UInt16[np.ndarray, "..."]
"""A file, or pixels; those of 16 bits have one channel."""
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's names of data.channels."""
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
}
"""Formats that Pillow may read, whatever a file's suffix, and their suffixes; some of Pillow's others run external
programs (EPS), are known by no signature (TGA), or are rarely tested."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
FORMAT_NAMES = "PNG, JPEG, BMP, GIF, WebP, TIFF, PPM, JPEG 2000 or AVIF"
HEIC = re.compile(rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL)
"""First bytes of photos of iPhones, often renamed to .jpg."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned upright, by its orientation tag (EXIF 2.3, 4.6.4)."""
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Exceptions of `decode` for files that are damaged, not images, or far too large."""
_FILTERING = threading.Lock()
"""Warning filters are global to the process, and several threads decode."""


class CropError(ValueError):
    """An image is smaller than data.crop; remedy: crops that fit."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.remedy = remedy

    def __str__(self) -> str:
        return self.args[0]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The fields of config.data that decide how an image becomes pixels."""

    image_size: int | tuple[int, int]
    channels: int
    crop: tuple[int, ...] = ()
    resize: str = "lanczos"
    background: tuple[int, ...] = (255, 255, 255)
    pixel_type: str = dataclasses.field(default="uint8", repr=False)
    """uint8, or uint16 for pixels of one channel."""

    @property
    def key(self) -> str:
        """A string that changes with the pixels; for uint8, the one of older versions, whose cached images stay."""
        return repr(self) + ("" if self.pixel_type == Decoding.pixel_type else self.pixel_type)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels."""
        return *sides(self.image_size), self.channels


def decoding_of(data: Data) -> Decoding:
    """The decoding of training images and of images to edit."""
    return Decoding(data.image_size, data.channels, data.crop, data.resize, data.background, data.pixel_type)


def decode(raw: Raw, how: Decoding) -> UInt[np.ndarray, "new_height new_width _"]:
    """The pixels of an image file's bytes or of an array; raises one of UNREADABLE for anything but a sound image."""
    image = _deep(raw, how.background) if how.pixel_type == "uint16" else _flat(raw, how.channels, how.background)
    height, width, _ = how.shape
    image = image.crop(crop_box(image.size, how.crop, (height, width)))
    if image.size != (width, height):
        image = image.resize((width, height), FILTERS[how.resize])
    pixels = np.asarray(image)
    if image.mode == "F":  # Filters such as Lanczos overshoot.
        pixels = np.round(np.clip(pixels, 0, 65535))
    return pixels.astype(how.pixel_type).reshape(how.shape)


def decode_whole(raw: Raw) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels in colour, neither cropped nor resized; raises one of UNREADABLE."""
    return np.asarray(_flat(raw, 3, Decoding.background), np.uint8)


def widened(pixels: UInt8[np.ndarray, "..."]) -> UInt16[np.ndarray, "..."]:
    """Pixels of 8 bits at 16 bits: 255 becomes 65535."""
    return pixels.astype(np.uint16) * np.uint16(257)


def _flat(raw: Raw, channels: int, background: tuple[int, ...]) -> Image.Image:
    """Upright, 8 bits per channel, in grey or colour, with alpha if it is one of the channels."""
    image = _open(raw)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(_sixteen_bit(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels in (2, 4):
            return image.convert(MODES[channels])
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image.convert("L" if channels < 3 else "RGB").convert(MODES[channels])


def _deep(raw: Raw, background: tuple[int, ...]) -> Image.Image:
    """Upright, grey of 16 bits as floats, which Pillow resizes without a loss of depth."""
    image = _open(raw)
    levels = _sixteen_bit(image) if image.mode.startswith("I") else widened(np.asarray(_flat(raw, 1, background)))
    return Image.fromarray(levels.astype(np.float32))


def size_of(raw: Raw) -> tuple[int, int]:
    """Width and height of the upright image; raises one of UNREADABLE."""
    return _open(raw).size


def crop_box(
    size: tuple[int, int], crop: tuple[int, ...], shape: tuple[int, int] = (1, 1)
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of data.crop in an image of this width and height; raises CropError.

    shape: height and width of the shape of the largest centred box, which () stands for.
    """
    width, height = size
    if len(crop) == 4:
        left, top, right, bottom = crop
        needed = right, bottom
    else:
        needed = sides(crop if len(crop) == 2 else crop[0])[::-1] if crop else largest_box(size, shape)
        left, top = (width - needed[0]) // 2, (height - needed[1]) // 2
        right, bottom = left + needed[0], top + needed[1]
    if width < needed[0] or height < needed[1]:
        raise CropError(
            f"data.crop={crop} needs images of at least {needed[0]}x{needed[1]} (width x height), got {width}x{height}",
            f"set data.crop=(), the largest centred box{_scaled(size, crop, shape)}",
        )
    return left, top, right, bottom


def _scaled(size: tuple[int, int], crop: tuple[int, ...], shape: tuple[int, int]) -> str:
    """A suggestion of the same crop for smaller copies of the images for which it was made, in whose middle it lies."""
    if len(crop) != 4:
        return ""
    left, top, right, bottom = crop
    scale = min(size[0] / (left + right), size[1] / bottom)
    scaled = max(1, round(scale * (right - left))), max(1, round(scale * (bottom - top)))
    width, height = largest_box(scaled, shape)
    left, top = (size[0] - width) // 2, min(int(scale * top), size[1] - height)
    return f", or data.crop={(left, top, left + width, top + height)}, the same one scaled" if scale < 1 else ""


def largest_box(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the largest box of a shape (height, width) in an image of this width and height."""
    width, height = size
    if width * shape[0] > height * shape[1]:  # Wider than the shape.
        return max(1, round(height * shape[1] / shape[0])), height
    return width, max(1, round(width * shape[0] / shape[1]))


def _open(raw: Raw) -> Image.Image:
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.shape[2:] == (1,) else raw)
    if not raw:
        raise ValueError("the file is empty")
    try:
        with _without_warnings():  # Bombs of up to twice Pillow's limit, of which it only warns, are refused below.
            image = Image.open(io.BytesIO(raw), formats=tuple(FORMATS))
    except UnidentifiedImageError as error:
        if HEIC.match(raw):
            raise ValueError("HEIC cannot be read; convert it to JPEG or PNG") from error
        raise ValueError(f"not a {FORMAT_NAMES} image") from error
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{pixels / 1e6:.0f} megapixels, more than Pillow's limit of {Image.MAX_IMAGE_PIXELS / 1e6:.0f}"
        )
    _check_range(image)
    image.load()
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignores Pillow's warnings, such as those of odd metadata."""
    with _FILTERING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _orientation(image: Image.Image) -> Any:
    """The orientation tag of a loaded image; None without one, or where the metadata are damaged.

    ImageOps.exif_transpose refuses such images, also where it cannot write the other tags of a turned one.
    """
    try:
        with _without_warnings():
            return image.getexif().get(ExifTags.Base.Orientation)
    except UNREADABLE:
        return None


def _check_range(image: Image.Image) -> None:
    """Raises ValueError for grey whose black and white are unknown; for mode I, formats but TIFF use 16 bits of 32."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no standard range")
    if isinstance(image, TiffImageFile) and image.mode.startswith("I"):
        bits = image.tag_v2.get(BITSPERSAMPLE)
        if image.mode == "I" or bits != (16,):
            raise ValueError("grey of neither 8 nor unsigned 16 bits has no standard range")


def _sixteen_bit(image: Image.Image) -> UInt16[np.ndarray, "height width"]:
    """The levels of 16-bit grey, which Pillow's own conversion would clip."""
    return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
