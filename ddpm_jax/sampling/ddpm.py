"""Ancestral sampling, Ho et al. 2020, Algorithm 2: x_s ~ N(posterior mean of x_t and the predicted x_0, variance).

On strided steps (t, s) the posterior is q(x_s | x_t, x_0) itself, so that any number of steps is exact for a denoiser
that knows x_0.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.diffusion.likelihood import Variance, learned_log_variance
from ddpm_jax.diffusion.process import posterior
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.loop import SCAN, Loop, float32
from ddpm_jax.sampling.noise import draw_noise
from ddpm_jax.sampling.timesteps import Pairs
from ddpm_jax.shapes import ImageKeys, Images


class StepCoefficients(NamedTuple):
    """The coefficients of one step, scalars inside the scan."""

    t: Array
    x0: Array
    x_t: Array
    log_small: Array
    log_large: Array
    noisy: Array
    """1, or 0 in the step that ends at the clean image."""


def ddpm_coefficients(schedule: Schedule, pairs: Pairs) -> StepCoefficients:
    """Coefficients of every step, computed in float64."""
    t, s = pairs.T
    coefficients = posterior(schedule, t, s)
    # The posterior has no variance at s = 0, where no noise is added either; any finite logarithm will do.
    small, large = np.log(np.where(s > 0, coefficients.variance, 1.0)), np.log(coefficients.forward_variance)
    return StepCoefficients(jnp.asarray(t), *float32(coefficients.x0, coefficients.x_t, small, large, s > 0))


def ancestral_step(c: StepCoefficients, prediction: Prediction, x: Images, noise: Images, variance: Variance) -> Images:
    """x_s from the posterior: its mean plus standard normal noise, scaled."""
    log_variance = c.log_small if variance == "fixed_small" else c.log_large
    if variance == "learned":
        log_variance = learned_log_variance(prediction, c.log_small, c.log_large)
    return c.x0 * prediction.x0 + c.x_t * x + jnp.exp(0.5 * log_variance) * c.noisy * noise


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Images,
    keys: ImageKeys,
    pairs: Pairs,
    *,
    variance: Variance = "fixed_small",
    loop: Loop = SCAN,
) -> Any:
    """Samples one image from each x_T.

    x_T: standard normal; keys: one per image, for the noise of the steps; pairs: [steps, 2] from `step_pairs`;
    variance: the posterior's ("fixed_small"), beta ("fixed_large") or the network's ("learned").
    """

    def step(x: Images, memory: Any, c: StepCoefficients) -> tuple[Images, Images, Any]:
        prediction = denoiser(x, jnp.full(x.shape[:1], c.t))
        noise = draw_noise(keys, c.t, x.shape[1:])
        return ancestral_step(c, prediction, x, noise, variance), prediction.x0, memory

    return loop(step, x_T, (), ddpm_coefficients(schedule, pairs))
