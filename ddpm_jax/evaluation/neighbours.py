"""The nearest training images of generated ones, to see whether a model copies what it was trained on.

features (features.py) -> Euclidean distances to the features of all training images, batch by batch -> the k nearest

A distance alone says nothing: some data have near neighbours, and a blurred image is near many. It is compared with the
distances of held-out real images to the same training images, as in Meehan, Chaudhuri and Dasgupta 2020, "A
Non-Parametric Test to Detect Data-Copying in Generative Models".
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt, UInt8

from ddpm_jax.evaluation.features import Extractor, iter_features


class Neighbours(NamedTuple):
    """The nearest images of a set to each of several images, the nearest first."""

    indices: Int[np.ndarray, "N k"]
    """Indices into the set."""
    distances: Float64[np.ndarray, "N k"]


class ImageSubset:
    """Some images of a set as if they were an array [M, height, width, 3], and then the same mirrored, if wanted.

    Images are read when they are indexed, in colour and 8 bits, as files of images are (image_sets.py), so that a
    run's data set can be compared with samples in any form.
    """

    def __init__(self, images: Any, rows: Int[np.ndarray, "M"], *, mirrored: bool = False) -> None:
        """images: an object whose rows [height, width, channels] are selected by an array of indices."""
        self._images, self.rows = images, np.tile(rows, 2 if mirrored else 1)
        self.mirrored = np.arange(len(self.rows)) >= len(rows)
        """Whether an image is a mirrored one."""
        self.shape = (len(self.rows), *np.shape(images[rows[:1]])[1:3], 3)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Int[np.ndarray, "batch"]) -> UInt8[np.ndarray, "batch height width 3"]:
        images, mirrored = in_colour(self._images[self.rows[indices]]), self.mirrored[indices]
        images[mirrored] = images[mirrored][:, :, ::-1]
        return images


def in_colour(images: UInt[np.ndarray, "*batch height width channels"]) -> UInt8[np.ndarray, "*batch height width 3"]:
    """A copy in colour and 8 bits: grey is repeated, and transparent pixels show white."""
    levels = images / (np.iinfo(images.dtype).max / 255)
    if levels.shape[-1] in (2, 4):
        levels, alpha = levels[..., :-1], levels[..., -1:] / 255
        levels = alpha * levels + (1 - alpha) * 255
    levels = np.round(levels).astype(np.uint8)
    return levels if levels.shape[-1] == 3 else np.repeat(levels, 3, axis=-1)


def features_of(extractor: Extractor, images: Any, name: str) -> Float32[np.ndarray, "N D"]:
    """The features of images [N, height, width, channels]; name: of the set, for the progress bar."""
    return np.concatenate([features for features, _ in iter_features(extractor, images, name)])


def nearest_neighbours(
    extractor: Extractor, features: Float32[np.ndarray, "N D"], images: Any, k: int, name: str
) -> Neighbours:
    """The k images of a set that are nearest to each of several features; needs memory for one batch of the set.

    images: the set, [M, height, width, channels] with M >= k; name: of the set, for the progress bar.
    """
    a = features.astype(np.float64)  # In float32, products would leave equal images some way apart.
    a_squares, first = (a**2).sum(axis=1)[:, None], 0
    indices, squared = np.empty((len(a), 0), int), np.empty((len(a), 0))
    for batch, _ in iter_features(extractor, images, name):
        b = batch.astype(np.float64)
        batch_indices = np.broadcast_to(np.arange(first, first + len(b)), (len(a), len(b)))
        indices = np.concatenate([indices, batch_indices], axis=1)
        squared = np.concatenate([squared, a_squares + (b**2).sum(axis=1) - 2.0 * (a @ b.T)], axis=1)
        order = np.argsort(squared, axis=1, kind="stable")[:, :k]
        indices, squared = (np.take_along_axis(candidates, order, axis=1) for candidates in (indices, squared))
        first += len(b)
    return Neighbours(indices, np.sqrt(np.maximum(squared, 0.0)))


def share_closer(samples: Float[np.ndarray, "N"], held_out: Float[np.ndarray, "M"]) -> float:
    """The probability that a sample is closer to its nearest training image than a held-out image is to its own.

    samples, held_out: distances to the nearest training image; a pair of equal ones counts half. It is 0.5 if samples
    are as new as held-out images, and 1 if they are copies (Meehan et al. 2020, where it is a U statistic).
    """
    ordered = np.sort(held_out)
    not_closer, below = (np.searchsorted(ordered, samples, side) for side in ("right", "left"))
    return float(1.0 - ((not_closer + below) / 2.0).mean() / len(ordered))
