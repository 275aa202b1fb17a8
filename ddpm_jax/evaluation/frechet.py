"""Mean and covariance of features, accumulated in float64, and the Fréchet distance between two such pairs.

FID = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr sqrt(S_1 S_2)                (Heusel et al. 2017, Eq. 6)
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ddpm_jax.errors import UserError

Features = Float[np.ndarray, "_ D"]


class Moments(NamedTuple):
    """Size, mean and unbiased covariance of a set of features."""

    images: int | None
    """Number of images; None if unknown."""
    mean: Float[np.ndarray, "D"]
    covariance: Float[np.ndarray, "D D"]


class MomentSums:
    """Running sums for Moments; they need memory for D x D numbers, however many features are added."""

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._sum = self._products = np.zeros(())

    def add(self, features: Features) -> None:
        """Adds a batch of features; raises UserError if one is not finite."""
        if not np.isfinite(features).all():
            raise UserError("A feature is not finite; the images or the weights of the extractor are damaged.")
        if not self.count:
            # Subtracting about the mean first keeps the digits of the squares.
            self._shift = features.astype(np.float64).mean(axis=0)
            self._sum, self._products = np.zeros(len(self._shift)), np.zeros((len(self._shift),) * 2)
        centred = features.astype(np.float64) - self._shift
        self._sum = self._sum + centred.sum(axis=0)
        self._products = self._products + centred.T @ centred
        self.count += len(features)

    def moments(self) -> Moments:
        """The moments of all features added so far, at least two."""
        assert self.count >= 2
        offset = self._sum / self.count
        covariance = (self._products - self.count * np.outer(offset, offset)) / (self.count - 1)
        return Moments(self.count, self._shift + offset, covariance)


def frechet_distance(a: Moments, b: Moments, features: str = "features") -> float:
    """The squared distance between two Gaussians, whose covariances may be singular; FID if features are Inception's.

    features: their name in the UserError that is raised if their dimensions differ.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"{features} of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared; expected images of one size "
            "and number of channels, and one feature extractor."
        )
    # sqrt(S_1) S_2 sqrt(S_1) has the eigenvalues of S_1 S_2 and is symmetric, so none of them is complex.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    shift = ((a.mean - b.mean) ** 2).sum()
    return float(max(shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross, 0.0))
