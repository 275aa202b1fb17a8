"""The steps that a sampler visits: pairs (t, s) from t = T or near it down to the clean image.

A spacing picks S of the T steps; each is paired with the next lower one, and the last with s = 0, where alpha_bar = 1,
or with s = 1, the lowest noise level that the network knows (`final`). With T = 1000 and S = 10:

    leading        901, 801, ..., 1       (Song et al.'s code; diffusers' DDIM and DDPM, which count 900, ..., 0)
    leading_open   901, 811, ..., 91      (diffusers' DPM-Solver and UniPC: the lowest of S + 1 is left out)
    trailing       1000, 900, ..., 100    (Lin et al. 2023: starts at T, as zero terminal SNR needs)
    linspace       1000, 889, ..., 1      (both ends; Nichol & Dhariwal 2021's respacing)
    linspace_open  1000, 900, ..., 201, 101  (the same solvers of diffusers: the lowest of S + 1 is left out)
    quadratic      1000, 810, ..., 40, 10    (T (i / S)^2, dense near the clean end: Song et al. 2020, appendix D.2)
    quadratic_80   801, 633, ..., 10, 1   (Song et al.'s code for CIFAR-10: squares from 0 to 0.8 T, plus 1)
    karras         1000, 931, ..., 99, 19, 1  (Karras et al. 2022: by noise level; here those of the linear schedule)

Any other choice is a list (`listed_pairs`): for example, diffusers' steps_offset = 1 is leading with each t one higher.

With `final="sigma_min"`, spacings that include t = 1 end a step earlier, since (1, 1) is no step: leading is
901, ..., 101, with the last pair (101, 1). A step that rounding repeats, as in quadratic with many steps, is visited
once; the log file counts them.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ddpm_jax.shapes import Table

Ascending = Int[np.ndarray, "steps"]
Pairs = Int[np.ndarray, "steps 2"]
Final = Literal["zero", "sigma_min"]

MAX_SIGMA = 80.0
"""Highest noise level of Karras et al. 2022, Table 1, where images hold practically no signal."""

logger = logging.getLogger(__name__)


def leading(total: int, steps: int) -> Ascending:
    """1, 1 + k, 1 + 2k, ... with k = T // S."""
    return 1 + np.arange(steps) * (total // steps)


def leading_open(total: int, steps: int) -> Ascending:
    """1 + k, 1 + 2k, ... with k = T // (S + 1), or 1 where that is 0, and at most T."""
    return np.minimum(1 + np.arange(1, steps + 1) * max(total // (steps + 1), 1), total)


def trailing(total: int, steps: int) -> Ascending:
    """T, T - T/S, T - 2T/S, ..., rounded."""
    return np.round(total - np.arange(steps)[::-1] * (total / steps)).astype(int)


def linspace(total: int, steps: int) -> Ascending:
    """From 1 to T, rounded; T alone where S = 1."""
    return 1 + np.round(np.linspace(0, total - 1, max(steps, 2))[-steps:]).astype(int)


def linspace_open(total: int, steps: int) -> Ascending:
    """S + 1 steps from 1 to T, rounded, without the 1."""
    return 1 + np.round(np.linspace(0, total - 1, steps + 1)[1:]).astype(int)


def quadratic(total: int, steps: int) -> Ascending:
    """T (i / S)^2 for i = 1..S, rounded down, and at least 1."""
    return np.maximum(total * np.arange(1, steps + 1) ** 2 // steps**2, 1)


def quadratic_80(total: int, steps: int) -> Ascending:
    """1 + 0.8 T (i / (S - 1))^2 for i = 0..S - 1, rounded down; only the highest where S = 1."""
    return 1 + (np.linspace(0, np.sqrt(0.8 * total), max(steps, 2))[-steps:] ** 2).astype(int)


def karras_sigmas(highest: float, lowest: float, count: int, rho: float = 7.0) -> Float[np.ndarray, "count"]:
    """Falling noise levels, evenly spaced in sigma^(1 / rho): Karras et al. 2022, Eq. 5; one is the highest."""
    return np.linspace(highest ** (1.0 / rho), lowest ** (1.0 / rho), max(count, 2))[:count] ** rho


def karras(sigma: Table, steps: int) -> Ascending:
    """The steps nearest in log sigma to `karras_sigmas` from that of T, or from MAX_SIGMA, to that of t = 1.

    sigma: `Schedule.sigma`. Where T lies above MAX_SIGMA, it is visited first, since sampling starts there from pure
    noise, and S - 1 noise levels follow. Without this limit, nearly half of 18 steps of the cosine schedule, which ends
    at sigma = 20,000 (infinite, but for the limit of beta), would lie between T and T - 1.
    """
    above = int(sigma[-1] > MAX_SIGMA)
    levels = karras_sigmas(min(sigma[-1], MAX_SIGMA), sigma[1], steps - above)
    log_sigma = np.log(sigma[1:])
    nearest = 1 + np.searchsorted((log_sigma[1:] + log_sigma[:-1]) / 2.0, np.log(levels))
    return np.append(nearest[::-1], np.repeat(len(log_sigma), above))


SPACINGS: dict[str, Callable[..., Ascending]] = {
    function.__name__: function
    for function in (leading, leading_open, trailing, linspace, linspace_open, quadratic, quadratic_80, karras)
}
"""Functions of (T, S); karras, which depends on the schedule, of (sigma, S)."""


def step_pairs(spacing: str, total: int, steps: int, final: Final = "zero", sigma: Table | None = None) -> Pairs:
    """The (t, s) that a sampler visits, [steps, 2], the noisiest first; 1 <= steps <= total.

    sigma: `Schedule.sigma`, which only "karras" needs.
    Fewer than `steps` if the spacing repeats steps, or if final is "sigma_min" and the spacing includes t = 1.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"steps is {steps}; expected 1 to {total}, the number of diffusion steps.")
    if spacing == "karras" and (sigma is None or len(sigma) != total + 1):
        raise ValueError(f"Spacing 'karras' needs sigma, the {total + 1} noise levels of the schedule.")
    visited = np.unique(SPACINGS[spacing](sigma if spacing == "karras" else total, steps))
    if len(visited) < steps:
        _log_repeats(spacing, steps, total, len(visited))
    return listed_pairs([int(t) for t in visited[::-1]], total, final)


def listed_pairs(timesteps: Sequence[int], total: int, final: Final = "zero") -> Pairs:
    """The (t, s) of listed steps, which must fall and lie in 1..total."""
    visited = np.array(timesteps, int)
    if not visited.size or np.any(np.diff(visited) >= 0) or visited[0] > total or visited[-1] < 1:
        raise ValueError(f"timesteps are {list(timesteps)}; expected falling whole numbers from {total} to 1.")
    end = {"zero": 0, "sigma_min": 1}[final]
    visited = visited[visited > end]
    if not visited.size:
        raise ValueError("The only step is t = 1, and final='sigma_min' ends there; add a step, or end at 'zero'.")
    return np.stack([visited, np.append(visited[1:], end)], axis=1)


def path(pairs: Pairs) -> Int[np.ndarray, "nodes"]:
    """The visited steps and the end as one list, for multistep solvers; each step must start where the last ended."""
    if np.any(pairs[1:, 0] != pairs[:-1, 1]):
        raise ValueError(f"Each step must start where the one before it ended; got (t, s) = {pairs.tolist()}.")
    return np.append(pairs[:, 0], pairs[-1, 1])


@cache  # Once, however often the steps are computed.
def _log_repeats(spacing: str, steps: int, total: int, visited: int) -> None:
    logger.debug("Spacing %r rounds %d steps of %d to %d different ones", spacing, steps, total, visited)
