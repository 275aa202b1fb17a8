"""From a U-Net to functions of (x_t, t): the only place that knows how the network wants its time and its labels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ddpm_jax.diffusion.denoiser import Denoiser, Prediction, prediction_of_output
from ddpm_jax.diffusion.guidance import UNGUIDED, Guidance, guide
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.network.unet import UNet
from ddpm_jax.shapes import Images, Labels, OneKey, Output, Steps


def apply_unet(
    unet: UNet,
    params: PyTree,
    x_t: Images,
    t: Steps,
    labels: Labels | None = None,
    *,
    dropout_key: OneKey | None = None,
) -> Output:
    """The raw output for x_t at t in 1..T; labels as in `label_vectors`; a dropout key means training.

    The network counts time from 0, as Ho et al.'s code and diffusers do: it receives t - 1.
    """
    vectors = None if labels is None or not unet.labels else label_vectors(labels, unet.labels)
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    output = unet.apply({"params": params}, x_t, t - 1, vectors, train=dropout_key is not None, rngs=rngs)
    assert isinstance(output, jax.Array)
    return output


def label_vectors(labels: Labels, width: int) -> Float[Array, "batch width"]:
    """One row per image: one-hot for class numbers (all zero for -1, "none"), as they are for multi-hot attributes."""
    labels = jnp.asarray(labels)
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, width, dtype=jnp.float32)
    return labels.astype(jnp.float32)


def drop_labels(labels: Labels, dropped: Array) -> Labels:
    """Labels with those of the dropped images (bool [batch]) replaced by "none", for classifier-free guidance."""
    labels = jnp.asarray(labels)
    if labels.ndim == 1:
        return jnp.where(dropped, -1, labels)
    return jnp.where(dropped.reshape(-1, 1), jnp.zeros_like(labels), labels)


def bind(
    unet: UNet,
    params: PyTree,
    schedule: Schedule,
    prediction: str,
    labels: Labels | None = None,
    guidance: Guidance = UNGUIDED,
) -> Denoiser:
    """The Denoiser of a trained U-Net whose output is "eps", "x0" or "v".

    Where labels are given and the guidance is not 1, the model runs with them and without, in one batch.
    """

    def plain(x_t: Images, t: Steps) -> Prediction:
        return prediction_of_output(schedule, prediction, apply_unet(unet, params, x_t, t, labels), x_t, t)

    def guided(x_t: Images, t: Steps) -> Prediction:
        assert labels is not None
        twice = jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])
        given = jnp.asarray(labels)
        none = drop_labels(given, jnp.ones(given.shape[:1], bool))
        output = apply_unet(unet, params, *twice, jnp.concatenate([given, jnp.asarray(none)]))
        both = prediction_of_output(schedule, prediction, output, *twice)
        batch = x_t.shape[0]
        conditional = jax.tree.map(lambda part: part[:batch], both)
        unconditional = jax.tree.map(lambda part: part[batch:], both)
        return guide(guidance, schedule, x_t, t, conditional, unconditional)

    return plain if labels is None or guidance.scale == 1.0 else guided
