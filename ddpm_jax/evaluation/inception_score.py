"""Inception Score, Salimans et al. 2016: exp of the mean KL(p(y | x) || p(y)), over ten parts of the images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax

SPLITS = 10
Logits = Float[np.ndarray, "batch classes"]


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the parts."""

    inception_score_mean: float
    inception_score_std: float


class ScoreSums:
    """Sums that the score follows from; they take no memory for the images.

    part_of: which of the parts each image belongs to, in order of the images.
    """

    def __init__(self, part_of: Int[np.ndarray, "N"]) -> None:
        self._part_of, self._seen = part_of, 0
        self._counts = np.bincount(part_of, minlength=SPLITS)
        self._negative_entropies = np.zeros(SPLITS)
        self._sums = np.zeros(())

    @property
    def any(self) -> bool:
        """Whether logits were added."""
        return self._seen > 0

    def add(self, logits: Logits) -> None:
        """Adds the logits of the next images."""
        logs = log_softmax(logits.astype(np.float64), axis=1)
        parts = self._part_of[self._seen : self._seen + len(logits)]
        self._seen += len(logits)
        if not self._sums.ndim:
            self._sums = np.zeros((SPLITS, logits.shape[1]))
        np.add.at(self._sums, parts, np.exp(logs))
        np.add.at(self._negative_entropies, parts, (np.exp(logs) * logs).sum(axis=1))

    def score(self) -> InceptionScore:
        """The score over the parts that hold images."""
        held = self._counts > 0
        counts = self._counts[held]
        marginal = self._sums[held] / counts[:, None]
        entropies = -(marginal * np.log(np.maximum(marginal, 1e-300))).sum(axis=1)
        scores = np.exp(self._negative_entropies[held] / counts + entropies)
        return InceptionScore(float(scores.mean()), float(scores.std()))


def random_parts(count: int, seed: int = 2020) -> Int[np.ndarray, "N"]:
    """A part for each of `count` images, as equal in size as can be, at random: images may come sorted by class."""
    parts = np.empty(count, int)
    parts[np.random.default_rng(seed).permutation(count)] = np.arange(count) * SPLITS // max(count, 1)
    return parts
