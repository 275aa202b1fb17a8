"""Exact denoisers for simple data, so that samplers can be tested without training."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.diffusion.process import eps_from_x0, per_image
from ddpm_jax.diffusion.schedule import Schedule

VARIANCE_WEIGHT = 0.3
"""The variance weight that these denoisers predict."""


def gaussian_denoiser(schedule: Schedule, mean: ArrayLike, std: float) -> Denoiser:
    """E[x_0 | x_t] for pixels that are independently N(mean, std^2)."""

    def denoise(x_t, t):
        signal, noise = per_image(schedule.signal_rate, t, x_t), per_image(schedule.noise_rate, t, x_t)
        gain = std**2 * signal / (signal**2 * std**2 + noise**2)
        x0 = mean + gain * (x_t - signal * mean)
        return Prediction(x0, eps_from_x0(schedule, x_t, t, x0), jnp.full_like(x_t, VARIANCE_WEIGHT))

    return denoise


def point_denoiser(schedule: Schedule, value: float) -> Denoiser:
    """E[x_0 | x_t] for a data set of one grey image."""

    def denoise(x_t, t):
        x0 = jnp.full_like(x_t, value)
        return Prediction(x0, eps_from_x0(schedule, x_t, t, x0), jnp.full_like(x_t, VARIANCE_WEIGHT))

    return denoise


def two_values_denoiser(schedule: Schedule, value: float, std: float) -> Denoiser:
    """E[x_0 | x_t] for independent pixels, N(value, std^2) or N(-value, std^2) with equal probability."""

    def denoise(x_t, t):
        signal, noise = per_image(schedule.signal_rate, t, x_t), per_image(schedule.noise_rate, t, x_t)
        variance = signal**2 * std**2 + noise**2
        means = [centre + signal * std**2 / variance * (x_t - signal * centre) for centre in (value, -value)]
        # Posterior probability of the first component.
        upper = jax.nn.sigmoid(2.0 * signal * value * x_t / variance)
        x0 = upper * means[0] + (1.0 - upper) * means[1]
        return Prediction(x0, eps_from_x0(schedule, x_t, t, x0))

    return denoise
