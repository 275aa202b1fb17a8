"""DPM-Solver++, the deterministic multistep one: Lu et al. 2022b, orders 1, 2 and 3.

With lambda = log(signal / noise) for time and h = lambda_s - lambda_t, the probability-flow ODE is solved exactly by

    x_s = noise_s / noise_t x_t + signal_s int_0^h exp(u - h) x_0(lambda_t + u) du          (their proposition 4.1)

Order k approximates x_0(lambda) from the last k predictions: order 1 by a constant, which is DDIM; order 2 by the
straight line through two, evaluated in the middle of the step ("2M"); order 3 by the parabola through three. So each
x_s is a weighted sum of x_t and past predictions, with weights that are known in advance:

    int_0^h exp(u - h) (u / h)^j / j! du = phi_j,   phi_0 = 1 - exp(-h),   phi_j = 1 / j! - phi_{j-1} / h

The step to s = 0 and a step from zero signal are infinitely long: they use order 1, whose limit is
x_s = signal_s x_0 + noise_s / noise_t x_t, and differences over such a step vanish. A step much longer in lambda than
the one before it, such as the last one of "leading", extrapolates too far; "quadratic" has no such step.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.loop import SCAN, Loop
from ddpm_jax.sampling.timesteps import Pairs, path
from ddpm_jax.shapes import ImageKeys, Images

Nodes = Float[np.ndarray, "nodes"]
LowerOrderFinal = Literal["few", "always", "never"]
ThirdOrder = Literal["parabola", "diffusers"]

FEW_STEPS = 15
"""With fewer steps, full order is unstable in the last ones, according to Lu et al.'s code."""


class Weights(NamedTuple):
    """A weighted sum of an image and predictions of x_0: one scalar, and one for each prediction, newest first."""

    x: Any
    x0: Any

    def sum(self, x: Images, predictions: Sequence[Images]) -> Images:
        """The weighted sum, for the weights of one step."""
        return self.x * x + sum(weight * x0 for weight, x0 in zip(self.x0, predictions, strict=True))

    def cast(self, dtype: Any) -> "Weights":
        """The weights as JAX arrays of this type."""
        return Weights(jnp.asarray(self.x, dtype), jnp.asarray(self.x0, dtype))


def step_lengths(signal: Nodes, noise: Nodes) -> Float[np.ndarray, "steps"]:
    """Length of each step in lambda = log(signal / noise), float64; infinite where signal or noise is 0."""
    with np.errstate(divide="ignore"):
        return np.diff(np.log(signal) - np.log(noise))


def phi(h: float) -> tuple[float, float, float]:
    """The integrals phi_0, phi_1, phi_2 over a step of length h, which may be infinite."""
    phi_0 = -np.expm1(-h)
    phi_1 = 1.0 - phi_0 / h
    return phi_0, phi_1, 0.5 - phi_1 / h


def step_orders(h: Nodes, order: int, lower_order_final: LowerOrderFinal) -> list[int]:
    """The order of each step: at most the number of predictions so far, and falling at the end if requested."""
    steps = len(h)
    orders = np.minimum(order, np.arange(steps) + 1)
    if lower_order_final == "always" or (lower_order_final == "few" and steps < FEW_STEPS):
        orders = np.minimum(orders, steps - np.arange(steps))
    return np.where(np.isinf(h), 1, orders).tolist()


def integral(order: int, h: float, before: Sequence[float], third_order: ThirdOrder) -> Float[np.ndarray, "3"]:
    """Weights of the last three predictions in int_0^h exp(u - h) x_0 du; before: lengths of the two previous steps.

    Differences are taken over u / h: "slope" and "older" are first differences, "curvature" is the second derivative.
    """
    phi_0, phi_1, phi_2 = phi(h)
    newest = np.array([1.0, 0.0, 0.0])
    if order == 1:
        return phi_0 * newest
    slope = h / before[0] * np.array([1.0, -1.0, 0.0])
    if order == 2:
        return phi_0 * (newest + 0.5 * slope)
    older = h / before[1] * np.array([0.0, 1.0, -1.0])
    span = before[0] + before[1]
    curvature = h / span * (slope - older) * {"parabola": 2.0, "diffusers": 1.0}[third_order]
    slope = slope + before[0] / span * (slope - older)
    return phi_0 * newest + phi_1 * slope + phi_2 * curvature


def solver_weights(
    signal: Nodes,
    noise: Nodes,
    order: int = 2,
    lower_order_final: LowerOrderFinal = "few",
    third_order: ThirdOrder = "parabola",
) -> Weights:
    """The weights of every step in float64: x [steps], x0 [steps, order].

    signal, noise: rates at the nodes from x_T to the end, [steps + 1].
    """
    h = step_lengths(signal, noise)
    before = np.insert(h, 0, [np.inf, np.inf])  # The first step has order 1, which ignores the lengths before it.
    orders = step_orders(h, order, lower_order_final)
    rows = [
        signal[i + 1] * integral(orders[i], h[i], (before[i + 1], before[i]), third_order)[:order]
        for i in range(len(h))
    ]
    return Weights(noise[1:] / noise[:-1], np.stack(rows))


def dpm_solver(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Images,
    keys: ImageKeys,
    pairs: Pairs,
    *,
    order: int = 2,
    lower_order_final: LowerOrderFinal = "few",
    third_order: ThirdOrder = "parabola",
    loop: Loop = SCAN,
) -> Any:
    """Samples one image from each x_T.

    x_T: standard normal; keys: unused, since no noise is added; pairs: [steps, 2], each starting where the previous
    one ended; order: 1 to 3. lower_order_final: lower the order to 1 towards the last step "always", "never", or with
    fewer than 15 steps ("few"). third_order: "diffusers" halves the curvature of the parabola, as Lu et al.'s code and
    diffusers do, and converges only with order 2.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order is {order}; expected 1, 2 or 3.")
    nodes = path(pairs)
    tables = schedule.signal_rate[nodes], schedule.noise_rate[nodes]
    weights = solver_weights(*tables, order, lower_order_final, third_order).cast(x_T.dtype)

    def step(x: Images, earlier: tuple, coefficients: tuple[Array, Weights]) -> tuple[Images, Images, tuple]:
        t, weights = coefficients
        predictions = (denoiser(x, jnp.full(x.shape[:1], t)).x0, *earlier)
        return weights.sum(x, predictions), predictions[0], predictions[:-1]

    return loop(step, x_T, (jnp.zeros_like(x_T),) * (order - 1), (jnp.asarray(pairs[:, 0]), weights))
