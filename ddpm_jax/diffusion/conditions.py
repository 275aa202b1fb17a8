"""Conditions of image-to-image models: how they are made from clean images, noised, and shown to the network.

    clean image, key -> degrade -> condition, on the grid of its pixels -> network_input -> channels beside x_t

Training, validation, previews, sampling and evaluation all take this way, so that a condition from a file is the same
as one that is made of its original. `degradations.py` has the operations; `network/bind.py` gives the result to the
network.

The null condition, for classifier-free guidance, is zero in every channel. No condition is: pixels are odd multiples of
1/255 (1/65535), between black at -1 and white at 1, and the mask is -1 or 1.
"""

import dataclasses
import enum
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ddpm_jax.diffusion.degradations import draw_masks, enlarge, grey, shrink
from ddpm_jax.diffusion.pixels import on_pixel_grid
from ddpm_jax.diffusion.process import q_sample
from ddpm_jax.diffusion.randomness import draw_normal
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.shapes import ConditionChannels, Conditions, ImageKeys, Images, Steps


class Use(enum.IntEnum):
    """Uses of an image's key for its condition. Their values determine conditions: never reuse or reorder them."""

    MASK = 0
    NOISE = 1
    STEP = 2
    """Step to which the condition is noised."""
    DROP = 3


@dataclasses.dataclass(frozen=True)
class Condition:
    """The condition of a model, as functions of images and keys."""

    degrade: Callable[[Images, ImageKeys], Conditions]
    """Conditions of clean images, in [-1, 1] and on the grid of their pixels."""
    network_input: Callable[[Conditions], ConditionChannels]
    """Channels beside x_t, of conditions."""
    noise: int = 0
    """Last step of the forward process to which conditions are noised while training."""


class ConditionInput(NamedTuple):
    """A batch of conditions, as the network receives them."""

    channels: ConditionChannels
    """Channels beside x_t."""
    step: Steps | None
    """Step of the forward process to which each condition was noised; None for a model without noise augmentation."""


def low_resolution(height: int, width: int, factor: int, filter: str, *, depth: int = 8, noise: int = 0) -> Condition:
    """Super-resolution (Saharia et al. 2021, "SR3"): images of a factor less, enlarged bicubically for the network."""

    def degrade(images: Images, keys: ImageKeys) -> Conditions:
        return on_pixel_grid(shrink(images, factor, filter, depth), depth)

    return Condition(degrade, partial(enlarge, height=height, width=width), noise)


def grey_levels(*, depth: int = 8) -> Condition:
    """Colouring: the luma of colour images."""
    return Condition(lambda images, keys: on_pixel_grid(grey(images), depth), lambda conditions: conditions)


def masked(*, depth: int = 8) -> Condition:
    """Inpainting by training (Saharia et al. 2022, "Palette"): images and, as the last channel, a mask.

    The mask is 1 where the image is to be painted, which the network sees as 0, and -1 where it is known. Of a mask
    with levels between, the upper half is painted.
    """

    def degrade(images: Images, keys: ImageKeys) -> Conditions:
        masks = draw_masks(keys_for(Use.MASK, keys), *images.shape[1:3])
        return jnp.concatenate([on_pixel_grid(images, depth), 2.0 * masks - 1.0], axis=-1)

    def network_input(conditions: Conditions) -> ConditionChannels:
        images, painted = conditions[..., :-1], conditions[..., -1:] > 0.0
        return jnp.concatenate([jnp.where(painted, 0.0, images), jnp.where(painted, 1.0, -1.0)], axis=-1)

    return Condition(degrade, network_input)


def keys_for(use: Use, keys: ImageKeys) -> ImageKeys:
    """The keys of images for one use."""
    return jax.vmap(lambda key: jax.random.fold_in(key, int(use)))(keys)


def condition_input(
    condition: Condition, schedule: Schedule, conditions: Conditions, keys: ImageKeys, step: int | Steps = 0
) -> ConditionInput:
    """The network's input for conditions in [-1, 1], noised to a step 0..condition.noise, if the model allows it."""
    if not condition.noise:
        return ConditionInput(condition.network_input(conditions), None)
    steps = jnp.broadcast_to(jnp.asarray(step, jnp.int32), conditions.shape[:1])
    shape = conditions.shape[1:]
    noise = jax.vmap(lambda key: draw_normal(key, shape))(keys_for(Use.NOISE, keys))
    return ConditionInput(condition.network_input(q_sample(schedule, conditions, steps, noise)), steps)


def training_input(condition: Condition, schedule: Schedule, images: Images, keys: ImageKeys) -> ConditionInput:
    """The network's input for the conditions of clean images, each noised to a random step."""

    def draw_step(key: Array) -> Array:
        with jax.threefry_partitionable(True):
            return jax.random.randint(key, (), 0, condition.noise + 1, jnp.int32)

    steps = jax.vmap(draw_step)(keys_for(Use.STEP, keys))
    return condition_input(condition, schedule, condition.degrade(images, keys), keys, steps)


def draw_dropped(keys: ImageKeys, probability: float) -> Bool[Array, "batch"]:
    """Which images are trained on without their condition."""

    def draw(key: Array) -> Array:
        with jax.threefry_partitionable(True):
            return jax.random.uniform(key, (), jnp.float32) < probability

    return jax.vmap(draw)(keys_for(Use.DROP, keys))


def dropped(given: ConditionInput, drop: Bool[Array, "batch"]) -> ConditionInput:
    """The same input with the null condition for the images to drop."""
    return given._replace(channels=jnp.where(jnp.expand_dims(drop, (1, 2, 3)), 0.0, given.channels))
