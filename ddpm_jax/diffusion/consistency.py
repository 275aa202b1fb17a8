"""Consistency tuning: a diffusion model learns to map any x_t of a trajectory to its clean end in one evaluation.

    f(x_t, t) = the predicted x_0,   f(x_0, 0) = x_0
    loss = weight(t, s) * distance(f(x_t, t), stop_gradient f(x_s, s)),   s < t, x_t and x_s of the same x_0 and eps

The boundary condition holds by itself, since alpha_bar_0 = 1. Training begins from the parameters of a diffusion model
and proceeds in stages, in which s draws nearer to t: Geng et al. 2024, "Consistency models made easy". With s = 0 the
loss is that of a diffusion model with prediction "x0"; with s = t - 1 it is that of Song et al. 2023, Eq. 9 and
Theorem 2, whose target needs no teacher. `sampling/consistency.py` samples in one to four steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ddpm_jax.diffusion.denoiser import prediction_of_output
from ddpm_jax.diffusion.likelihood import mean_over_pixels
from ddpm_jax.diffusion.objective import Network
from ddpm_jax.diffusion.process import q_sample
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import Images, PerImage, Steps

EarlierSteps = Int[np.ndarray, "stages T1"]
"""s for each stage and t = 0..T."""


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency:
    """The settings of the consistency loss."""

    prediction: str
    """The quantity that the network predicts: "eps", "x0" or "v"."""
    earlier: EarlierSteps
    total_steps: int
    """Training steps, which the stages divide evenly."""
    huber: float = 0.1
    """Error up to which the distance is about quadratic, as a root mean square over pixels. Song & Dhariwal 2023,
    section 3.3, take 0.00054, with weights of 1 / (sigma_t - sigma_s); on digits that was neither better nor worse."""


def earlier_steps(schedule: Schedule, stages: int) -> EarlierSteps:
    """The s that t is compared with in each stage, by sigma = noise / signal (Geng et al. 2024, section 3.2):

        sigma_s = sigma_t max(0, 1 - n(sigma_t) / 2^stage),   n(sigma) = 1 + 8 sigmoid(-sigma),   stage = 1..stages

    s is the step whose log(sigma) is nearest, but below t; 0 where sigma_s is 0.
    """
    with np.errstate(divide="ignore", over="ignore"):
        sigma = schedule.sigma
        shrink = 1.0 + 8.0 / (1.0 + np.exp(np.minimum(sigma, 700.0)))
        ratio = np.maximum(1.0 - shrink / 2.0 ** np.arange(1, stages + 1)[:, None], 0.0)
        wanted, known = np.log(ratio * sigma), np.log(sigma)
    # The highest step of zero terminal SNR has no logarithm; its s follows from the step below.
    inner = known[1:-1]
    above = np.searchsorted(inner, wanted).clip(1, len(inner) - 1)
    nearest = above + 1 - (wanted - inner[above - 1] < inner[above] - wanted)
    nearest = np.where(ratio > 0.0, nearest, 0)
    return np.minimum(nearest, np.maximum(np.arange(len(sigma)) - 1, 0))


def stage_of(consistency: Consistency, step: int | Int[Array, ""]) -> Int[Array, ""]:
    """The stage of a training step, counted from 0; steps beyond the last one are of the last stage."""
    stages = len(consistency.earlier)
    # Not step * stages, which overflows int32 in long runs of many stages.
    share = jnp.asarray(step, jnp.float32) / consistency.total_steps
    return jnp.clip(jnp.floor(share * stages).astype(jnp.int32), 0, stages - 1)


def consistency_losses(
    consistency: Consistency,
    schedule: Schedule,
    network: Network,
    x0: Images,
    t: Steps,
    noise: Images,
    step: int | Int[Array, ""],
) -> PerImage:
    """The loss of each image at a training step, in float32.

    network: (x_t, t) -> output; x0: in [-1, 1]; t: in 1..T. Both evaluations use the same dropout, whose keys belong to
    the network.
    """

    def clean(steps: Steps) -> Images:
        x = q_sample(schedule, x0, steps, noise)
        return prediction_of_output(schedule, consistency.prediction, network(x, steps), x, steps).x0

    s = jnp.asarray(consistency.earlier, jnp.int32)[stage_of(consistency, step), t]
    at_start = (s == 0).reshape(s.shape + (1,) * (x0.ndim - 1))
    target = jax.lax.stop_gradient(jnp.where(at_start, x0, clean(jnp.maximum(s, 1))))
    square = mean_over_pixels((clean(t) - target) ** 2)
    c = consistency.huber
    # Pseudo-Huber, Song & Dhariwal 2023, Eq. 8.
    distance = jnp.sqrt(square + c * c) - c
    return pair_weights(schedule, t, s) * distance


def pair_weights(schedule: Schedule, t: Steps, s: Steps) -> PerImage:
    """(snr_t + 1) / (1 - sigma_s / sigma_t): with s = 0, the weight of a loss on v (`objective.from_x0_weight`).

    The denominator makes up for the errors that become smaller as s approaches t, as in Song & Dhariwal 2023, section
    3.4.
    """
    snr, sigma = (jnp.asarray(table, jnp.float32) for table in (schedule.snr, schedule.sigma))
    return (snr[t] + 1.0) / (1.0 - sigma[s] / sigma[t])
