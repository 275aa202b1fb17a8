"""Keeping the predicted x_0 among images: a Denoiser in, a Denoiser out, so that no sampler knows of it.

    clip      x_0 cut to [-1, 1]                                              (Ho et al. 2020's code)
    dynamic   x_0 cut to [-c, c] and divided by c, the percentile of |x_0|    (Saharia et al. 2022, section 2.3)

eps follows x_0, so that x_t stays signal_t x_0 + noise_t eps, as in Ho et al.'s and ADM's code. With keep_eps it stays
as the model gave it, as in diffusers; what strong guidance adds to it then remains in the image though x_0 was cut. Of
the samplers only DDIM looks at eps.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.diffusion.process import eps_from_x0
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import Images, Steps

Threshold = Callable[[Images], Images]


def clip(x0: Images) -> Images:
    """x_0 cut to [-1, 1]."""
    return jnp.clip(x0, -1.0, 1.0)


def dynamic(percentile: float = 0.995, maximum: float | None = None) -> Threshold:
    """Cuts each image at its own percentile (0..1) of |x_0|, where that exceeds 1, and scales it back into [-1, 1].

    maximum: the most that is divided by, None for any; diffusers' sample_max_value, whose default of 1 makes it `clip`.
    """

    def threshold(x0: Images) -> Images:
        bound = jnp.quantile(jnp.abs(x0), percentile, axis=tuple(range(1, x0.ndim)), keepdims=True)
        bound = jnp.clip(bound, 1.0, maximum)
        return jnp.clip(x0, -bound, bound) / bound

    return threshold


def constrain(denoiser: Denoiser, schedule: Schedule, threshold: Threshold, *, keep_eps: bool = False) -> Denoiser:
    """The same denoiser with its x_0 put through the threshold, and eps to match unless keep_eps."""

    def denoise(x_t: Images, t: Steps) -> Prediction:
        prediction = denoiser(x_t, t)
        x0 = threshold(prediction.x0)
        eps = prediction.eps if keep_eps else eps_from_x0(schedule, x_t, t, x0)
        return prediction._replace(x0=x0, eps=eps)

    return denoise
