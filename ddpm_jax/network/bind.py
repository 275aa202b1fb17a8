"""Binds a U-Net into functions of (x_t, t): the only place that knows how the network encodes time and labels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ddpm_jax.diffusion.denoiser import Denoiser, Prediction, prediction_of_output
from ddpm_jax.diffusion.guidance import UNGUIDED, Guidance, guide
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.network.unet import UNet
from ddpm_jax.shapes import Augmentations, ImageKeys, Images, Labels, LabelVectors, Output, Steps


def apply_unet(
    unet: UNet,
    params: PyTree,
    x_t: Images,
    t: Steps,
    labels: LabelVectors | None = None,
    *,
    augmentation: Augmentations | None = None,
    dropout_keys: ImageKeys | None = None,
) -> Output:
    """The raw output for x_t at t in 1..T; labels: None for the null label.

    augmentation, dropout_keys: only while training.

    The network counts time from 0, as Ho et al.'s code and diffusers do: it receives t - 1.
    """
    training = {"augmentation": augmentation, "dropout_keys": dropout_keys}
    output = unet.apply({"params": params}, x_t, t - 1, labels, **training)
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
) -> Denoiser:
    """The Denoiser of a trained U-Net whose output is "eps", "x0" or "v".

    With labels and a guidance scale other than 1, the model is evaluated with and without the labels, in one batch.
    """
    vectors = None if labels is None else label_vectors(labels, unet.labels)

    def plain(x_t: Images, t: Steps) -> Prediction:
        return prediction_of_output(schedule, prediction, apply_unet(unet, params, x_t, t, vectors), x_t, t)

    def guided(x_t: Images, t: Steps) -> Prediction:
        assert vectors is not None
        twice = jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])
        output = apply_unet(unet, params, *twice, jnp.concatenate([vectors, jnp.zeros_like(vectors)]))
        both = prediction_of_output(schedule, prediction, output, *twice)
        batch = x_t.shape[0]
        conditional = jax.tree.map(lambda x: x[:batch], both)
        unconditional = jax.tree.map(lambda x: x[batch:], both)
        return guide(guidance, schedule, x_t, t, conditional, unconditional)

    return plain if vectors is None or guidance.scale == 1.0 else guided
