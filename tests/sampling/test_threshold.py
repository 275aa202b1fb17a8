import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.process import per_image
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.ddpm import ddpm
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.threshold import clip, constrain, dynamic
from ddpm_jax.sampling.timesteps import step_pairs
from tests.analytic import gaussian_denoiser, point_denoiser


@pytest.fixture
def x_t(draw):
    return jnp.asarray(draw.normal(size=(3, 8, 8, 1)), jnp.float32)


def test_dynamic_thresholding_divides_each_image_by_its_own_percentile(draw):
    x0 = jnp.asarray(draw.normal(size=(4, 6, 6, 2)) * np.array([0.1, 1.0, 2.0, 5.0]).reshape(-1, 1, 1, 1), jnp.float32)
    bound = np.maximum(np.quantile(np.abs(x0).reshape(4, -1), 0.9, axis=1), 1.0).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(dynamic(0.9)(x0), np.clip(x0, -bound, bound) / bound, rtol=1e-5)
    np.testing.assert_array_equal(dynamic(0.9)(x0)[0], x0[0])
    np.testing.assert_allclose(dynamic(0.9, 1.5)(x0), np.clip(x0, -(b := np.minimum(bound, 1.5)), b) / b, rtol=1e-5)
    np.testing.assert_array_equal(dynamic(0.9, 1.0)(x0), clip(x0))


@pytest.mark.parametrize("threshold", [clip, dynamic(0.9)])
def test_eps_is_kept_or_adds_up_to_x_t(linear, x_t, threshold):
    t, free = jnp.array([1, 500, 1000]), point_denoiser(linear, 1.5)
    kept = constrain(free, linear, threshold, keep_eps=True)(x_t, t)
    rederived = constrain(free, linear, threshold)(x_t, t)
    np.testing.assert_array_equal(kept.eps, free(x_t, t).eps)
    for prediction in (kept, rederived):
        np.testing.assert_allclose(prediction.x0, 1.0, atol=1e-6)
        np.testing.assert_array_equal(prediction.variance_weight, free(x_t, t).variance_weight)
    rebuilt = (
        per_image(linear.signal_rate, t, x_t) * rederived.x0 + per_image(linear.noise_rate, t, x_t) * rederived.eps
    )
    np.testing.assert_allclose(rebuilt, x_t, atol=1e-5)


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_constrained_images_stay_in_range_and_unconstrained_ones_need_not(linear, sampler):
    keys = image_keys(0, np.arange(2))
    pairs, free = step_pairs("leading", 1000, 10), point_denoiser(linear, 1.5)

    def images(denoiser):
        return sampler(denoiser, linear, draw_noise(keys, 0, (4, 4, 1)), keys, pairs).images

    np.testing.assert_allclose(images(free), 1.5, atol=1e-5)
    assert np.abs(images(constrain(free, linear, clip, keep_eps=True))).max() < 1.1
    np.testing.assert_allclose(images(constrain(free, linear, clip)), 1.0, atol=1e-5)


@pytest.mark.parametrize("threshold", [clip, dynamic(0.9)])
def test_compiled_and_interpreted_agree(linear, x_t, threshold):
    denoise, t = constrain(gaussian_denoiser(linear, 0.8, 0.5), linear, threshold), jnp.array([1, 500, 1000])
    for compiled, plain in zip(jax.jit(denoise)(x_t, t), denoise(x_t, t), strict=True):
        np.testing.assert_allclose(compiled, plain, atol=1e-5)
