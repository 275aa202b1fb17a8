"""The forward process and its exact inversions: relations between x_t, x_0 and eps that need no network.

    x_t = signal_t x_0 + noise_t eps                      (q_sample)
    v   = signal_t eps - noise_t x_0                      (Salimans & Ho 2022)
    q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t, variance)    (posterior, any s < t)

`objective.py` trains on these quantities, and the samplers of `sampling/` step back through the posterior.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import Images, Steps, Table


def per_image(table: Table, t: Steps, like: Images) -> Float[Array, "batch 1 1 1"]:
    """Entry t of a table for each image, as float32 with the axes of `like`: the only place that broadcasts over t."""
    return jnp.asarray(table, jnp.float32)[t].reshape(t.shape + (1,) * (like.ndim - 1))


def q_sample(schedule: Schedule, x0: Images, t: Steps, noise: Images) -> Images:
    """x_t ~ q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), Ho et al. 2020, Eq. 4.

    x0 and noise: [batch, height, width, channels], x0 in [-1, 1]; t: [batch], in 0..T, where 0 returns x0 itself.
    """
    return per_image(schedule.signal_rate, t, x0) * x0 + per_image(schedule.noise_rate, t, x0) * noise


def x0_from_eps(schedule: Schedule, x_t: Images, t: Steps, eps: Images) -> Images:
    """x_0 = (x_t - noise_t eps) / signal_t, Ho et al. 2020, Eq. 15; undefined where the SNR is zero."""
    return (x_t - per_image(schedule.noise_rate, t, x_t) * eps) / per_image(schedule.signal_rate, t, x_t)


def eps_from_x0(schedule: Schedule, x_t: Images, t: Steps, x0: Images) -> Images:
    """eps = (x_t - signal_t x_0) / noise_t, for t in 1..T."""
    return (x_t - per_image(schedule.signal_rate, t, x_t) * x0) / per_image(schedule.noise_rate, t, x_t)


def v_from_x0_eps(schedule: Schedule, t: Steps, x0: Images, eps: Images) -> Images:
    """v = signal_t eps - noise_t x_0, Salimans & Ho 2022, appendix D."""
    return per_image(schedule.signal_rate, t, x0) * eps - per_image(schedule.noise_rate, t, x0) * x0


def x0_from_v(schedule: Schedule, x_t: Images, t: Steps, v: Images) -> Images:
    """x_0 = signal_t x_t - noise_t v: a rotation of (x_t, v), so it is defined at any SNR."""
    return per_image(schedule.signal_rate, t, x_t) * x_t - per_image(schedule.noise_rate, t, x_t) * v


def eps_from_v(schedule: Schedule, x_t: Images, t: Steps, v: Images) -> Images:
    """eps = noise_t x_t + signal_t v."""
    return per_image(schedule.noise_rate, t, x_t) * x_t + per_image(schedule.signal_rate, t, x_t) * v


class Posterior(NamedTuple):
    """Coefficients of q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t, variance I), each float64 [steps]."""

    x0: Table
    """c_0."""
    x_t: Table
    """c_t."""
    variance: Table
    forward_variance: Table
    """Variance of q(x_t | x_s), beta_t for s = t - 1: the upper bound for the variance of a reverse step."""


def posterior(schedule: Schedule, t: np.ndarray, s: np.ndarray) -> Posterior:
    """Coefficients of q(x_s | x_t, x_0), Ho et al. 2020, Eq. 7, for any 0 <= s < t <= T.

    t, s: integers [steps] on the host. Computed in float64; callers convert the results to float32.
    """
    if np.any(s >= t) or np.any(s < 0):
        raise ValueError(f"Each step must go from t to an earlier s >= 0; got t={t}, s={s}.")
    abar_t, abar_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    alpha = abar_t / abar_s
    variance_ratio = (1.0 - abar_s) / (1.0 - abar_t)
    return Posterior(
        x0=np.sqrt(abar_s) * (1.0 - alpha) / (1.0 - abar_t),
        x_t=np.sqrt(alpha) * variance_ratio,
        variance=(1.0 - alpha) * variance_ratio,
        forward_variance=1.0 - alpha,
    )


def posterior_tables(schedule: Schedule) -> Posterior:
    """The posterior of single steps, s = t - 1, as tables over t = 0..T; entry 0 is x_0 with variance 0."""
    t = np.arange(1, schedule.steps + 1)
    rows = posterior(schedule, t, t - 1)
    return Posterior(*(np.insert(row, 0, first) for row, first in zip(rows, (1.0, 0.0, 0.0, 0.0), strict=True)))
