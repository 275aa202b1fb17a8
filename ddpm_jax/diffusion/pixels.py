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


def on_pixel_grid(images: Images, depth: int) -> Images:
    """Images as after a file of `depth` bits: the bits of from_pixels(to_pixels(images, depth)), also when compiled."""
    levels = np.arange(2**depth, dtype=f"uint{depth}").reshape(1, -1, 1, 1)
    nearest = jnp.round((jnp.clip(jnp.nan_to_num(images, nan=-1.0), -1.0, 1.0) + 1.0) * ((levels.size - 1) / 2))
    # Looked up: compiled code divides by multiplying with a reciprocal, which changes the last bit.
    return jnp.asarray(from_pixels(levels).ravel())[nearest.astype(jnp.int32)]
