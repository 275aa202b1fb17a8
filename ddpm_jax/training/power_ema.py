"""EMAs with power-function profiles, from which the EMA of another width is rebuilt after training.

Karras et al. 2023, "Analyzing and improving the training dynamics of diffusion models", section 3 and appendix C:

    EMA(t) = int_0^t p(tau) params(tau) dtau,   p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)
    EMA   <- EMA + w (params - EMA),            w = 1 - (1 - 1/t)^(gamma + 1),  at update t = 1, 2, …

The update is the integral exactly, with params(tau) constant between updates. The width of a profile is its standard
deviation divided by t. A profile of another width is fitted by a sum of those of snapshots, in the mean square; the
same sum of the snapshots is then the EMA. `ema_snapshots.py` keeps the snapshots.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ddpm_jax.config.fields import WIDEST

WORST_FIT = 0.05
"""Largest error of a fitted profile, relative to its norm."""
WIDTH_STEP = 0.005
"""Distance of the widths among which `fitted_widths` searches."""
SMALLEST_SINGULAR = 1e-10
"""Singular values below this fraction of the largest one are noise of float64."""

Numbers = Float[np.ndarray, "snapshots"]
Values = np.ndarray | np.float64


def exponent_of(width: float) -> float:
    """gamma of a profile, from its relative width in (0, 0.288]: the largest real root of a cubic (algorithm 2)."""
    inverse = width**-2.0
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def width_of(exponent: float) -> float:
    """The relative width of a profile: its standard deviation divided by t."""
    return float(np.sqrt(exponent + 1.0) / ((exponent + 2.0) * np.sqrt(exponent + 3.0)))


def start_power_emas(params: PyTree, count: int) -> tuple[PyTree, ...]:
    """The EMAs before the first update, which replaces them: zeros, so that it does so to the bit."""
    return tuple(jax.tree.map(jnp.zeros_like, params) for _ in range(count))


def update_power_emas(
    widths: Sequence[float], emas: tuple[PyTree, ...], params: PyTree, t: Array
) -> tuple[PyTree, ...]:
    """The EMAs after update t, counted from 1, given the *new* parameters."""
    return tuple(_update(width, ema, params, t) for width, ema in zip(widths, emas, strict=True))


def _update(width: float, ema: PyTree, params: PyTree, t: Array) -> PyTree:
    # 1 - (1 - 1/t)^(gamma + 1), which would lose most digits in float32 once t is large.
    weight = -jnp.expm1((exponent_of(width) + 1.0) * jnp.log1p(-1.0 / t.astype(jnp.float32)))
    return jax.tree.map(lambda old, new: old + weight * (new - old), ema, params)


def inner_product(t_a: Values, gamma_a: Values, t_b: Values, gamma_b: Values) -> Values:
    """int p_a p_b of two profiles that end at t_a and t_b, elementwise (algorithm 3)."""
    power = np.where(t_a < t_b, gamma_b, -gamma_a)
    return (gamma_a + 1.0) * (gamma_b + 1.0) * (t_a / t_b) ** power / ((gamma_a + gamma_b + 1.0) * np.maximum(t_a, t_b))


def fit_profile(times: Sequence[int], widths: Sequence[float], t: int, width: float) -> tuple[Numbers, float]:
    """The weights of snapshots in the EMA of another width at t, and the error of that profile relative to its norm.

    times, widths: one of each for every snapshot. The weights sum to 1, so that constant parameters are reproduced.
    """
    ends, end = np.asarray(times, np.float64), np.float64(t)
    gammas, gamma = np.array([exponent_of(each) for each in widths]), np.float64(exponent_of(width))
    products = inner_product(ends[:, None], gammas[:, None], ends, gammas)
    wanted, norm = inner_product(ends, gammas, end, gamma), inner_product(end, gamma, end, gamma)
    lengths = np.sqrt(np.diag(products))  # Profiles of unit norm, for a well-conditioned system.
    unit = products / lengths / lengths[:, None]
    weights = np.linalg.lstsq(unit, wanted / lengths, rcond=SMALLEST_SINGULAR)[0] / lengths
    weights /= weights.sum()
    square = norm - 2.0 * weights @ wanted + weights @ products @ weights
    return weights, float(np.sqrt(np.maximum(square, 0.0) / norm))


def fitted_widths(times: Sequence[int], widths: Sequence[float], t: int) -> list[tuple[float, float]]:
    """The ranges (lowest, highest) of widths whose EMA at t these snapshots give, in multiples of WIDTH_STEP."""
    searched = [round(WIDTH_STEP * i, 3) for i in range(1, round(WIDEST / WIDTH_STEP) + 1)]
    sound = {width: fit_profile(times, widths, t, width)[1] <= WORST_FIT for width in searched}
    runs = (list(run) for fits, run in itertools.groupby(searched, sound.__getitem__) if fits)
    return [(run[0], run[-1]) for run in runs]
