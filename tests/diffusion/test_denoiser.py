import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.denoiser import prediction_of_output
from ddpm_jax.diffusion.process import q_sample, v_from_x0_eps


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_the_true_target_converts_to_the_true_image_and_noise(linear, draw, kind):
    x0 = draw.uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    eps = draw.standard_normal(x0.shape).astype(np.float32)
    t = jnp.array([50, 300, 700])
    output = {"eps": eps, "x0": x0, "v": v_from_x0_eps(linear, t, x0, eps)}[kind]
    prediction = prediction_of_output(linear, kind, output, q_sample(linear, x0, t, eps), t)
    np.testing.assert_allclose(prediction.x0, x0, atol=1e-4)
    np.testing.assert_allclose(prediction.eps, eps, atol=1e-4)
    assert prediction.variance_weight is None


def test_the_second_half_of_the_channels_is_the_variance(linear):
    x_t = jnp.zeros((2, 4, 4, 3))
    output = jnp.concatenate([x_t, jnp.full_like(x_t, -1.0)], axis=-1)
    prediction = prediction_of_output(linear, "eps", output, x_t, jnp.array([1, 2]))
    assert prediction.x0.shape == x_t.shape
    np.testing.assert_array_equal(prediction.variance_weight, 0.0)


def test_an_unknown_prediction_is_refused(linear):
    with pytest.raises(ValueError, match="expected 'eps', 'x0' or 'v'"):
        prediction_of_output(linear, "score", jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1)), jnp.array([1]))
