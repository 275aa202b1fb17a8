"""Random keys: each purpose that a seed serves has keys of its own, so that no two purposes draw the same numbers.

    key = fold_in(fold_in(key(seed), purpose), step or image index)

The order of the data is drawn on the host, by NumPy's generators (data/batches.py).
"""

import enum

import jax
from jaxtyping import Array, Int

from ddpm_jax.shapes import OneKey


class Purpose(enum.IntEnum):
    """What random numbers are for. The numbers are part of every run: never reuse or reorder them."""

    INIT = 0
    """First parameters."""
    STEP = 1
    """t, noise, dropout and dropped labels of a training step."""
    VALIDATION = 2
    """Noise of the held-out images."""
    SAMPLE = 3
    """x_T and the samplers' noise."""
    LIKELIHOOD = 4
    """Noise of the images whose likelihood is bounded."""


def purpose_key(seed: int | Int[Array, ""], purpose: Purpose) -> OneKey:
    """The random key of a seed for one purpose."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))
