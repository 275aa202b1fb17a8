"""The variational bound on the negative log-likelihood, in bits per dimension: Ho et al. 2020, Eq. 5.

L = L_T + sum_{t=2..T} L_{t-1} + L_0
L_T     = KL(q(x_T | x_0) || N(0, I))                               (prior_bits)
L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))             (bound_term, t > 1)
L_0     = -log p(x_0 | x_1), a Gaussian integrated over each of the 2^depth levels    (bound_term, t = 1)
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.diffusion.process import per_image, posterior_tables, q_sample
from ddpm_jax.diffusion.randomness import draw_normal
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import ImageKeys, Images, PerImage, Steps, Table

Variance = Literal["fixed_small", "fixed_large", "learned"]
LOG2 = float(np.log(2.0))


def mean_over_pixels(x: Images) -> PerImage:
    """The mean of each image."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def log_variance_bounds(schedule: Schedule) -> tuple[Table, Table]:
    """Log-variance of p(x_{t-1} | x_t) over t = 0..T: the lower bound (the posterior's) and the upper bound (beta_t).

    The posterior of t = 1 has no variance; that of t = 2 replaces it, as in Ho et al.'s code, so that the decoder has a
    positive width. Row 0 repeats row 1.
    """
    tables = posterior_tables(schedule)
    small, large = tables.variance.copy(), tables.forward_variance.copy()
    small[:2], large[0] = small[2], large[1]
    return np.log(small), np.log(large)


def log_variance(schedule: Schedule, variance: Variance, prediction: Prediction, t: Steps) -> Float[Array, "..."]:
    """Log-variance of p(x_{t-1} | x_t): Nichol & Dhariwal 2021, Eq. 15 if learned.

    A fixed variance at t = 1 is the posterior's of t = 2, also for "fixed_large", as in Ho et al.'s code.
    """
    small, large = log_variance_bounds(schedule)
    low = per_image(small, t, prediction.x0)
    if variance == "learned":
        return learned_log_variance(prediction, low, per_image(large, t, prediction.x0))
    return low if variance == "fixed_small" else per_image(np.append(small[:2], large[2:]), t, prediction.x0)


def learned_log_variance(prediction: Prediction, small: Array, large: Array) -> Float[Array, "..."]:
    """The predicted log-variance between its bounds, Nichol & Dhariwal 2021, Eq. 15."""
    if prediction.variance_weight is None:
        raise ValueError("variance is 'learned', but the denoiser predicts none.")
    weight = jnp.asarray(prediction.variance_weight)
    return weight * large + (1.0 - weight) * small


def gaussian_kl(mean: Images, log_var: Array, other_mean: Images, other_log_var: Array) -> Images:
    """KL(N(mean, e^log_var) || N(other_mean, e^other_log_var)) in nats, elementwise."""
    shift = (mean - other_mean) ** 2 * jnp.exp(-other_log_var)
    # expm1 is accurate if the two variances nearly agree.
    return 0.5 * (jnp.expm1(log_var - other_log_var) - (log_var - other_log_var) + shift)


def discretized_log_likelihood(x0: Images, mean: Images, log_var: Array, depth: int = 8) -> Images:
    """Log P(x0) in nats under N(mean, e^log_var) integrated over each level's bin, the first and last open-ended.

    x0: levels scaled to [-1, 1], Ho et al. 2020, Eq. 13. depth: bits of a level, whose bins are 2 / (2^depth - 1) wide.
    """
    half = 1.0 / (2**depth - 1)
    inverse_std = jnp.exp(-0.5 * log_var)
    upper, lower = (x0 - mean + half) * inverse_std, (x0 - mean - half) * inverse_std
    # Both cdfs are evaluated in the lower tail, where their difference is accurate.
    mirrored = lower > 0.0
    high, low = jnp.where(mirrored, -lower, upper), jnp.where(mirrored, -upper, lower)
    inside = jax.scipy.stats.norm.cdf(high) - jax.scipy.stats.norm.cdf(low)
    inside = jnp.log(jnp.maximum(inside, 1e-12))
    edge = jnp.where(x0 > 1.0 - half, jax.scipy.stats.norm.logcdf(-lower), inside)
    return jnp.where(x0 < half - 1.0, jax.scipy.stats.norm.logcdf(upper), edge)


def bound_term(
    schedule: Schedule, variance: Variance, prediction: Prediction, x0: Images, x_t: Images, t: Steps, depth: int = 8
) -> PerImage:
    """L_{t-1} (L_0 for t = 1) of each image at its t, in bits per dimension; x0 in [-1, 1], t in 1..T.

    depth: bits of a level of x0.
    """
    tables = posterior_tables(schedule)
    c_0, c_t = per_image(tables.x0, t, x_t), per_image(tables.x_t, t, x_t)
    true_mean, model_mean = c_0 * x0 + c_t * x_t, c_0 * prediction.x0 + c_t * x_t
    model_log_var = log_variance(schedule, variance, prediction, t)
    true_log_var = per_image(log_variance_bounds(schedule)[0], t, x_t)
    kl = gaussian_kl(true_mean, true_log_var, model_mean, model_log_var)
    decoder = -discretized_log_likelihood(x0, model_mean, model_log_var, depth)
    return jnp.where(t == 1, mean_over_pixels(decoder), mean_over_pixels(kl)) / LOG2


def prior_bits(schedule: Schedule, x0: Images) -> PerImage:
    """L_T = KL(q(x_T | x_0) || N(0, I)) in bits per dimension."""
    abar = float(schedule.alpha_bar[-1])
    # The term without x_0 is about abar^2 / 4, which float32 would round to 0.
    constant = 0.5 * (-math.log1p(-abar) - abar)
    return (constant + 0.5 * abar * mean_over_pixels(x0**2)) / LOG2


def bits_per_dim(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Images,
    keys: ImageKeys,
    *,
    variance: Variance = "fixed_small",
    depth: int = 8,
) -> tuple[PerImage, Float[Array, "T batch"], PerImage]:
    """The bound: (total, terms L_0..L_{T-1} for t = 1..T, L_T), each in bits per dimension.

    x0: levels of `depth` bits scaled to [-1, 1]. keys: one per image; step t of an image uses fold_in(key, t), so the
    result does not depend on the batch.
    """

    def term(_: None, step: Array) -> tuple[None, PerImage]:
        t = jnp.full(x0.shape[:1], step)
        noise = jax.vmap(lambda key: draw_normal(jax.random.fold_in(key, step), x0.shape[1:]))(keys)
        x_t = q_sample(schedule, x0, t, noise)
        return None, bound_term(schedule, variance, denoiser(x_t, t), x0, x_t, t, depth)

    _, terms = jax.lax.scan(term, None, jnp.arange(1, schedule.steps + 1))
    prior = prior_bits(schedule, x0)
    return prior + terms.sum(axis=0), terms, prior
