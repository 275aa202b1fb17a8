"""Conditions of image-to-image models as pixels: made from originals, or checked as given.

A condition has the shape of `Config.condition_shape` and the type of the images. For a model that inpaints, its last
channel is the mask: more than half of the range where the image is painted.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt
from numpy.typing import ArrayLike

from ddpm_jax.builders import build_condition
from ddpm_jax.config import Config
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.diffusion.randomness import Purpose
from ddpm_jax.errors import UserError, whole_number
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.sampling.noise import image_keys
from ddpm_jax.shapes import AnyArray, ConditionPixels, Conditions, Pixels

BATCH = 64
"""Images whose conditions are made at a time."""


def conditions_of(config: Config, originals: Pixels, seed: int, first: int = 0) -> ConditionPixels:
    """The conditions of originals, as in training; that of image i depends only on (seed, first + i)."""
    compiled = _degrade(same_conditions(config))
    return by_batches(lambda images, rows: compiled(images, seed, first + rows), originals, config.data.depth)


def by_batches(
    compute: Callable[[Any, np.ndarray], Array], pixels: UInt[AnyArray, "..."], depth: int
) -> UInt[np.ndarray, "..."]:
    """The pixels of `compute(pixels, rows)`, images in [-1, 1], for BATCH rows at a time; the last batch is padded."""
    batches = []
    for start in range(0, len(pixels), BATCH):
        rows = np.minimum(np.arange(start, start + BATCH), len(pixels) - 1)
        images = jax.device_get(compute(np.asarray(pixels[rows]), rows))
        batches.append(to_pixels(images, depth)[: len(pixels) - start])
    return np.concatenate(batches)


def same_conditions(config: Config) -> Config:
    """The part of a configuration that conditions depend on, as a key for what is compiled."""
    default = Config()
    data = dataclasses.replace(
        default.data, image_size=config.data.image_size, channels=config.data.channels, depth=config.data.depth
    )
    model = dataclasses.replace(default.model, condition=config.model.condition)
    return dataclasses.replace(default, data=data, model=model, degradation=config.degradation)


@cache
def _degrade(config: Config) -> Any:
    condition = build_condition(config)
    assert condition is not None

    def degrade(originals: Pixels, seed: Array, indices: Array) -> Conditions:
        return condition.degrade(from_pixels(originals), image_keys(seed, indices, Purpose.GIVEN_CONDITION))

    return jit(degrade)


def given_conditions(config: Config, condition: ArrayLike | None, count: int) -> ConditionPixels | None:
    """A condition for each of `count` images, from one or more that are used in turn.

    Raises UserError if there are too many, if their shape or type is wrong, if a mask paints nothing or everything, or
    if the model takes no condition and one is given, or the other way round.
    """
    shape = config.condition_shape
    if condition is None and shape is None:
        return None
    if shape is None:
        raise UserError("condition is for image-to-image models; this one has model.condition='none'.")
    if condition is None:
        raise UserError(
            f"The model needs a condition, {config.model.condition!r}; give condition=…, an array [N, "
            f"{str(shape)[1:-1]}]."
        )
    pixels, count = checked_pixels(condition, "condition is", config, shape), whole_number("count", count)
    if len(pixels) > count:
        raise UserError(f"condition holds {len(pixels)} images for {count} samples; expected as many or fewer.")
    if config.model.condition == "mask":
        refuse_trivial_masks(pixels[..., -1:])
    return pixels[np.arange(count) % len(pixels)]


def checked_pixels(
    pixels: ArrayLike, subject: str, config: Config, shape: tuple[int, int, int]
) -> UInt[np.ndarray, "N _ _ _"]:
    """Pixels [N, *shape] of the type of the images; raises UserError for others. subject: of its sentence."""
    pixels, pixel_type = np.asarray(pixels), config.data.pixel_type
    if pixels.dtype != pixel_type or pixels.ndim != 4 or pixels.shape[1:] != shape or not len(pixels):
        raise UserError(
            f"{subject} {pixels.dtype} {list(pixels.shape)}; expected {pixel_type} [N, {str(shape)[1:-1]}], N from 1."
        )
    return pixels


def refuse_trivial_masks(masks: Pixels) -> None:
    """Raises UserError for masks that paint nothing or everything."""
    painted = is_painted(masks).mean(axis=(1, 2, 3))
    for i in np.flatnonzero((painted == 0) | (painted == 1)):
        what = "everything" if painted[i] else "nothing"
        raise UserError(f"The mask of condition {i} paints {what}; expected some pixels to paint and some to keep.")


def is_painted(masks: Pixels) -> np.ndarray:
    """Where a mask paints: more than half of its range."""
    return np.asarray(masks) > np.iinfo(masks.dtype).max // 2


def shown_conditions(config: Config, conditions: ConditionPixels) -> Pixels:
    """Conditions for people: of the size and channels of the images, masked parts in middle grey."""
    (height, width, channels), shown = config.image_shape, np.asarray(conditions)
    if config.model.condition == "mask":
        middle = shown.dtype.type(np.iinfo(shown.dtype).max // 2)
        return np.where(is_painted(shown[..., -1:]), middle, shown[..., :-1])
    shown = shown.repeat(height // shown.shape[1], axis=1).repeat(width // shown.shape[2], axis=2)
    return shown.repeat(channels // shown.shape[3], axis=3)


def with_known_pixels(
    config: Config, images: Float[np.ndarray, "..."], conditions: ConditionPixels | None
) -> Float[np.ndarray, "..."]:
    """Samples [..., batch, height, width, channels] with the pixels that their masks keep, bit for bit."""
    if config.model.condition != "mask" or conditions is None:
        return images
    return np.where(is_painted(conditions[..., -1:]), images, from_pixels(np.asarray(conditions[..., :-1])))
