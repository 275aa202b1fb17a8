import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.guidance import Guidance
from ddpm_jax.network.bind import apply_unet, bind, drop_labels, label_vectors
from tests.network.test_unet import SMALL, random_params

UNET = dataclasses.replace(SMALL, labels=3)
LABELS = np.array([0, 2], np.int32)


@pytest.fixture
def params(draw):
    return random_params(UNET, draw)


@pytest.fixture
def x_t(draw):
    return jnp.asarray(draw.normal(size=(2, 8, 8, 1)), jnp.float32)


def test_the_network_counts_time_from_zero(params, x_t):
    direct = UNET.apply({"params": params}, x_t, jnp.array([0, 999]))
    np.testing.assert_allclose(apply_unet(UNET, params, x_t, jnp.array([1, 1000])), direct, atol=1e-6)


def test_labels_become_rows_and_none_becomes_zeros():
    np.testing.assert_array_equal(label_vectors(np.array([1, -1], np.int32), 3), [[0, 1, 0], [0, 0, 0]])
    attributes = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    np.testing.assert_array_equal(label_vectors(attributes, 3), attributes)
    dropped = jnp.array([True, False])
    np.testing.assert_array_equal(drop_labels(LABELS, dropped), [-1, 2])
    np.testing.assert_array_equal(drop_labels(attributes, dropped), [[0, 0, 0], [0, 0, 0]])


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


def test_a_guided_model_keeps_the_conditional_variance(linear, draw, x_t):
    unet = dataclasses.replace(UNET, out_channels=2)
    params, t = random_params(unet, draw), jnp.array([10, 500])
    plain, guided = (bind(unet, params, linear, "eps", LABELS, Guidance(w))(x_t, t) for w in (1.0, 3.0))
    np.testing.assert_allclose(guided.variance_weight, plain.variance_weight, rtol=1e-4, atol=1e-5)
