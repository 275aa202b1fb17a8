"""One image file or array, of whatever kind, as the uint8 pixels that a network sees.

bytes -> upright -> 8 bits a channel -> on a background where transparent -> grey or RGB -> crop -> resize
"""

import dataclasses
import io
import struct
import threading
import warnings
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ddpm_jax.config.sections import Data

Raw = bytes | UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width _"]
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""What Pillow may take a file for; it knows others that run programs (EPS) or are rarely tested."""
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What reading raises for files that are damaged, of another kind, or far too large."""
_FILTERING = threading.Lock()
"""Warning filters belong to the whole process, and several threads decode."""


class CropError(ValueError):
    """An image is smaller than data.crop."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How images become pixels; the fields of the same names in config.data."""

    image_size: int
    channels: int
    crop: tuple[int, ...] = ()
    resize: str = "lanczos"
    background: tuple[int, ...] = (255, 255, 255)


def decoding_of(data: Data) -> Decoding:
    """How a configuration wants its images, those that it trains on and those that sampling is given."""
    return Decoding(data.image_size, data.channels, data.crop, data.resize, data.background)


def decode(raw: Raw, how: Decoding) -> UInt8[np.ndarray, "size size _"]:
    """The pixels of an image file's bytes or of an array; raises one of UNREADABLE for what is no sound image."""
    image = _flat(raw, how.channels, how.background)
    image = image.crop(crop_box(image.size, how.crop))
    if image.size != (how.image_size, how.image_size):
        image = image.resize((how.image_size, how.image_size), FILTERS[how.resize])
    return np.asarray(image, np.uint8).reshape(how.image_size, how.image_size, how.channels)


def decode_whole(raw: Raw) -> UInt8[np.ndarray, "height width 3"]:
    """The same in colour, neither cropped nor resized."""
    return np.asarray(_flat(raw, 3, Decoding.background), np.uint8)


def _flat(raw: Raw, channels: int, background: tuple[int, ...]) -> Image.Image:
    """Upright, 8 bits a channel, nothing transparent, in grey or colour."""
    image = _open(raw)
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image.convert("L" if channels == 1 else "RGB")


def size_of(raw: Raw) -> tuple[int, int]:
    """Width and height of an image that stands upright; raises as `decode` does."""
    return _open(raw).size


def crop_box(size: tuple[int, int], crop: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of config.data.crop in an image of this width and height; raises CropError."""
    width, height = size
    if len(crop) == 4:
        left, top, right, bottom = crop
        needed = right, bottom
    else:
        side = crop[0] if crop else min(size)
        left, top = (width - side) // 2, (height - side) // 2
        right, bottom = left + side, top + side
        needed = side, side
    if width < needed[0] or height < needed[1]:
        raise CropError(f"data.crop={crop} needs images of at least {needed[0]}x{needed[1]}, got {width}x{height}")
    return left, top, right, bottom


def _open(raw: Raw) -> Image.Image:
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.shape[2:] == (1,) else raw)
    if not raw:
        raise ValueError("the file is empty")
    try:
        # Up to twice its limit, Pillow only warns of a decompression bomb; it is refused below.
        with _FILTERING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(raw), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("it is no PNG, JPEG, BMP, GIF or WebP image") from error
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{pixels / 1e6:.0f} megapixels, more than Pillow's limit of {Image.MAX_IMAGE_PIXELS / 1e6:.0f}"
        )
    return ImageOps.exif_transpose(image)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16 bits of grey as 8: Pillow's own conversion would clip where it should scale."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    return Image.fromarray(np.round(np.clip(np.asarray(image, np.float64), 0, 65535) / 257).astype(np.uint8))
