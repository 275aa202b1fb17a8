"""The interface between networks and everything else: a Denoiser is any function (x_t, t) -> Prediction.

Samplers and likelihoods take a Denoiser and know nothing of networks, so they can be tested with exact denoisers.
`network/bind.py` makes one from a trained U-Net.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from ddpm_jax.diffusion.process import eps_from_v, eps_from_x0, x0_from_eps, x0_from_v
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import Images, Output, Steps


class Prediction(NamedTuple):
    """Predicted x0 and eps of x_t = signal_t x0 + noise_t eps. x0 is not clipped."""

    x0: Images
    eps: Images
    variance_weight: Images | None = None
    """Learned log-variance of the reverse step, if any, interpolated between that of the posterior (0) and the forward
    process (1): Nichol & Dhariwal 2021, Eq. 15; not confined to 0..1."""


Denoiser = Callable[[Images, Steps], Prediction]
"""(x_t [batch, height, width, channels], t [batch] in 1..T) -> Prediction."""


def prediction_of_output(schedule: Schedule, kind: str, output: Output, x_t: Images, t: Steps) -> Prediction:
    """Converts the output of a network to x0 and eps.

    kind: the predicted quantity, "eps", "x0" or "v". output: of the shape of x_t, or with twice its channels, the
    second half of which is the learned variance in -1..1.
    """
    output, variance = split_output(output, x_t)
    match kind:
        case "eps":
            return Prediction(x0_from_eps(schedule, x_t, t, output), output, variance)
        case "x0":
            return Prediction(output, eps_from_x0(schedule, x_t, t, output), variance)
        case "v":
            return Prediction(x0_from_v(schedule, x_t, t, output), eps_from_v(schedule, x_t, t, output), variance)
    raise ValueError(f"prediction is {kind!r}; expected 'eps', 'x0' or 'v'.")


def split_output(output: Output, x_t: Images) -> tuple[Images, Images | None]:
    """The predicted quantity and the variance weight; None if the network predicts no variance."""
    if output.shape == x_t.shape:
        return output, None
    mean, variance = jnp.split(output, 2, axis=-1)
    return mean, (variance + 1.0) / 2.0
