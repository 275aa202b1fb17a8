"""Which condition does an image-to-image model see? Degraded images, and masks of the pixels that it is to paint.

    super-resolution   shrink, then enlarge        Saharia et al. 2021 ("SR3"); Ho et al. 2021 (cascades)
    colourisation      grey                        Saharia et al. 2022 ("Palette")
    inpainting         draw_masks                  the same, section 4; strokes: Yu et al. 2019 ("Gated Convolution")

Images are float32 in [-1, 1], [batch, height, width, channels]. Resizing is Pillow's, so that conditions made here look like
files that were resized before: each pixel of the result is the mean of the pixels near its centre c, with weights

    k((x + 1/2 - c) / s),   s = max(old side / new side, 1),   divided by their sum over the pixels x of the image

and is not clipped. diffusion/pixels.py rounds it to what a file holds (`on_pixel_grid`).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ddpm_jax.shapes import ImageKeys, Images, OneKey

KERNELS = {
    "box": lambda x: np.where(np.abs(x) < 0.5, 1.0, 0.0),
    "bilinear": lambda x: np.maximum(1.0 - np.abs(x), 0.0),
    "bicubic": lambda x: _bicubic(np.abs(x)),
    "lanczos": lambda x: np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0),
}
"""Weight of a pixel by its distance from the centre, for each filter of Pillow."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in Pillow's grey (Rec. 601)."""
BOX_SIDES = (0.3, 0.8)
"""Shortest and longest side of a box, as a fraction of the image's."""
STROKES, SEGMENTS = 4, 5
"""The most strokes of a mask, and the segments of each."""
THICKNESS = (0.06, 0.18)
"""Thinnest and thickest stroke, as a fraction of the image's shorter side."""
REACH = 0.3
"""The longest way of a segment along the height and the width, as a fraction of them."""


def shrink(images: Images, factor: int, filter: str) -> Images:
    """Images of sides h / factor and w / factor, smoothed by one of KERNELS before pixels are left out.

    Raises ValueError if a side is no multiple of the factor.
    """
    _, height, width, _ = images.shape
    if height % factor or width % factor:
        raise ValueError(
            f"Images are {height}x{width}; expected multiples of the factor, {factor}: choose another one."
        )
    return _resize(images, height // factor, width // factor, filter)


def enlarge(images: Images, height: int, width: int) -> Images:
    """Images of the given sides, at least as long as before, by Pillow's bicubic interpolation (a = -1/2)."""
    return _resize(images, height, width, "bicubic")


def _resize(images: Images, height: int, width: int, filter: str) -> Images:
    rows, columns = (_weights(old, new, filter) for old, new in zip(images.shape[1:3], (height, width), strict=True))
    # Accelerators multiply matrices in a lower precision by default.
    wide = jnp.einsum("xw,bhwc->bhxc", columns, images, precision="highest")
    return jnp.einsum("yh,bhxc->byxc", rows, wide, precision="highest")


def _weights(old: int, new: int, filter: str) -> Float[np.ndarray, "new old"]:
    """The weight of each pixel of a line in each pixel of the resized line."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    weights = KERNELS[filter]((np.arange(old) + 0.5 - centres[:, None]) / max(scale, 1.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _bicubic(x: Float[np.ndarray, "new old"]) -> Float[np.ndarray, "new old"]:
    """Keys 1981 with a = -1/2, of distances x >= 0."""
    near, far = (1.5 * x - 2.5) * x * x + 1.0, ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def grey(images: Images) -> Float[Array, "batch height width 1"]:
    """The luma of RGB images; raises ValueError for other than 3 channels."""
    if images.shape[-1] != 3:
        raise ValueError(f"Images have {images.shape[-1]} channels; expected 3 (RGB): pass these alone.")
    red, green, blue = (jnp.float32(weight) * images[..., i : i + 1] for i, weight in enumerate(LUMA))
    return red + green + blue


def draw_masks(keys: ImageKeys, height: int, width: int) -> Float[Array, "batch height width 1"]:
    """1 where an image is to be painted and 0 where it is known: a box or, as often, free-form strokes.

    Each mask has painted and known pixels if both sides have 4 pixels or more. Strokes paint at most half of an image. All
    arithmetic is exact, so that every platform draws the same masks.
    """
    return jax.vmap(partial(_draw_mask, height=height, width=width))(keys)


def _draw_mask(key: OneKey, height: int, width: int) -> Float[Array, "height width 1"]:
    with jax.threefry_partitionable(True):
        kind_key, box_key, strokes_key = jax.random.split(key, 3)
        is_box = jax.random.bernoulli(kind_key)
        mask = jnp.where(is_box, _draw_box(box_key, height, width), _draw_strokes(strokes_key, height, width))
    return mask[..., None].astype(jnp.float32)


def _draw_box(key: OneKey, height: int, width: int) -> Bool[Array, "height width"]:
    """A box of random sides at a random place inside the image."""

    def draw_span(key: OneKey, side: int) -> Bool[Array, "side"]:
        length_key, start_key = jax.random.split(key)
        shortest, longest = (max(1, int(share * side)) for share in BOX_SIDES)
        length = jax.random.randint(length_key, (), shortest, longest + 1, jnp.int32)
        start = jax.random.randint(start_key, (), 0, side + 1 - length, jnp.int32)
        place = jnp.arange(side, dtype=jnp.int32)
        return (place >= start) & (place < start + length)

    rows_key, columns_key = jax.random.split(key)
    return draw_span(rows_key, height)[:, None] & draw_span(columns_key, width)[None]


def _draw_strokes(key: OneKey, height: int, width: int) -> Bool[Array, "height width"]:
    """Random polygonal lines with round ends; segments that would leave less than half of the image known are left out."""
    count_key, start_key, move_key, thickness_key = jax.random.split(key, 4)
    sides = np.array((height, width), np.int32).reshape(1, 1, 2)
    reach = np.maximum(1, (REACH * sides).astype(np.int32))
    count = jax.random.randint(count_key, (), 1, STROKES + 1, jnp.int32)
    starts = jax.random.randint(start_key, (STROKES, 1, 2), 0, sides, jnp.int32)
    moves = jax.random.randint(move_key, (STROKES, SEGMENTS, 2), -reach, reach + 1, jnp.int32)
    points = jnp.cumsum(jnp.concatenate([starts, moves], axis=1), axis=1)
    points = jnp.clip(points, 0, sides - 1)
    thinnest, thickest = (max(1, int(share * min(height, width))) for share in THICKNESS)
    thickness = jax.random.randint(thickness_key, (STROKES,), thinnest, thickest + 1, jnp.int32)

    def paint(mask: Bool[Array, "height width"], i: Int[Array, ""]) -> tuple[Bool[Array, "height width"], None]:
        stroke, segment = i // SEGMENTS, i % SEGMENTS
        line = near_segment(points[stroke, segment], points[stroke, segment + 1], thickness[stroke], height, width)
        painted = mask | (line & (stroke < count))
        return jnp.where(2 * jnp.sum(painted, dtype=jnp.int32) <= height * width, painted, mask), None

    nothing = jnp.zeros((height, width), bool)
    mask, _ = jax.lax.scan(paint, nothing, jnp.arange(STROKES * SEGMENTS, dtype=jnp.int32))
    return mask


def near_segment(
    a: Int[Array, "2"], b: Int[Array, "2"], thickness: Int[Array, ""], height: int, width: int
) -> Bool[Array, "height width"]:
    """Whether a pixel is at most thickness / 2 from the segment between the pixels a and b, given as (row, column)."""
    y = jnp.arange(height, dtype=jnp.int32)[:, None] - a[0]
    x = jnp.arange(width, dtype=jnp.int32)[None] - a[1]
    dy, dx = b - a
    length_2, thickness_2 = dy * dy + dx * dx, thickness * thickness
    at_end = (4 * (y * y + x * x) <= thickness_2) | (4 * ((y - dy) ** 2 + (x - dx) ** 2) <= thickness_2)
    along, across = y * dy + x * dx, (2 * (y * dx - x * dy)).astype(jnp.float32)
    # The squares may exceed int32; in float32 each is one product of exact factors.
    in_width = across * across <= thickness_2.astype(jnp.float32) * length_2.astype(jnp.float32)
    return at_end | ((along > 0) & (along < length_2) & in_width)
