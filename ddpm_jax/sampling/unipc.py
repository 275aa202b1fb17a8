"""UniPC, a predictor and a corrector that share one evaluation: Zhao et al. 2023, in data prediction with B_2(h).

    predictor   DPM-Solver++'s step of the same order, from x_t to a first x_s
    corrector   the step to x_s once more, with the prediction at that first x_s added to those before it

The corrector raises the order by one and costs nothing, since the prediction at x_s is needed for the next step anyway;
it is not asked again at the corrected x_s. Of order 2 it integrates the parabola through three predictions as
`dpm_solver.py` writes it; of order 1 it takes the mean of two, the limit of that for short steps.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.dpm_solver import (
    LowerOrderFinal,
    Nodes,
    Weights,
    half_log_snr,
    phi,
    solver_weights,
    step_orders,
)
from ddpm_jax.sampling.loop import SCAN, Loop
from ddpm_jax.sampling.timesteps import Pairs, path
from ddpm_jax.shapes import ImageKeys, Images


class StepCoefficients(NamedTuple):
    """One step: where it starts, how x_t is corrected there, and how x_s is predicted from it."""

    t: Array
    corrector: Weights
    predictor: Weights


def corrected_integral(order: int, h: float, before: float) -> Float[np.ndarray, "3"]:
    """Weights of the predictions at s, at t and before t in int_0^h exp(u - h) x_0 du; before: the length up to t.

    `dpm_solver.integral` is the same without the prediction at s.
    """
    phi_0, phi_1, phi_2 = phi(h)
    start, slope = np.array([0.0, 1.0, 0.0]), np.array([1.0, -1.0, 0.0])
    if order == 1:
        return phi_0 * (start + 0.5 * slope)
    older = h / before * np.array([0.0, 1.0, -1.0])
    bend = (slope - older) * h / (h + before)
    return phi_0 * start + phi_1 * (slope - bend) + 2.0 * phi_2 * bend


def corrector_weights(signal: Nodes, noise: Nodes, order: int, lower_order_final: LowerOrderFinal) -> Weights:
    """How each x_t is corrected before its step, in float64: x [steps], x0 [steps, order + 1].

    Row i does the step that ended at node i again; there is none for x_T, which stays as it is.
    """
    h = np.diff(half_log_snr(signal, noise))
    before = np.insert(h, 0, np.inf)
    orders = step_orders(h, order, lower_order_final)
    rows = [np.zeros(order + 1)]
    for i in range(len(h) - 1):
        rows.append(signal[i + 1] * corrected_integral(orders[i], h[i], before[i])[: order + 1])
    return Weights(np.insert(noise[1:-1] / noise[:-2], 0, 1.0), np.stack(rows))


def unipc(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Images,
    keys: ImageKeys,
    pairs: Pairs,
    *,
    order: int = 2,
    lower_order_final: LowerOrderFinal = "always",
    loop: Loop = SCAN,
) -> Any:
    """Draws one image for each x_T.

    x_T: standard normal; keys: not used, as nothing is drawn on the way; pairs: [steps, 2], each beginning where the
    one before ended; order: 1 or 2. lower_order_final: let the order fall to 1 towards the last step "always",
    "never", or with fewer than 15 steps ("few").
    """
    if order not in (1, 2):
        raise ValueError(f"order is {order}; expected 1 or 2 (3 is dpm_solver's).")
    nodes = path(pairs)
    tables = schedule.signal_rate[nodes], schedule.noise_rate[nodes]
    corrector = corrector_weights(*tables, order, lower_order_final)
    # Of orders 1 and 2, UniPC's predictor with B_2(h) is DPM-Solver++'s.
    predictor = solver_weights(*tables, order, lower_order_final)

    def step(x: Images, memory: tuple, c: StepCoefficients) -> tuple[Images, Images, tuple]:
        start, earlier = memory
        predictions = (denoiser(x, jnp.full(x.shape[:1], c.t)).x0, *earlier)
        x = c.corrector.sum(start, predictions)
        return c.predictor.sum(x, predictions[:-1]), predictions[0], (x, predictions[:-1])

    corrector, predictor = (
        Weights(*(jnp.asarray(part, x_T.dtype) for part in weights)) for weights in (corrector, predictor)
    )
    memory = (jnp.asarray(x_T), (jnp.zeros_like(x_T),) * order)
    return loop(step, x_T, memory, StepCoefficients(jnp.asarray(pairs[:, 0]), corrector, predictor))
