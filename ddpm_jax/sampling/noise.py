"""Randomness in sampling: the key of image i depends only on (seed, i), so its noise is the same in any batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ddpm_jax.diffusion.randomness import Purpose, draw_normal, purpose_key
from ddpm_jax.shapes import ImageKeys, Images


def image_keys(
    seed: int | Int[Array, ""], indices: Int[np.ndarray | Array, "batch"], purpose: Purpose = Purpose.SAMPLE
) -> ImageKeys:
    """One key for each image index."""
    key = purpose_key(seed, purpose)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(indices))


def draw_noise(keys: ImageKeys, t: int | Int[Array, ""], shape: tuple[int, ...]) -> Images:
    """Standard normal noise [batch, *shape] for step t of each image; t = 0 gives the x_T where sampling starts."""
    return jax.vmap(lambda key: draw_normal(jax.random.fold_in(key, t), shape))(keys)
