"""Precision and recall, density and coverage: how much of each set lies in the neighbourhoods of the other.

An image's neighbourhood is the ball around it that reaches its k-th nearest neighbour in its own set.

precision   share of fakes in the neighbourhood of at least one real image                     (Kynkäänniemi 2019)
recall      share of real images in the neighbourhood of at least one fake
density     mean number of real neighbourhoods that hold a fake, divided by k                  (Naeem et al. 2020)
coverage    share of real images with at least one fake in their neighbourhood
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.frechet import Features

PRECISION_K, DENSITY_K = 3, 5
"""Numbers of neighbours, as in the papers."""
BLOCK = 1000
"""Rows of the distance matrix that are in memory at once."""


class Manifold(NamedTuple):
    """The four metrics, in 0..1 except density, which may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Features, fake: Features) -> Manifold:
    """All four in float64, with memory for BLOCK x N distances. Raises UserError for too few images."""
    fewest = min(len(real), len(fake))
    if fewest <= DENSITY_K:
        raise UserError(f"{fewest} images have no {DENSITY_K} neighbours each; expected at least {DENSITY_K + 1}.")
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    real_radii, fake_radii = neighbour_distances(real), neighbour_distances(fake)
    inside_real = np.zeros(len(fake), bool)
    inside_fake, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    density = 0
    for rows, distances in _blocks(real, fake):
        inside_real |= (distances <= real_radii[PRECISION_K][rows, None]).any(axis=0)
        inside_fake[rows] = (distances <= fake_radii[PRECISION_K][None]).any(axis=1)
        near = distances < real_radii[DENSITY_K][rows, None]
        density += int(near.sum())
        covered[rows] = near.any(axis=1)
    return Manifold(
        precision=float(inside_real.mean()),
        recall=float(inside_fake.mean()),
        density=density / (DENSITY_K * len(fake)),
        coverage=float(covered.mean()),
    )


def neighbour_distances(features: Features) -> dict[int, Float[np.ndarray, "N"]]:
    """Squared distance from each image to its k-th neighbour other than itself, for both k."""
    ranks = sorted({PRECISION_K, DENSITY_K})
    found = {k: np.empty(len(features)) for k in ranks}
    for rows, distances in _blocks(features, features):
        np.fill_diagonal(distances[:, rows], 0.0)
        nearest = np.partition(distances, ranks, axis=1)
        for k in ranks:
            found[k][rows] = nearest[:, k]
    return found


def _blocks(a: Features, b: Features) -> Iterator[tuple[slice, Float[np.ndarray, "rows N"]]]:
    """Squared distances from BLOCK rows of a at a time to all of b."""
    squares = (b**2).sum(axis=1)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, min(start + BLOCK, len(a)))
        distances = (a[rows] ** 2).sum(axis=1)[:, None] + squares[None] - 2.0 * (a[rows] @ b.T)
        yield rows, np.maximum(distances, 0.0)
