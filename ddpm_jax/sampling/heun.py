"""Heun's second-order method for the probability-flow ODE in the noise level: Karras et al. 2022, Algorithm 1.

With sigma = noise / signal, x / signal is an image plus noise of deviation sigma, and eps is its slope in sigma. Step:

    Euler        x_s = signal_s x_0 + noise_s eps, with x_0 and eps predicted from x_t: exactly DDIM's step
    correction   x_s + signal_s (sigma_s - sigma_t) / 2 (eps' - eps), with eps' predicted from Euler's x_s: trapezoid

The step to s = 0, where no noise is left to predict, is Euler's alone, so that S steps are at most 2 S - 1 evaluations
of the denoiser. So is a step from zero signal, and any with sigma_t / sigma_s > MAX_RATIO: the factor of eps' - eps,
which is noise_s (1 - sigma_t / sigma_s) / 2, has no bound, and a step that is long in log sigma would be corrected too
far. Of ten or more steps of "karras" (`timesteps.py`), only the first, from T, may be so long.

Karras et al.'s noise that is added between steps ("churn") is left out; DDIM's `eta` is for that.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.loop import SCAN, Loop
from ddpm_jax.sampling.timesteps import Pairs
from ddpm_jax.shapes import ImageKeys, Images

MAX_RATIO = 10.0
"""Largest sigma_t / sigma_s of a step that is corrected; it is 1.3 to 3 in Karras et al.'s 18 steps."""


def heun_coefficients(schedule: Schedule, pairs: Pairs, dtype: Any) -> tuple[Array, ...]:
    """t, s, the number of evaluations, and the factors of x_0, eps and eps' - eps for every step, from float64."""
    t, s = pairs.T
    with np.errstate(divide="ignore"):
        ratio = schedule.sigma[t] / schedule.sigma[s]
    corrected = ratio <= MAX_RATIO
    change = schedule.noise_rate[s] * (1.0 - np.where(corrected, ratio, 1.0)) / 2.0
    factors = schedule.signal_rate[s], schedule.noise_rate[s], change
    return *map(jnp.asarray, (t, s, 1 + corrected)), *(jnp.asarray(factor, dtype) for factor in factors)


def heun(
    denoiser: Denoiser, schedule: Schedule, x_T: Images, keys: ImageKeys, pairs: Pairs, *, loop: Loop = SCAN
) -> Any:
    """Samples one image from each x_T.

    x_T: standard normal; keys: unused, since no noise is added; pairs: [steps, 2] from `step_pairs`.
    """

    def step(x: Images, memory: Any, coefficients: tuple[Array, ...]) -> tuple[Images, Images, Any]:
        t, s, evaluations, signal, noise, change = coefficients

        def evaluate(number: Int[Array, ""] | int, state: tuple[Images, ...]) -> tuple[Images, ...]:
            x_now, x0, eps = state
            prediction = denoiser(x_now, jnp.full(x.shape[:1], jnp.where(number == 0, t, s)))
            x0, eps = (jnp.where(number == 0, *pair) for pair in ((prediction.x0, x0), (prediction.eps, eps)))
            return signal * x0 + noise * eps + change * (prediction.eps - eps), x0, eps

        # A loop, so that the network is compiled once and the last step does not evaluate it in vain.
        x_s, x0, _ = jax.lax.fori_loop(0, evaluations, evaluate, (x, jnp.zeros_like(x), jnp.zeros_like(x)))
        return x_s, x0, memory

    return loop(step, x_T, (), heun_coefficients(schedule, pairs, x_T.dtype))
