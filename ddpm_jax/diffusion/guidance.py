"""Classifier-free guidance: from the predictions with and without a label to the one that a sampler follows.

    guided = unconditional + w (conditional - unconditional)          (Ho & Salimans 2022, Eq. 6, whose w is less by 1)

w = 1 is the conditional model, w = 0 the unconditional one, and more exaggerates the label. `network/bind.py` asks
the network for both in one batch.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.diffusion.process import eps_from_x0
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import Images, Steps


class Guidance(NamedTuple):
    """Strength and interval of guidance; the default leaves the conditional model as it is."""

    scale: float = 1.0
    """The w above."""
    interval: tuple[int, int] | None = None
    """Only for t from the first to the last of these: Kynkäänniemi et al. 2024. Elsewhere the conditional model is
    followed: early on guidance makes images alike, at the end it does nothing."""
    rescale: float = 0.0
    """Share of x_0 that is given back the conditional one's contrast: phi of Lin et al. 2023, section 3.4; 0..1."""


UNGUIDED = Guidance()


def guide(
    guidance: Guidance, schedule: Schedule, x_t: Images, t: Steps, conditional: Prediction, unconditional: Prediction
) -> Prediction:
    """The guided prediction for x_t at t; the learned variance is the conditional one's."""

    def mixed(given: Images, free: Images) -> Images:
        return free + guidance.scale * (given - free)

    x0, eps = mixed(conditional.x0, unconditional.x0), mixed(conditional.eps, unconditional.eps)
    if guidance.rescale:
        x0 = rescaled(x0, conditional.x0, guidance.rescale)
        eps = eps_from_x0(schedule, x_t, t, x0)
    if guidance.interval is not None:
        low, high = guidance.interval
        inside = ((t >= low) & (t <= high)).reshape(t.shape + (1,) * (x_t.ndim - 1))
        x0, eps = jnp.where(inside, x0, conditional.x0), jnp.where(inside, eps, conditional.eps)
    return Prediction(x0, eps, conditional.variance_weight)


def rescaled(x0: Images, conditional: Images, share: float) -> Images:
    """x_0 with each image's standard deviation moved to the conditional one's, Lin et al. 2023, section 3.4.

    Strong guidance inflates it, which shows as overexposure. share: 0 (not at all) to 1 (all the way).
    """
    pixels = tuple(range(1, x0.ndim))
    # A flat image has no contrast to correct.
    spread = jnp.maximum(jnp.std(x0, axis=pixels, keepdims=True), 1e-12)
    ratio = jnp.std(conditional, axis=pixels, keepdims=True) / spread
    return (share * ratio + (1.0 - share)) * x0
