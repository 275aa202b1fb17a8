"""Kernel Inception Distance (Bińkowski et al. 2018): an unbiased squared MMD under k(x, y) = (x.y / D + 1)^3."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ddpm_jax.evaluation.frechet import Features

SUBSETS, SUBSET_SIZE = 100, 1000


class KernelDistance(NamedTuple):
    """Mean and standard deviation over random subsets."""

    kid_mean: float
    kid_std: float


def kid(
    real: Features, fake: Features, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 2020
) -> KernelDistance:
    """KID over random subsets of `size` features, or of all features if a set has fewer."""
    random = np.random.default_rng(seed)
    size = min(size, len(real), len(fake))
    distances = [
        squared_mmd(*(features[random.choice(len(features), size, replace=False)] for features in (real, fake)))
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)))


def squared_mmd(a: Features, b: Features) -> float:
    """The unbiased estimate from two sets of the same size (Gretton et al. 2012, Eq. 3); it may be negative."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    own = [_kernel(x, x) for x in (a, b)]
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in own)
    return float(within - 2.0 * _kernel(a, b).mean())


def _kernel(a: Features, b: Features) -> Float[np.ndarray, "a b"]:
    return (a @ b.T / a.shape[1] + 1.0) ** 3
