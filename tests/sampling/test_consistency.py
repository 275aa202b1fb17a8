import jax
import numpy as np
import pytest

from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.diffusion.process import per_image
from ddpm_jax.sampling.consistency import consistency
from ddpm_jax.sampling.timesteps import step_pairs
from tests.analytic import gaussian_denoiser
from tests.sampling.samplers import MEAN, STD, assert_normal, start


def consistent_denoiser(schedule):
    """The end of the probability-flow ODE from x_t, for pixels that are independently N(MEAN, STD^2)."""
    deviation = np.sqrt(schedule.alpha_bar * STD**2 + schedule.noise_rate**2)

    def denoise(x_t, t):
        signal, scale = per_image(schedule.signal_rate, t, x_t), per_image(STD / deviation, t, x_t)
        return Prediction(MEAN + scale * (x_t - signal * MEAN), x_t)

    return denoise


@pytest.mark.parametrize("steps", [1, 2, 4, 30])
def test_any_number_of_steps_is_exact_for_a_consistent_model(linear, steps):
    x_T, keys = start(4, (100, 100, 1))
    images = consistency(consistent_denoiser(linear), linear, x_T, keys, step_pairs("trailing", 1000, steps)).images
    assert_normal(images, MEAN, STD)


def test_a_denoiser_of_the_mean_is_no_consistent_model(linear):
    x_T, keys = start(4, (100, 100, 1))
    images = consistency(
        gaussian_denoiser(linear, MEAN, STD), linear, x_T, keys, step_pairs("trailing", 1000, 1)
    ).images
    assert images.std() < 0.1 * STD


def test_one_step_is_the_prediction_at_the_start(linear):
    x_T, keys = start(2, (4, 6, 1))
    denoiser = consistent_denoiser(linear)
    images = consistency(denoiser, linear, x_T, keys, step_pairs("trailing", 1000, 1)).images
    expected = jax.jit(denoiser)(x_T, np.full(2, 1000)).x0
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_every_step_draws_new_noise(linear):
    """So that x_0 of two steps is not a function of x_T alone."""
    x_T, keys = start(2, (4, 6, 1))
    other = start(2, (4, 6, 1), seed=1)[1]
    pairs, denoiser = step_pairs("trailing", 1000, 2), consistent_denoiser(linear)
    images = [consistency(denoiser, linear, x_T, each, pairs).images for each in (keys, other)]
    assert np.abs(images[0] - images[1]).max() > 0.1
