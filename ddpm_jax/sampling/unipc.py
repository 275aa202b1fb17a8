"""UniPC, a predictor and a corrector that share one evaluation: Zhao et al. 2023, in data prediction with B_2(h).

    predictor   DPM-Solver++'s step of the same order, from x_t to a first x_s
    corrector   the step to x_s repeated, using also the prediction at that first x_s

The corrector raises the order by one at no cost, since the next step needs the prediction at x_s anyway; the denoiser
is not evaluated again at the corrected x_s. The corrector of order 2 integrates the parabola through three predictions
as `dpm_solver.py` does; that of order 1 takes the mean of two, which is its limit for short steps.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.dpm_solver import LowerOrderFinal, Nodes, Weights, phi, solver_weights, step_lengths, step_orders
from ddpm_jax.sampling.loop import SCAN, Loop
from ddpm_jax.sampling.timesteps import Pairs, path
from ddpm_jax.shapes import ImageKeys, Images


def corrected_integral(order: int, h: float, before: float) -> Float[np.ndarray, "3"]:
    """Weights of the predictions at s, at t and before t in int_0^h exp(u - h) x_0 du.

    before: length of the step that ended at t. `dpm_solver.integral` is the same without the prediction at s.
    """
    phi_0, phi_1, phi_2 = phi(h)
    start, slope = np.array([0.0, 1.0, 0.0]), np.array([1.0, -1.0, 0.0])
    if order == 1:
        return phi_0 * (start + 0.5 * slope)
    older = h / before * np.array([0.0, 1.0, -1.0])
    bend = (slope - older) * h / (h + before)
    return phi_0 * start + phi_1 * (slope - bend) + 2.0 * phi_2 * bend


def corrector_weights(signal: Nodes, noise: Nodes, order: int, lower_order_final: LowerOrderFinal) -> Weights:
    """Weights that correct each x_t before its step, in float64: x [steps], x0 [steps, order + 1].

    Row i repeats the step that ended at node i; row 0 leaves x_T as it is.
    """
    h = step_lengths(signal, noise)
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
    """Samples one image from each x_T. Arguments as for `dpm_solver`; order: 1 or 2."""
    if order not in (1, 2):
        raise ValueError(f"order is {order}; expected 1 or 2 (3 is dpm_solver's).")
    nodes = path(pairs)
    tables = schedule.signal_rate[nodes], schedule.noise_rate[nodes]
    corrector = corrector_weights(*tables, order, lower_order_final).cast(x_T.dtype)
    # UniPC's predictor with B_2(h) is DPM-Solver++ for orders 1 and 2.
    predictor = solver_weights(*tables, order, lower_order_final).cast(x_T.dtype)

    def step(x: Images, memory: tuple, coefficients: tuple[Array, Weights, Weights]) -> tuple[Images, Images, tuple]:
        t, corrector, predictor = coefficients
        start, earlier = memory
        predictions = (denoiser(x, jnp.full(x.shape[:1], t)).x0, *earlier)
        x = corrector.sum(start, predictions)
        return predictor.sum(x, predictions[:-1]), predictions[0], (x, predictions[:-1])

    memory = (jnp.asarray(x_T), (jnp.zeros_like(x_T),) * order)
    return loop(step, x_T, memory, (jnp.asarray(pairs[:, 0]), corrector, predictor))
