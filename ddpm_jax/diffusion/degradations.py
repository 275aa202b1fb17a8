"""Which condition does an image-to-image model see? Degraded images, and masks of the pixels that it is to paint.

    super-resolution   shrink, then enlarge        Saharia et al. 2021 ("SR3"); Ho et al. 2021 (cascades)
    colouring          grey                        Saharia et al. 2022 ("Palette")
    inpainting         draw_masks                  the same, section 4; strokes: Yu et al. 2019 ("Gated Convolution")

Images are float32 in [-1, 1], [batch, height, width, channels]. Resizing is Pillow's, so that conditions made here look
like files that were resized before. Along each side, a new pixel with its centre at c is the mean of the old pixels x
with the weights

    k((x + 1/2 - c) / s),   s = max(old side / new side, 1),   divided by their sum

Results are not clipped, unless they are rounded to what a file holds by `on_pixel_grid` of diffusion/pixels.py.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ddpm_jax.diffusion.pixels import on_pixel_grid
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
THICKNESS = (0.08, 0.2)
"""Thinnest and thickest stroke, as a fraction of the image's shorter side."""
REACH = 0.3
"""The longest way of a segment along the height and the width, as a fraction of them."""

Resized = Float[Array, "batch _ _ channels"]
"""Images of other sides than those they were made of."""


def shrink(images: Images, factor: int, filter: str, depth: int | None = None) -> Resized:
    """Images of sides h / factor and w / factor, smoothed by one of KERNELS before pixels are left out.

    depth: bits of the pixels; Pillow rounds images of 8 bits after each of its two passes.
    Raises ValueError if a side is no multiple of the factor.
    """
    _, height, width, _ = images.shape
    if height % factor or width % factor:
        raise ValueError(
            f"Images are {height}x{width}; expected multiples of the factor, {factor}: choose another one."
        )
    return _resize(images, height // factor, width // factor, filter, rounded=depth == 8)


def enlarge(images: Images, height: int, width: int) -> Resized:
    """Images of the given sides, at least as long as before, by Pillow's bicubic interpolation (a = -1/2)."""
    return _resize(images, height, width, "bicubic")


def _resize(images: Images, height: int, width: int, filter: str, *, rounded: bool = False) -> Resized:
    """Images of the given sides, the width first, as in Pillow.

    Sums weighted pixels one by one: the order of a matrix product's sums, and so its bits, depend on the batch size.
    """
    resized = jnp.asarray(images)
    for axis, new in ((2, width), (1, height)):
        shape = [1, 1, 1, 1]
        shape[axis] = new
        taps = zip(*_taps(resized.shape[axis], new, filter), strict=True)
        weighted = [w.reshape(shape) * jnp.take(resized, x, axis=axis, mode="clip") for x, w in taps]
        resized = reduce(jnp.add, weighted)
        resized = jnp.asarray(on_pixel_grid(resized, 8)) if rounded else resized
    return resized


def _taps(old: int, new: int, filter: str) -> tuple[Int[np.ndarray, "taps new"], Float[np.ndarray, "taps new"]]:
    """Places and weights of the pixels of a line that make up each pixel of the resized line."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    weights = KERNELS[filter]((np.arange(old)[:, None] + 0.5 - centres) / max(scale, 1.0))
    weights /= weights.sum(axis=0)
    most = (weights != 0.0).sum(axis=0).max()
    places = np.argsort(weights == 0.0, axis=0, kind="stable")[:most]  # Those with a weight come first.
    return places, np.take_along_axis(weights, places, axis=0).astype(np.float32)


def _bicubic(x: Float[np.ndarray, "old new"]) -> Float[np.ndarray, "old new"]:
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

    Each mask has painted and known pixels if both sides have 4 pixels or more. Strokes paint at most half of an image.
    All arithmetic is exact, so that every platform draws the same masks.
    """
    return jax.vmap(partial(_draw_mask, height=height, width=width))(keys)


def _draw_mask(key: OneKey, height: int, width: int) -> Float[Array, "height width 1"]:
    with jax.threefry_partitionable(True):
        kind_key, box_key, strokes_key = jax.random.split(key, 3)
        is_box = jax.random.uniform(kind_key, (), jnp.float32) < 0.5
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
    """Polygonal lines with round ends, without the segments that would leave less than half of the image known."""
    count_key, start_key, move_key, thickness_key = jax.random.split(key, 4)
    sides = np.array((height, width), np.int32).reshape(1, 1, 2)
    reach = np.maximum(1, (REACH * sides).astype(np.int32))
    count = jax.random.randint(count_key, (), 1, STROKES + 1, jnp.int32)
    starts = jax.random.randint(start_key, (STROKES, 1, 2), 0, sides, jnp.int32)
    moves = jax.random.randint(move_key, (STROKES, SEGMENTS, 2), -reach, reach + 1, jnp.int32)
    path = jnp.cumsum(jnp.concatenate([starts, moves], axis=1), axis=1) % (2 * sides - 2)
    points = jnp.minimum(path, 2 * sides - 2 - path)  # Reflected: clipped ones would gather at the borders.
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
