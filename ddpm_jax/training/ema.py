"""The exponential moving average (EMA) of the parameters, used for sampling: ema <- d ema + (1 - d) params."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ddpm_jax.config.sections import Optimizer


def ema_decay(config: Optimizer, step: Array) -> Array:
    """The decay d of update `step`, counted from 0: ema_decay, with warm-up at most (1 + step) / (10 + step)."""
    if not config.ema_warmup:
        return jnp.asarray(config.ema_decay, jnp.float32)
    n = step.astype(jnp.float32)
    return jnp.minimum(config.ema_decay, (1.0 + n) / (10.0 + n))


def update_ema(config: Optimizer, ema: PyTree, params: PyTree, step: Array) -> PyTree:
    """The EMA after an update, given the *new* parameters."""
    return optax.incremental_update(params, ema, 1.0 - ema_decay(config, step))


def start_ema(params: PyTree) -> PyTree:
    """The EMA before any update: a copy, since shared buffers cannot be donated."""
    return jax.tree.map(jnp.copy, params)
