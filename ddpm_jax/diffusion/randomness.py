"""Random keys: each purpose of a seed has its own keys, so that no two purposes share random numbers.

    key = fold_in(fold_in(key(seed), purpose), step or image index)

The order of the data is random on the host, by NumPy's generators (data/batches.py).
"""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddpm_jax.shapes import OneKey


class Purpose(enum.IntEnum):
    """Purposes of random numbers. Their values determine the results of every run: never reuse or reorder them."""

    INIT = 0
    """Initial parameters."""
    STEP = 1
    """t, noise, dropout and dropped labels of a training step."""
    VALIDATION = 2
    """Noise of the held-out images."""
    SAMPLE = 3
    """x_T and the samplers' noise."""
    LIKELIHOOD = 4
    """Noise for the variational bound."""
    AUGMENT = 5
    """Augmentation of a training image."""
    CONDITION = 6
    """Condition of a training image: its mask, noise, and dropping."""
    GIVEN_CONDITION = 7
    """Condition of an image to sample, or of the original that it is made of."""
    HELD_OUT_CONDITION = 8
    """Condition of a held-out image for the validation loss."""


def purpose_key(seed: int | Int[Array, ""], purpose: Purpose) -> OneKey:
    """The random key of a seed for one purpose."""
    # The key of jax.random.key(seed, impl="threefry2x32"), which jax_random_seed_offset would change.
    key = jax.random.wrap_key_data(jnp.asarray([0, seed], jnp.uint32), impl="threefry2x32")
    return jax.random.fold_in(key, int(purpose))


def draw_normal(key: OneKey, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers in float32, the same under any global settings of JAX."""
    with jax.threefry_partitionable(True):
        return jax.random.normal(key, shape, jnp.float32)
