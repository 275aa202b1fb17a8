"""Inception Score (Salimans et al. 2016): exp of the mean KL(p(y | x) || p(y)), over ten splits of the images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SPLITS = 10
Logits = Float[np.ndarray, "batch classes"]


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    inception_score_mean: float
    inception_score_std: float


class ScoreSums:
    """Running sums for the score; their memory does not grow with the number of images."""

    def __init__(self, splits: Int[np.ndarray, "N"]) -> None:
        """splits: the number of each image's split, in the order in which logits are added."""
        self._splits, self._seen = splits, 0
        self._counts = np.bincount(splits, minlength=SPLITS)
        self._negative_entropies = np.zeros(SPLITS)
        self._sums = np.zeros(())

    def add(self, logits: Logits) -> None:
        """Adds the logits of the next images."""
        from scipy.special import log_softmax  # Imported here, since it takes 0.2 s.

        logs = log_softmax(logits.astype(np.float64), axis=1)
        splits = self._splits[self._seen : self._seen + len(logits)]
        self._seen += len(logits)
        if not self._sums.ndim:
            self._sums = np.zeros((SPLITS, logits.shape[1]))
        np.add.at(self._sums, splits, np.exp(logs))
        np.add.at(self._negative_entropies, splits, (np.exp(logs) * logs).sum(axis=1))

    def score(self) -> InceptionScore | None:
        """The score over the splits that hold images; None if no logits were added."""
        if not self._seen:
            return None
        held = self._counts > 0
        counts = self._counts[held]
        marginal = self._sums[held] / counts[:, None]
        entropies = -(marginal * np.log(np.maximum(marginal, 1e-300))).sum(axis=1)
        scores = np.exp(self._negative_entropies[held] / counts + entropies)
        return InceptionScore(float(scores.mean()), float(scores.std()))


def random_splits(count: int, seed: int = 2020) -> Int[np.ndarray, "N"]:
    """Assigns each of `count` images to a split at random, since images may be sorted by class; sizes differ by 1."""
    splits = np.empty(count, int)
    splits[np.random.default_rng(seed).permutation(count)] = np.arange(count) * SPLITS // max(count, 1)
    return splits
