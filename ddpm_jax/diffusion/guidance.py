"""Guidance: moves the prediction of a model away from that of a worse one, into the one that a sampler uses.

    guided = worse + w (better - worse)

Classifier-free guidance (Ho & Salimans 2022, Eq. 6, whose w is less by 1) compares the model with itself without the
label: w = 1 is the conditional model, w = 0 the unconditional one, and w > 1 exaggerates the label. `network/bind.py`
evaluates both in one batch. Autoguidance (Karras et al. 2024, Eq. 3) compares it with another model, the guide, which
is smaller or less trained and makes the same errors, only larger: w > 1 reduces them. Both have the same label, if any.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.diffusion.process import eps_from_x0
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import Images, Steps


class Guidance(NamedTuple):
    """Strength and interval of guidance; the default is the better model."""

    scale: float = 1.0
    """w above."""
    interval: tuple[int, int] | None = None
    """The first and last t with guidance, Kynkäänniemi et al. 2024; elsewhere the better model is used, since
    guidance reduces diversity at high noise and has no effect at low noise."""
    rescale: float = 0.0
    """How far to move the contrast of x_0 to that of the better model, 0..1: phi of Lin et al. 2023, section 3.4."""


UNGUIDED = Guidance()


def autoguided(guidance: Guidance, schedule: Schedule, model: Denoiser, guide: Denoiser) -> Denoiser:
    """A Denoiser that moves the predictions of a model away from those of its guide, Karras et al. 2024, Eq. 3."""

    def denoise(x_t: Images, t: Steps) -> Prediction:
        return guided_prediction(guidance, schedule, x_t, t, model(x_t, t), guide(x_t, t))

    return denoise


def guided_prediction(
    guidance: Guidance, schedule: Schedule, x_t: Images, t: Steps, better: Prediction, worse: Prediction
) -> Prediction:
    """The guided prediction for x_t at t, with the learned variance of the better one."""
    x0, eps = (bad + guidance.scale * (good - bad) for good, bad in zip(better[:2], worse[:2], strict=True))
    if guidance.rescale:
        x0 = rescaled(x0, better.x0, guidance.rescale)
        eps = eps_from_x0(schedule, x_t, t, x0)
    if guidance.interval is not None:
        low, high = guidance.interval
        inside = ((t >= low) & (t <= high)).reshape(t.shape + (1,) * (x_t.ndim - 1))
        x0, eps = jnp.where(inside, x0, better.x0), jnp.where(inside, eps, better.eps)
    return Prediction(x0, eps, better.variance_weight)


def rescaled(x0: Images, better: Images, share: float) -> Images:
    """x_0 with the standard deviation of each image moved to that of the better model, Lin et al. 2023, section 3.4.

    Strong guidance increases it, which looks overexposed. share: 0 (unchanged) to 1 (that of the better model).
    """
    pixels = tuple(range(1, x0.ndim))
    # A flat image has no contrast to correct.
    spread = jnp.maximum(jnp.std(x0, axis=pixels, keepdims=True), 1e-12)
    ratio = jnp.std(better, axis=pixels, keepdims=True) / spread
    return (share * ratio + (1.0 - share)) * x0
