"""Which t are trained on: uniform, by noise level, or by recent loss, with weights that undo the choice.

    t ~ p = (1 - u) density + u / T,   E_{t ~ p} [loss_t / (T p_t)] = the mean of loss_t over t = 1..T

so that a density other than the uniform one changes the variance of the gradient, and not its mean. The small uniform
share u bounds the weights.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import AnyArray, Betas, OneKey, PerImage, Steps

UNIFORM_SHARE = 1e-3
"""u above: as in improved DDPM's code."""
REMEMBERED = 10
"""Losses remembered at each t, Nichol & Dhariwal 2021, section 3.3."""

Density = Float[AnyArray, "T"]
"""The probability of each t = 1..T, without the uniform share."""


def logit_normal(schedule: Schedule, mean: float, std: float) -> Betas:
    """The density of t = 1..T if log-SNR is normal, which makes noise^2 / (signal^2 + noise^2) logit-normal.

    Each t stands for the log-SNRs nearest to its own. ln(sigma) of Karras et al. 2022, N(-1.2, 1.2^2), is mean 2.4 and
    std 2.4 here, since log-SNR = -2 ln(sigma).
    """
    log_snr = schedule.log_snr[1:].copy()
    if np.isinf(log_snr[-1]):  # As far from the one before as that from its own.
        log_snr[-1] = 2.0 * log_snr[-2] - log_snr[max(-3, -len(log_snr))]
    middles = (log_snr[1:] + log_snr[:-1]) / 2.0
    normal = NormalDist(mean, std)
    below = np.array([1.0, *(normal.cdf(middle) for middle in middles), 0.0])
    return below[:-1] - below[1:]


def draw_steps(key: OneKey, density: Density, count: int) -> Steps:
    """t in 1..T for `count` images, from the density with its uniform share.

    Both parts are drawn apart: the few numbers that float32 has between two sums near 1 are fewer than the share.
    """
    share_key, uniform_key, density_key = jax.random.split(key, 3)
    cumulative = jnp.cumsum(jnp.asarray(density, jnp.float32))
    with jax.threefry_partitionable(True):
        any_t = jax.random.randint(uniform_key, (count,), 1, len(density) + 1, jnp.int32)
        below = jax.random.uniform(density_key, (count,), jnp.float32) * cumulative[-1]
        from_density = jax.random.uniform(share_key, (count,), jnp.float32) >= UNIFORM_SHARE
    inverted = jnp.clip(jnp.searchsorted(cumulative, below, side="right"), 0, len(density) - 1)
    return jnp.where(from_density, inverted.astype(jnp.int32) + 1, any_t)


def importance_weights(density: Density, t: Steps) -> PerImage:
    """1 / (T p_t) for each image; p includes the uniform share."""
    steps, density = len(density), jnp.asarray(density, jnp.float32)
    return 1.0 / (steps * (1.0 - UNIFORM_SHARE) * density[t - 1] + UNIFORM_SHARE)


class LossHistory(NamedTuple):
    """The latest losses at each t = 1..T."""

    losses: Float[Array, "T remembered"]
    seen: Int[Array, "T"]
    """Number of losses so far, also of those that are no longer remembered."""


def no_history(steps: int) -> LossHistory:
    """The history before any loss."""
    return LossHistory(jnp.zeros((steps, REMEMBERED), jnp.float32), jnp.zeros((steps,), jnp.int32))


def density_by_loss(history: LossHistory) -> Density:
    """Proportional to sqrt(E[loss_t^2]) over the latest losses, Nichol & Dhariwal 2021, Eq. 18.

    Uniform until each t has as many losses as are remembered.
    """
    steps = len(history.seen)
    root = jnp.sqrt(jnp.mean(history.losses**2, axis=1))
    known = jnp.all(history.seen >= REMEMBERED) & (jnp.sum(root) > 0.0)
    return jnp.where(known, root / jnp.sum(root), 1.0 / steps)


def remember(history: LossHistory, t: Steps, losses: PerImage) -> LossHistory:
    """The history after a batch; of more losses at one t than are remembered, the last of the batch stay."""
    same = t[:, None] == t[None, :]
    earlier = jnp.sum(jnp.tril(same, -1), axis=1)
    later = jnp.sum(jnp.triu(same, 1), axis=1)
    place = (history.seen[t - 1] + earlier) % REMEMBERED
    row = jnp.where(later < REMEMBERED, t - 1, len(history.seen))  # Beyond the end, where nothing is written.
    return LossHistory(history.losses.at[row, place].set(losses, mode="drop"), history.seen.at[t - 1].add(1))
