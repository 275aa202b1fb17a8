"""Non-leaky augmentation: random flips and affine maps on which the network is conditioned.

Karras et al. 2022 ("EDM"), appendix F.2, with the maps and distributions of its CIFAR-10 models. The parameters of each
image's map enter the network's embedding, and zeros, which stand for the image as it is, are what it samples with.

    image -> flip -> scale -> rotate -> stretch -> translate,   about the centre, in pixels, x to the right and y down

The map is a function of the parameters alone: equal parameters mean equal maps. They are

    0, 1   1 if flipped left to right; 1 if flipped upside down
    2      scale, in SCALE_STD octaves: the image grows by 2^(SCALE_STD s)
    3, 4   cos(angle) - 1, sin(angle) of a rotation from x towards y
    5, 6   stretch by 2^(STRETCH_STD w) along an axis, and by its inverse across it: w cos(2 axis), w sin(2 axis).
           EDM takes the cosine and sine of the axis itself, where w along one axis and -w across it look the same.
    7, 8   translation in x and y, in SHIFT_STD of the width and the height
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float

from ddpm_jax.diffusion.randomness import draw_normal
from ddpm_jax.shapes import AnyArray, Augmentations, ImageKeys, Images, OneKey

PARAMETERS = 9
FLIPS = 2
"""Number of parameters of flips, which come first; the others are of the affine map."""
SCALE_STD, STRETCH_STD, SHIFT_STD = 0.2, 0.2, 0.125
"""Standard deviations: in octaves, in octaves, and as a fraction of the width or height."""


def augment(images: Images, keys: ImageKeys, p: float) -> tuple[Images, Augmentations]:
    """Images in [-1, 1] after random maps, and the parameters of these; p: see `draw_parameters`."""
    parameters = draw_parameters(keys, p)
    return transform(images, parameters), parameters


def draw_parameters(keys: ImageKeys, p: float) -> Augmentations:
    """The parameters of a random map for each image, zeros for what is not drawn.

    An image is scaled, rotated, stretched and translated with probability p each, and flipped upside down with p / 2.
    As in EDM, it is flipped left to right with 1/2 for any p but 0.
    """
    return jax.vmap(partial(_draw, p=p))(keys)


def _draw(key: OneKey, p: float) -> Float[Array, "parameters"]:
    chances = jnp.array((0.5 if p else 0.0, p / 2, p, p, p, p, 0.5), jnp.float32)
    with jax.threefry_partitionable(True):
        chance_key, angle_key, size_key = jax.random.split(key, 3)
        happens = jax.random.uniform(chance_key, chances.shape, jnp.float32) < chances
        angle, axis = jax.random.uniform(angle_key, (2,), jnp.float32, -math.pi, math.pi)
    scale, stretch, shift_x, shift_y = draw_normal(size_key, (4,))
    flips_x, flips_y, scales, rotates, stretches, translates, tilts = happens
    doubled = jnp.where(tilts, 2.0 * axis, 0.0)  # Otherwise it stretches along x.
    drawn = (
        (flips_x, 1.0),
        (flips_y, 1.0),
        (scales, scale),
        (rotates, jnp.cos(angle) - 1.0),
        (rotates, jnp.sin(angle)),
        (stretches, stretch * jnp.cos(doubled)),
        (stretches, stretch * jnp.sin(doubled)),
        (translates, shift_x),
        (translates, shift_y),
    )
    return jnp.stack([jnp.where(happens, value, 0.0).astype(jnp.float32) for happens, value in drawn])


def transform(images: Images, parameters: Augmentations) -> Images:
    """Images in [-1, 1] after the maps with these parameters: reflected beyond the borders, interpolated bilinearly.

    Where nothing is interpolated, pixels keep their bits.
    """

    def chosen(selected: Bool[Array, "batch"], ours: Images, others: Images) -> Images:
        return jnp.where(jnp.expand_dims(selected, (1, 2, 3)), ours, others)

    flipped = chosen(parameters[:, 0] != 0.0, images[:, :, ::-1], images)
    flipped = chosen(parameters[:, 1] != 0.0, flipped[:, ::-1], flipped)
    moved = jnp.any(parameters[:, FLIPS:] != 0.0, axis=-1)
    return chosen(moved, jax.vmap(_warp)(flipped, parameters), flipped)


def _warp(image: Float[AnyArray, "height width channels"], parameters: Float[AnyArray, "parameters"]) -> Array:
    """One image after the affine map; the value of a pixel is that of the point which the map takes there."""
    height, width, _ = image.shape
    (xx, xy, x0), (yx, yy, y0) = source_map(parameters, height, width)
    across, down = (jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2 for side in (width, height))
    x, y = jnp.meshgrid(across, down)
    points = [yx * x + yy * y + y0 + (height - 1) / 2, xx * x + xy * y + x0 + (width - 1) / 2]
    levels, transparent = (image + 1.0) / 2.0, image.shape[-1] in (2, 4)
    if transparent:  # Otherwise the colours of invisible pixels would mix into their neighbours'.
        levels = jnp.concatenate([levels[..., :-1] * levels[..., -1:], levels[..., -1:]], axis=-1)
    levels = jax.vmap(lambda channel: map_coordinates(channel, points, 1, "reflect"), -1, -1)(levels)
    if transparent:
        visible = jnp.where(levels[..., -1:] > 0.0, levels[..., -1:], 1.0)
        levels = jnp.concatenate([levels[..., :-1] / visible, levels[..., -1:]], axis=-1)
    return jnp.clip(2.0 * levels - 1.0, -1.0, 1.0)  # The two weights of a coordinate may sum to slightly more than 1.


def source_map(parameters: Float[AnyArray, "parameters"], height: int, width: int) -> Float[Array, "2 3"]:
    """The inverse of the affine map: from pixels of the result to those of the image, from the centre, (x, y, 1)."""
    _, _, scale, cos_minus_1, sin, along, between, shift_x, shift_y = parameters
    cos, doubled = cos_minus_1 + 1.0, jnp.arctan2(between, along)
    rotate_back = jnp.stack([cos, sin, -sin, cos]).reshape(2, 2)
    # exp(-w a) for the symmetric a = [[cos 2 axis, sin 2 axis], [sin 2 axis, -cos 2 axis]], whose square is 1.
    strength = STRETCH_STD * math.log(2.0) * jnp.hypot(along, between)
    reflection = jnp.stack([jnp.cos(doubled), jnp.sin(doubled), jnp.sin(doubled), -jnp.cos(doubled)]).reshape(2, 2)
    stretch_back = jnp.cosh(strength) * jnp.eye(2, dtype=jnp.float32) - jnp.sinh(strength) * reflection
    # Accelerators multiply matrices in a lower precision by default.
    linear = jnp.exp2(-SCALE_STD * scale) * jnp.matmul(rotate_back, stretch_back, precision="highest")
    shift = jnp.stack([shift_x * (SHIFT_STD * width), shift_y * (SHIFT_STD * height)])
    return jnp.concatenate([linear, -jnp.matmul(linear, shift, precision="highest").reshape(2, 1)], axis=1)
