import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.conditions import ConditionInput
from ddpm_jax.diffusion.guidance import Guidance
from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas
from ddpm_jax.network.bind import apply_unet, bind, drop_labels, label_vectors
from ddpm_jax.network.unet import UNet
from tests.analytic import gaussian_denoiser
from tests.diffusion.test_guidance import MEANS, PIXELS, STD, mixture_denoiser
from tests.network.test_unet import SMALL, random_params

UNET = dataclasses.replace(SMALL, labels=3)
LABELS = np.array([0, 2], np.int32)
NO_ATTRIBUTE = np.zeros((2, 3), np.uint8)
LINEAR = schedule_of_betas(linear_betas(1000))


@pytest.fixture
def params(draw):
    return random_params(UNET, draw)


@pytest.fixture
def x_t(draw):
    return jnp.asarray(draw.normal(size=(2, 8, 8, 1)), jnp.float32)


def test_the_network_counts_time_from_zero(params, x_t):
    direct = UNET.apply({"params": params}, x_t, jnp.array([0, 999]))
    np.testing.assert_allclose(apply_unet(UNET, params, x_t, jnp.array([1, 1000])), direct, atol=1e-6)


def test_only_images_without_a_label_have_the_zero_vector():
    np.testing.assert_array_equal(label_vectors(np.array([1, -1], np.int32), 3), [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(
        label_vectors(np.array([[1, 0, 1], [0, 0, 0]], np.uint8), 3), [[1, -1, 1], [-1, -1, -1]]
    )
    for labels in (LABELS, NO_ATTRIBUTE):
        vectors = label_vectors(labels, 3)
        dropped = drop_labels(vectors, jnp.array([True, False]))
        np.testing.assert_array_equal(dropped, [np.zeros(3), vectors[1]])
        assert np.any(vectors, axis=1).all()


@pytest.mark.parametrize("labels", [LABELS, NO_ATTRIBUTE])
def test_every_label_changes_the_prediction(linear, params, x_t, labels):
    t = jnp.array([10, 500])
    given, none = (bind(UNET, params, linear, "eps", condition)(x_t, t).eps for condition in (labels, None))
    assert (np.abs(given - none).max(axis=(1, 2, 3)) > 1e-4).all()


class AttributeMixture(UNet):
    """Exact predictions of x_0 for images that have an attribute (the first of MEANS) or have not (the second)."""

    def __call__(self, x, n, labels=None, **training):
        both = jnp.stack([gaussian_denoiser(LINEAR, mean, STD)(x, n + 1).x0 for mean in MEANS])
        known = jnp.where(labels.reshape(-1, 1, 1, 1) > 0.0, *both)
        return jnp.where(labels.reshape(-1, 1, 1, 1) == 0.0, mixture_denoiser(LINEAR, x, n + 1).x0, known)


@pytest.mark.parametrize("has_it", [0, 1])
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_guidance_by_an_attribute_extrapolates_from_no_label_to_the_label(draw, has_it, scale):
    t = jnp.array([200, 500, 900])
    x_t = jnp.asarray(0.5 * draw.normal(size=(3, *PIXELS)), jnp.float32)
    labels = np.full((3, 1), has_it, np.uint8)
    mixture = AttributeMixture(out_channels=1, labels=1)
    guided = bind(mixture, {}, LINEAR, "x0", labels, Guidance(scale))(x_t, t).x0
    conditional = gaussian_denoiser(LINEAR, MEANS[1 - has_it], STD)(x_t, t).x0
    unconditional = mixture_denoiser(LINEAR, x_t, t).x0
    assert np.abs(conditional - unconditional).max() > 1e-2
    np.testing.assert_allclose(guided, unconditional + scale * (conditional - unconditional), atol=1e-5)


def test_guidance_interpolates_from_the_unconditional_to_the_conditional_model(linear, params, x_t):
    t = jnp.array([10, 500])

    def predict(labels, *guidance):
        return bind(UNET, params, linear, "eps", labels, Guidance(*guidance))(x_t, t)

    conditional, unconditional = predict(LABELS), predict(None)
    for guidance, scale in ((0.0, 0.0), (1.0, 1.0), (3.0, 3.0)):
        guided = predict(LABELS, guidance)
        for ours, with_label, without in zip(guided[:2], conditional[:2], unconditional[:2], strict=True):
            np.testing.assert_allclose(ours, without + scale * (with_label - without), rtol=1e-3, atol=1e-4)
    assert np.abs(conditional.eps - unconditional.eps).max() > 1e-4
    inside = predict(LABELS, 3.0, (400, 600))
    np.testing.assert_allclose(inside.eps[0], conditional.eps[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inside.eps[1], predict(LABELS, 3.0).eps[1], rtol=1e-5, atol=1e-6)


def test_guidance_by_an_image_extrapolates_from_the_null_condition(linear, draw, x_t):
    """With a label, too: both are dropped together if the image can be, and otherwise only the label."""
    unet = dataclasses.replace(UNET, condition_channels=2, condition_steps=True)
    params, t = random_params(unet, draw), jnp.array([10, 500])
    given = ConditionInput(jnp.asarray(draw.normal(size=(2, 8, 8, 2)), jnp.float32), jnp.array([0, 70]))
    null = given._replace(channels=jnp.zeros_like(given.channels))

    def predict(labels, image, scale=1.0, dropped=False):
        options = {"condition": image, "has_null_condition": dropped}
        return bind(unet, params, linear, "eps", labels, Guidance(scale), **options)(x_t, t).eps

    for labels, dropped, without in ((LABELS, True, null), (LABELS, False, given), (None, True, null)):
        conditional, unconditional = predict(labels, given), predict(None, without)
        assert np.abs(conditional - unconditional).max(axis=(1, 2, 3)).min() > 1e-4
        guided = predict(labels, given, 3.0, dropped)
        np.testing.assert_allclose(guided, unconditional + 3 * (conditional - unconditional), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(predict(None, given, 3.0), predict(None, given))
    np.testing.assert_allclose(predict(None, None), predict(None, null._replace(step=jnp.zeros(2, int))), atol=1e-6)


def test_a_guided_model_keeps_the_conditional_variance(linear, draw, x_t):
    unet = dataclasses.replace(UNET, out_channels=2)
    params, t = random_params(unet, draw), jnp.array([10, 500])
    plain, guided = (bind(unet, params, linear, "eps", LABELS, Guidance(w))(x_t, t) for w in (1.0, 3.0))
    np.testing.assert_allclose(guided.variance_weight, plain.variance_weight, rtol=1e-4, atol=1e-5)
