"""Inputs of an evaluation's samples: labels, and the conditions of image-to-image models, both of images of the data.

originals -> conditions, as in training -> samples -> PSNR, SSIM (against the originals) and consistency
"""

import dataclasses
import logging
import tempfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ddpm_jax.config import Config
from ddpm_jax.data.dataset import Dataset, hold_out
from ddpm_jax.data.open import open_dataset
from ddpm_jax.errors import UserError, abbreviated
from ddpm_jax.evaluation.conditional import restoration_metrics
from ddpm_jax.evaluation.restoration import means_of
from ddpm_jax.generation.conditions import conditions_of
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.shapes import ConditionPixels, Labels, Pixels

CHUNK = 256
"""Originals in memory at a time."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Originals:
    """The images that conditions are made of: one row of a data set for each sample."""

    dataset: Dataset
    rows: Int[np.ndarray, "count"]
    split: str
    """The split of the data, or "held out" for the run's held-out images."""

    def chunks(self) -> Iterator[tuple[slice, Pixels]]:
        """The images, a few at a time, and their places."""
        for start in range(0, len(self.rows), CHUNK):
            place = slice(start, start + CHUNK)
            yield place, self.dataset.images[self.rows[place]]

    @cached_property
    def crc32(self) -> int:
        """Checksum of the images, in order."""
        total = 0
        for _, images in self.chunks():
            total = zlib.crc32(images.tobytes(), total)
        return total


class Inputs(NamedTuple):
    """Labels and conditions, one for each sample, and the images that the conditions are made of."""

    labels: Labels | None = None
    conditions: ConditionPixels | None = None
    originals: Originals | None = None


def inputs_to_sample(config: Config, workdir: AnyPath, dataset: Dataset | None) -> Inputs:
    """Inputs for sample.count images; dataset: that of the run, where they need it.

    The labels are those by sample.label, or else those of the data, or of the originals. With other labels, or the same
    in other proportions, even a perfect model would be far from the data.
    """
    originals = choose_originals(config, workdir, dataset) if config.condition_shape else None
    if not config.label_width or config.sample.label is not None:
        labels = choose_labels(config, label_names(config, workdir), np.arange(config.sample.count))
    elif originals:
        labels = originals.dataset.labels[originals.rows]
    else:
        assert dataset is not None
        labels = dataset.labels[in_shuffled_order(config, np.arange(len(dataset.labels)))]
    if originals is None:
        return Inputs(labels)
    return Inputs(labels, _conditions_of(config, originals), originals)


def _conditions_of(config: Config, originals: Originals) -> ConditionPixels:
    """The conditions, in a temporary file, as there may be more than fit in memory."""
    assert config.condition_shape is not None
    shape = (len(originals.rows), *config.condition_shape)
    with tempfile.TemporaryFile() as file:
        conditions = np.memmap(file, config.data.pixel_type, "w+", shape=shape)
    for place, images in originals.chunks():
        conditions[place] = conditions_of(config, images, config.sample.seed, place.start)
    return conditions


def in_shuffled_order(config: Config, rows: Int[np.ndarray, "M"]) -> Int[np.ndarray, "count"]:
    """A row for each of sample.count images, in a shuffled order that repeats."""
    return np.resize(np.random.default_rng(config.sample.seed).permutation(rows), config.sample.count)


def choose_originals(config: Config, workdir: AnyPath, dataset: Dataset | None) -> Originals:
    """Images of evaluate.condition_split, or those held out from training, or any if there are none."""
    split = config.evaluate.condition_split
    if split is None:
        assert dataset is not None
        _, held = hold_out(dataset, config.data.holdout)
        if len(held):
            return Originals(dataset, in_shuffled_order(config, held), "held out")
        logger.warning(
            "data.holdout=%s holds no images out: conditions are made of images that the model was trained on; set "
            "evaluate.condition_split to a split of others.",
            config.data.holdout,
        )
        rows = in_shuffled_order(config, np.arange(len(dataset.images)))
        return Originals(dataset, rows, config.data.split or "training")
    data = dataclasses.replace(config.data, split=split)
    try:
        dataset = open_dataset(dataclasses.replace(config, data=data))
    except UserError as error:
        raise UserError(f"evaluate.condition_split={split!r}: {error}") from error
    if config.label_width and dataset.names != (names := label_names(config, workdir)):
        raise UserError(
            f"evaluate.condition_split={split!r} has the labels {abbreviated(dataset.names)}; expected those of the "
            f"run, {abbreviated(names)}."
        )
    return Originals(dataset, in_shuffled_order(config, np.arange(len(dataset.images))), split)


def mean_restoration(config: Config, samples: Pixels, inputs: Inputs) -> dict[str, float]:
    """The mean of each of `restoration_metrics` over all samples; empty without an image-to-image model.

    samples: may be larger than memory.
    """
    conditions, originals = inputs.conditions, inputs.originals
    if conditions is None or originals is None:
        return {}
    chunks = [
        restoration_metrics(config, np.asarray(samples[place]), conditions[place], images)
        for place, images in originals.chunks()
    ]
    return means_of({name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]})
