"""Which steps a sampler visits: pairs (t, s) from t = T or near it down to s = 0.

A spacing picks S of the T steps; each is paired with the next lower one, and the last with 0, the clean image.
With T = 1000 and S = 10:

    leading    901, 801, ..., 1      (DDIM's repository; diffusers' 900, 800, ..., 0 counted from 1)
    trailing   1000, 900, ..., 100   (Lin et al. 2023: starts at T, as zero terminal SNR needs)
    linspace   1000, 889, ..., 1     (both ends; Nichol & Dhariwal 2021's respacing)
    quadratic  T (i / (S - 1))^2: dense near the clean end (Song et al. 2020, appendix D.2)
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

Ascending = Int[np.ndarray, "steps"]
Pairs = Int[np.ndarray, "steps 2"]


def leading(total: int, steps: int) -> Ascending:
    """1, 1 + k, 1 + 2k, ... with k = T // S."""
    return 1 + np.arange(steps) * (total // steps)


def trailing(total: int, steps: int) -> Ascending:
    """T, T - T/S, T - 2T/S, ..., rounded."""
    return np.round(total - np.arange(steps)[::-1] * (total / steps)).astype(int)


def linspace(total: int, steps: int) -> Ascending:
    """From 1 to T, rounded; T alone where S = 1."""
    return np.round(np.linspace(total, 1, steps)[::-1]).astype(int)


def quadratic(total: int, steps: int) -> Ascending:
    """Squares between 1 and T, rounded and lifted where rounding would repeat a step; T alone where S = 1."""
    squares = np.round(1 + (total - 1) * np.linspace(1, 0, steps)[::-1] ** 2).astype(int)
    # The i-th smallest of S distinct steps is at least i.
    return np.maximum.accumulate(np.maximum(squares, np.arange(1, steps + 1)))


SPACINGS: dict[str, Callable[[int, int], Ascending]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "quadratic": quadratic,
}


def step_pairs(spacing: str, total: int, steps: int) -> Pairs:
    """The (t, s) that a sampler walks, [steps, 2], from the noisiest to s = 0; 1 <= steps <= total."""
    if not 1 <= steps <= total:
        raise ValueError(f"steps is {steps}; expected 1 to {total}, the number of diffusion steps.")
    visited = SPACINGS[spacing](total, steps)
    return np.stack([visited, np.insert(visited[:-1], 0, 0)], axis=1)[::-1].copy()
