"""batch(step): the images of a training step, as a pure function of (seed, step), and prefetching.

Every epoch is a new permutation of the images, and batches are cut from the concatenated epochs. So each image comes
exactly once per epoch, and resuming needs nothing but the step.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache, partial
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int, UInt, UInt8

from ddpm_jax.config import Config
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.data.prepare import map_ahead

T = TypeVar("T")
ORDER, FLIP = 0, 1  # Two purposes of a seed, so that order and flips are independent.


class Batch(NamedTuple):
    """images: [microbatches, rows, height, width, channels]; labels: classes [microbatches, rows], or attributes.

    A step processes its microbatches one after another; rows are divided among the processes.
    """

    images: UInt[np.ndarray, "microbatches rows height width channels"]
    labels: Int[np.ndarray, "microbatches rows"] | UInt8[np.ndarray, "microbatches rows attributes"]


def random_batch(config: Config, images: int, microbatches: int = 1) -> Batch:
    """Random pixels in the shape of the configuration's batches, for benchmarks."""
    attributes = config.model.attributes
    rows, limits = (microbatches, images // microbatches), np.iinfo(config.data.pixel_type)
    pixels = np.random.default_rng(0).integers(0, limits.max, (*rows, *config.image_shape), limits.dtype, True)
    return Batch(pixels, np.zeros((*rows, attributes), np.uint8) if attributes else np.zeros(rows, np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a training run: `Batches(...)(step)`."""

    dataset: Dataset
    rows: Int[np.ndarray, "N"]
    """Rows of the dataset to train on."""
    batch_size: int
    """Images per step over all processes, a multiple of microbatches * processes."""
    seed: int
    flip: bool = False
    microbatches: int = 1
    process: int = 0
    processes: int = 1

    def __call__(self, step: int) -> Batch:
        """This process's share of the batch of a step; steps count from 0."""
        shape = (self.microbatches, self.processes, -1)
        rows = self.order(step).reshape(shape)[:, self.process]
        images = self.dataset.images[rows]
        if self.flip:
            mirrored = self.flips(step).reshape(shape)[:, self.process]
            images[mirrored] = images[mirrored][:, :, ::-1]
        return Batch(images, self.dataset.labels[rows])

    def order(self, step: int) -> Int[np.ndarray, "batch"]:
        """The rows of the dataset in the global batch of a step."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, len(self.rows))
        return np.concatenate([self.rows[self.permutation(e)[places[epochs == e]]] for e in np.unique(epochs)])

    @cached_property
    def permutation(self) -> Callable[[int], Int[np.ndarray, "N"]]:
        """The order of the rows in an epoch; the last few orders are cached."""
        count = len(self.rows)
        return lru_cache(maxsize=4)(lambda e: np.random.default_rng([self.seed, ORDER, int(e)]).permutation(count))

    def flips(self, step: int) -> Bool[np.ndarray, "batch"]:
        """Which images of the global batch of a step are mirrored."""
        return np.random.default_rng([self.seed, FLIP, step]).random(self.batch_size) < 0.5


def prefetch(load: Callable[[int], T], steps: range, depth: int = 2) -> Iterator[T]:
    """load(step) for each step in order, computed up to `depth` steps ahead by as many threads."""
    with ThreadPoolExecutor(depth, thread_name_prefix="prefetch") as pool:
        yield from map_ahead(partial(pool.submit, load), steps, depth)
