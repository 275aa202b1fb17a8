"""The optimizer: clipping by global norm, then Adam or AdamW, with a learning rate that warms up and may decay."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config.sections import Optimizer

LearningRate = Callable[[jax.typing.ArrayLike], jax.Array]


def learning_rate(config: Optimizer, steps: int) -> LearningRate:
    """The learning rate of update n, counted from 0: linear over `warmup` updates, then constant or half a cosine that
    reaches 0 at `steps`.
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
    """The transformation of gradients into updates; its state counts the updates."""
    adam = (learning_rate(config, steps), config.beta1, config.beta2, config.eps)
    decay = config.weight_decay
    update = optax.adamw(*adam, weight_decay=decay) if config.name == "adamw" else optax.adam(*adam)
    return optax.chain(optax.clip_by_global_norm(config.clip), update) if config.clip else update
