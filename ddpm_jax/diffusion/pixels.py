"""Conversion between uint8 pixels in 0..255 and images in [-1, 1]. No other module knows the scale."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ddpm_jax.shapes import Frames, Images, Pixels


def from_pixels(pixels: Pixels) -> Images:
    """Converts 0..255 to [-1, 1] in float32."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_pixels(images: Images | Frames | Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Converts [-1, 1] to 0..255, rounded; values outside are clipped, and NaN becomes 0."""
    scaled = np.nan_to_num((np.asarray(images, np.float32) + 1.0) * 127.5, nan=0.0)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)
