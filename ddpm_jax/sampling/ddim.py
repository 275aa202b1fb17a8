"""Denoising diffusion implicit models, Song et al. 2020, Eq. 12:

    x_s = signal_s x_0 + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma z,   sigma = eta * (the posterior's deviation)

eta = 0 is deterministic, eta = 1 has the marginals of DDPM. `threshold.py` keeps x_0 in range and adjusts eps.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.process import posterior
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.loop import SCAN, Loop, float32
from ddpm_jax.sampling.noise import draw_noise
from ddpm_jax.sampling.timesteps import Pairs
from ddpm_jax.shapes import ImageKeys, Images


def ddim_coefficients(schedule: Schedule, pairs: Pairs, eta: float) -> tuple[Array, ...]:
    """t and the factors of x_0, eps and z for every step, computed in float64."""
    t, s = pairs.T
    sigma = eta * np.sqrt(posterior(schedule, t, s).variance)
    # At eta = 1 and zero terminal SNR the difference is 0, and may round below it.
    eps = np.sqrt(np.maximum(schedule.noise_rate[s] ** 2 - sigma**2, 0.0))
    return jnp.asarray(t), *float32(schedule.signal_rate[s], eps, sigma)


def ddim(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Images,
    keys: ImageKeys,
    pairs: Pairs,
    *,
    eta: float = 0.0,
    loop: Loop = SCAN,
) -> Any:
    """Samples one image from each x_T.

    x_T: standard normal; keys: one per image, used only if eta > 0; pairs: [steps, 2] from `step_pairs`; eta: 0..1.
    """

    def step(x: Images, memory: Any, coefficients: tuple[Array, ...]) -> tuple[Images, Images, Any]:
        t, signal, noise, sigma = coefficients
        prediction = denoiser(x, jnp.full(x.shape[:1], t))
        x_s = signal * prediction.x0 + noise * prediction.eps
        if eta > 0.0:
            x_s = x_s + sigma * draw_noise(keys, t, x.shape[1:])
        return x_s, prediction.x0, memory

    return loop(step, x_T, (), ddim_coefficients(schedule, pairs, eta))
