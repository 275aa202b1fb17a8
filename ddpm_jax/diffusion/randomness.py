"""Random keys: each purpose of a seed has its own keys, so that no two purposes share random numbers.

    key = fold_in(fold_in(key(seed), purpose), step or image index)

The order of the data is random on the host, by NumPy's generators (data/batches.py).
"""

import enum

import jax
from jaxtyping import Array, Int

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


def purpose_key(seed: int | Int[Array, ""], purpose: Purpose) -> OneKey:
    """The random key of a seed for one purpose."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))
