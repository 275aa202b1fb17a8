"""Conversion between pixels of 8 or 16 bits and images in [-1, 1]. No other module knows the scale."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt

from ddpm_jax.shapes import Frames, Images, Pixels


def from_pixels(pixels: Pixels) -> Images:
    """Converts uint8 in 0..255 or uint16 in 0..65535 to [-1, 1] in float32."""
    return pixels.astype(jnp.float32) / (np.iinfo(pixels.dtype).max / 2) - 1.0


def to_pixels(images: Images | Frames | Float[np.ndarray, "..."], depth: int = 8) -> UInt[np.ndarray, "..."]:
    """Converts [-1, 1] to 0..255, rounded; values outside are clipped, and NaN becomes 0.

    depth: bits of a pixel; 16 for uint16 in 0..65535.
    """
    limits = np.iinfo(f"uint{depth}")
    scaled = np.nan_to_num((np.asarray(images, np.float32) + 1.0) * (limits.max / 2), nan=0.0)
    return np.clip(np.round(scaled), 0, limits.max).astype(limits.dtype)
