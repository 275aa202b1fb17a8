"""Binds a U-Net into functions of (x_t, t): the only place that knows how the network encodes what it is given."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ddpm_jax.diffusion.conditions import ConditionInput
from ddpm_jax.diffusion.denoiser import Denoiser, Prediction, prediction_of_output
from ddpm_jax.diffusion.guidance import UNGUIDED, Guidance, guided_prediction
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.network.unet import UNet
from ddpm_jax.shapes import Augmentations, ImageKeys, Images, Labels, LabelVectors, Output, Steps


class Conditioning(NamedTuple):
    """Everything that the network is conditioned on besides x_t and t; None for the null of each."""

    labels: LabelVectors | None = None
    condition: ConditionInput | None = None
    augmentation: Augmentations | None = None
    """Only while training."""


UNCONDITIONAL = Conditioning()


def apply_unet(
    unet: UNet,
    params: PyTree,
    x_t: Images,
    t: Steps,
    given: Conditioning = UNCONDITIONAL,
    *,
    dropout_keys: ImageKeys | None = None,
) -> Output:
    """The raw output for x_t at t in 1..T; dropout_keys: only while training.

    The network counts time from 0, as Ho et al.'s code and diffusers do: it receives t - 1.
    """
    channels, steps = given.condition or (None, None)
    output = unet.apply(
        {"params": params},
        *(x_t, t - 1, given.labels),
        condition=channels,
        condition_steps=steps,
        augmentation=given.augmentation,
        dropout_keys=dropout_keys,
    )
    assert isinstance(output, jax.Array)
    return output


def label_vectors(labels: Labels, width: int) -> LabelVectors:
    """One vector per image: one-hot for classes (zeros for -1, no label), +1 or -1 for each attribute.

    width: number of classes or attributes; 0 for an unconditional model, whose vectors are empty. The vector of an
    image with none of the attributes is -1 everywhere, which differs from that of an image without a label.
    """
    labels = jnp.asarray(labels)
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, width, dtype=jnp.float32)
    return 2.0 * labels.astype(jnp.float32) - 1.0


def drop_labels(labels: LabelVectors, dropped: Bool[Array, "batch"]) -> LabelVectors:
    """The label vectors with those of the dropped images replaced by the null label, for classifier-free guidance."""
    return jnp.where(dropped.reshape(-1, 1), 0.0, labels)


def bind(
    unet: UNet,
    params: PyTree,
    schedule: Schedule,
    prediction: str,
    labels: Labels | None = None,
    guidance: Guidance = UNGUIDED,
    *,
    condition: ConditionInput | None = None,
    has_null_condition: bool = False,
) -> Denoiser:
    """The Denoiser of a trained U-Net whose output is "eps", "x0" or "v", for a batch of labels and conditions.

    With a guidance scale other than 1, the model is evaluated with and without the labels, in one batch; and without
    the condition, too, if it was trained with the null condition (has_null_condition).
    """
    given = Conditioning(None if labels is None else label_vectors(labels, unet.labels), condition)
    null, guides = given._replace(labels=jax.tree.map(jnp.zeros_like, given.labels)), labels is not None
    if condition is not None and has_null_condition:
        null_condition = condition._replace(channels=jnp.zeros_like(condition.channels))
        null, guides = null._replace(condition=null_condition), True

    def plain(x_t: Images, t: Steps) -> Prediction:
        return prediction_of_output(schedule, prediction, apply_unet(unet, params, x_t, t, given), x_t, t)

    def guided(x_t: Images, t: Steps) -> Prediction:
        twice = jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])
        with_and_without = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), given, null)
        output = apply_unet(unet, params, *twice, with_and_without)
        both = prediction_of_output(schedule, prediction, output, *twice)
        batch = x_t.shape[0]
        conditional = jax.tree.map(lambda x: x[:batch], both)
        unconditional = jax.tree.map(lambda x: x[batch:], both)
        return guided_prediction(guidance, schedule, x_t, t, conditional, unconditional)

    return guided if guides and guidance.scale != 1.0 else plain
