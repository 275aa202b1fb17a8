"""The optimizer: clip by global norm, then Adam or AdamW, with a learning rate that warms up and may fall again."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config.sections import Optimizer

LearningRate = Callable[[jax.typing.ArrayLike], jax.Array]


def learning_rate(config: Optimizer, steps: int) -> LearningRate:
    """The rate of update number n, counted from 0: a linear rise over `warmup` updates, then constant or half a cosine
    that reaches 0 at `steps`.
    """

    def rate(n: jax.typing.ArrayLike) -> jax.Array:
        n = jnp.asarray(n, jnp.float32)
        rise = jnp.minimum((n + 1.0) / max(config.warmup, 1), 1.0)
        if config.schedule == "constant":
            return config.learning_rate * rise
        share = jnp.clip((n - config.warmup) / max(steps - config.warmup, 1), 0.0, 1.0)
        return config.learning_rate * rise * 0.5 * (1.0 + jnp.cos(jnp.pi * share))

    return rate


def build_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    """The chain that turns gradients into updates; its state counts the updates made."""
    rate = learning_rate(config, steps)
    if config.name == "adamw":
        update = optax.adamw(rate, config.beta1, config.beta2, config.eps, weight_decay=config.weight_decay)
    else:
        update = optax.adam(rate, config.beta1, config.beta2, config.eps)
    return optax.chain(optax.clip_by_global_norm(config.clip), update) if config.clip else update
