"""Randomness in sampling: image i owns a key made of (seed, i), so its noise is the same in any batch on any device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ddpm_jax.shapes import ImageKeys, Images


def image_keys(seed: int | Int[Array, ""], indices: Int[np.ndarray | Array, "batch"]) -> ImageKeys:
    """One key for each image index."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.asarray(indices))


def draw_noise(keys: ImageKeys, t: int | Int[Array, ""], shape: tuple[int, ...]) -> Images:
    """Standard normal noise [batch, *shape] that belongs to step t of each image; t = 0 is the x_T it starts from."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), shape))(keys)
