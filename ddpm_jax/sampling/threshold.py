"""Thresholds that keep the predicted x_0 in range: functions from Denoiser to Denoiser, unknown to the samplers.

    clip      x_0 cut to [-1, 1]                                              (Ho et al. 2020's code)
    dynamic   x_0 cut to [-c, c] and divided by c, the percentile of |x_0|    (Saharia et al. 2022, section 2.3)

eps is computed from the new x_0, so that x_t = signal_t x_0 + noise_t eps still holds, as in the code of Ho et al. and
ADM. With keep_eps it stays as predicted, as in diffusers; then the excess of strong guidance remains in the image
although x_0 was cut. DDIM and Heun are the only samplers that use eps.
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
    """Cuts each image at its own percentile (0..1) of |x_0|, if that exceeds 1, and scales it back into [-1, 1].

    maximum: largest divisor, None for no limit; diffusers' sample_max_value, whose default of 1 is equal to `clip`.
    """

    def threshold(x0: Images) -> Images:
        bound = jnp.quantile(jnp.abs(x0), percentile, axis=tuple(range(1, x0.ndim)), keepdims=True)
        bound = jnp.clip(bound, 1.0, maximum)
        return jnp.clip(x0, -bound, bound) / bound

    return threshold


def constrain(denoiser: Denoiser, schedule: Schedule, threshold: Threshold, *, keep_eps: bool = False) -> Denoiser:
    """The denoiser with the threshold applied to x_0, and eps computed from that unless keep_eps."""

    def denoise(x_t: Images, t: Steps) -> Prediction:
        prediction = denoiser(x_t, t)
        x0 = threshold(prediction.x0)
        eps = prediction.eps if keep_eps else eps_from_x0(schedule, x_t, t, x0)
        return prediction._replace(x0=x0, eps=eps)

    return denoise
