"""Image-to-image models without the page: conditions of uploads and of the run's own images, pictures of results."""

import dataclasses
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.data.dataset import hold_out
from ddpm_jax.data.decode import UNREADABLE, size_of
from ddpm_jax.data.open import open_dataset
from ddpm_jax.evaluation.restoration import psnr
from ddpm_jax.generation.conditions import conditions_of, shown_conditions
from ddpm_jax.reporting.images import Picture, captioned_rows
from ddpm_jax.shapes import Pixels
from scripts.play.model import decode_upload, mask_of_brush

COLUMNS = 4
"""Results in a row of a picture."""


class Given(NamedTuple):
    """An image that the visitor chose, as pixels [1, height, width, channels]."""

    condition: Pixels
    """The condition made of it; for a model that inpaints, the image, whose mask is still to be painted."""
    original: Pixels | None
    """The image that a perfect result would equal; None if it is unknown."""

    def shown(self, config: Config) -> Pixels:
        """The condition for people, at the size of the model's images."""
        return self.condition if _needs_mask(self.condition, config) else shown_conditions(config, self.condition)

    def masked(self, brush: np.ndarray, config: Config) -> "Given":
        """The same with the brush as the mask."""
        mask = mask_of_brush(brush, config)[None, ..., None]
        white = self.condition.dtype.type(np.iinfo(self.condition.dtype).max)
        return self._replace(condition=np.concatenate([self.condition, mask * white], axis=-1))


def _needs_mask(condition: Pixels, config: Config) -> bool:
    return config.model.condition == "mask" and condition.shape[-1] == config.data.channels


def given_upload(raw: bytes, config: Config) -> Given:
    """A file as the original of a condition, or, if it has exactly the low resolution, as the condition itself."""
    assert config.condition_shape is not None
    height, width, _ = config.condition_shape
    try:
        is_low = config.model.condition == "low_resolution" and size_of(raw) == (width, height)
    except UNREADABLE:
        is_low = False  # Decoding refuses it.
    if is_low:
        data = dataclasses.replace(config.data, image_size=(height, width))
        return Given(decode_upload(raw, dataclasses.replace(config, data=data))[None], None)
    return given_original(decode_upload(raw, config), config)


def given_original(image: np.ndarray, config: Config) -> Given:
    """An original [height, width, channels] and its condition."""
    original = image[None]
    if config.model.condition == "mask":
        return Given(original, original)
    is_grey = config.model.condition == "grey" and (image == image[..., :1]).all()  # Its colours are unknown.
    return Given(conditions_of(config, original, seed=0), None if is_grey else original)


class Originals:
    """Images of the run's data set, those that were held out from training if there are any."""

    def __init__(self, config: Config):
        self._config = config

    @cached_property
    def _opened(self) -> tuple[Pixels, np.ndarray]:
        dataset = open_dataset(self._config)
        _, held = hold_out(dataset, self._config.data.holdout)
        return dataset.images, held if len(held) else np.arange(len(dataset.images))

    def __getitem__(self, number: int) -> np.ndarray:
        """One image [height, width, channels]; numbers beyond the last begin again at the first."""
        images, rows = self._opened
        row = rows[number % len(rows)]
        return np.asarray(images[np.array([row])])[0]


def picture_beside(given: Given, images: Pixels, config: Config) -> Picture:
    """The condition and, if it is known, the original, above the results."""
    first = {"condition": given.shown(config)} | ({} if given.original is None else {"original": given.original})
    columns = max(len(first), min(len(images), COLUMNS))
    rows = [(", ".join(first), np.concatenate(list(first.values())))]
    for start in range(0, len(images), columns):
        row = images[start : start + columns]
        rows.append((f"results {start + 1} to {start + len(row)}", row))
    return captioned_rows([(name, _widened(row, columns)) for name, row in rows])


def _widened(images: Pixels, columns: int) -> Pixels:
    """A row of images with white ones after them."""
    padding = [(0, columns - len(images)), (0, 0), (0, 0), (0, 0)]
    return np.pad(images, padding, constant_values=np.iinfo(images.dtype).max)


def describe_psnr(images: Pixels, original: Pixels | None) -> str:
    """The PSNR of results, as the end of a sentence; nothing without an original."""
    if original is None:
        return ""
    decibels = psnr(images, original.repeat(len(images), axis=0))
    return f", PSNR {', '.join(f'{value:.1f}' for value in decibels)} dB"
