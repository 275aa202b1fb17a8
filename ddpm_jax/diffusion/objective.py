"""The loss: a distance between the network's output and its target, weighted by t.

    loss = weight_t * distance(output, target)   [+ vlb_weight * T * L_{t-1}, if the variance is learned]

The target is eps, x0 or v (`process.py`). Ho et al. 2020, Eq. 14 is eps, squared error, weight 1.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.denoiser import prediction_of_output, split_output
from ddpm_jax.diffusion.likelihood import bound_term, mean_over_pixels
from ddpm_jax.diffusion.process import q_sample, v_from_x0_eps
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import Images, Output, PerImage, Steps, Table

Distance = Callable[[Images, Images], Images]
Weighting = Callable[[Table, str], Table]
Network = Callable[[Images, Steps], Output]
"""A network with its parameters, labels and conditions: (x_t, t) -> output."""


def squared_error(output: Images, target: Images) -> Images:
    """(output - target)^2, elementwise."""
    return (output - target) ** 2


def absolute_error(output: Images, target: Images) -> Images:
    """|output - target|, elementwise."""
    return jnp.abs(output - target)


def huber(delta: float) -> Distance:
    """Half the squared error up to |e| = delta, then linear: delta (|e| - delta / 2)."""

    def distance(output: Images, target: Images) -> Images:
        error = jnp.abs(output - target)
        return jnp.where(error <= delta, 0.5 * error**2, delta * (error - 0.5 * delta))

    return distance


def uniform(snr: Table, prediction: str) -> Table:
    """Weight 1 for every t and any prediction: Ho et al.'s L_simple."""
    return np.ones_like(snr)


def min_snr(gamma: float) -> Weighting:
    """min(snr, gamma) on the error of x0, Hang et al. 2023, Eq. 8 and section 3.4: gamma is 5 in the paper."""
    return lambda snr, prediction: from_x0_weight(np.minimum(snr, gamma), snr, prediction)


def p2(gamma: float, k: float) -> Weighting:
    """1 / (k + snr)^gamma on the error of eps, Choi et al. 2022, Eq. 8; k = 1 and gamma = 1 or 0.5 in the paper."""
    return lambda snr, prediction: from_x0_weight(snr / (k + snr) ** gamma, snr, prediction)


def from_x0_weight(weight: Table, snr: Table, prediction: str) -> Table:
    """The weight on the error of eps or v that gives the same loss as this one on the error of x0.

    |x0 error|^2 = |eps error|^2 / snr = |v error|^2 / (snr + 1).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"x0": weight, "eps": weight / snr, "v": weight / (snr + 1.0)}[prediction]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The settings of the training loss: prediction, distance and weighting of steps."""

    prediction: str = "eps"
    distance: Distance = squared_error
    weighting: Weighting = uniform
    learned_variance: bool = False
    vlb_weight: float = 1e-3
    """Factor of the bound in the hybrid loss, lambda in Nichol & Dhariwal 2021, Eq. 16."""
    depth: int = 8
    """Bits of a pixel's level, on which the bound depends."""


def losses(
    objective: Objective, schedule: Schedule, output: Output, x0: Images, x_t: Images, t: Steps, noise: Images
) -> PerImage:
    """The loss of each image, in float32.

    output: of the network, with the shape of x_t, or twice its channels if the variance is learned; x0: in [-1, 1];
    x_t: q_sample(schedule, x0, t, noise); t: in 1..T.
    """
    mean, _ = split_output(output, x_t)
    target = {"eps": noise, "x0": x0, "v": v_from_x0_eps(schedule, t, x0, noise)}[objective.prediction]
    # t = 0 is never sampled, and the SNR is infinite there.
    weights = np.insert(objective.weighting(schedule.snr[1:], objective.prediction), 0, 0.0)
    weight = jnp.asarray(weights, jnp.float32)[t]
    loss = weight * mean_over_pixels(objective.distance(mean, target))
    if not objective.learned_variance:
        return loss
    # The bound trains only the variance: its gradient through the mean is too noisy (section 3.1 of the same paper).
    frozen = jnp.concatenate([jax.lax.stop_gradient(mean), output[..., mean.shape[-1] :]], axis=-1)
    prediction = prediction_of_output(schedule, objective.prediction, frozen, x_t, t)
    bound = bound_term(schedule, "learned", prediction, x0, x_t, t, objective.depth)
    return loss + objective.vlb_weight * schedule.steps * bound


def denoising_losses(
    objective: Objective, schedule: Schedule, network: Network, x0: Images, t: Steps, noise: Images
) -> PerImage:
    """`losses` of a network at x_t of these images and this noise."""
    x_t = q_sample(schedule, x0, t, noise)
    return losses(objective, schedule, network(x_t, t), x0, x_t, t, noise)


def quarter_of(schedule: Schedule, t: Steps) -> Steps:
    """The quarter of 1..T that each t lies in, 0 (nearly clean) to 3 (nearly noise)."""
    return jnp.minimum((t - 1) * 4 // schedule.steps, 3)
