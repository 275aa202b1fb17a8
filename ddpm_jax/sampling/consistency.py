"""Consistency sampling, Song et al. 2023, Algorithm 1: each step jumps to x_0, and noises it anew to the next step.

    x_s = signal_s x_0(x_t, t) + noise_s z

One step is enough for a model that was tuned for it (`diffusion/consistency.py`); more steps correct its errors. It is
DDIM with all of the noise replaced in each step.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.loop import SCAN, Loop, float32
from ddpm_jax.sampling.noise import draw_noise
from ddpm_jax.sampling.timesteps import Pairs
from ddpm_jax.shapes import ImageKeys, Images


def consistency(
    denoiser: Denoiser, schedule: Schedule, x_T: Images, keys: ImageKeys, pairs: Pairs, *, loop: Loop = SCAN
) -> Any:
    """Samples one image from each x_T.

    x_T: standard normal; keys: one per image, for the noise of the steps; pairs: [steps, 2] from `step_pairs`.
    """
    t, s = pairs.T

    def step(x: Images, memory: Any, coefficients: tuple[Array, ...]) -> tuple[Images, Images, Any]:
        t, signal, noise = coefficients
        x0 = denoiser(x, jnp.full(x.shape[:1], t)).x0
        return signal * x0 + noise * draw_noise(keys, t, x.shape[1:]), x0, memory

    return loop(step, x_T, (), (jnp.asarray(t), *float32(schedule.signal_rate[s], schedule.noise_rate[s])))
