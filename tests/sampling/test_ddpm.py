import numpy as np
import pytest

from ddpm_jax.diffusion.process import posterior
from ddpm_jax.sampling.ddpm import ddpm
from ddpm_jax.sampling.timesteps import step_pairs
from tests.analytic import VARIANCE_WEIGHT, gaussian_denoiser
from tests.sampling.samplers import MEAN, STD, assert_normal, gaussian_chain, start


def added_noise(coefficients, pairs, variance):
    """Variance of the noise that each step adds; the step to the clean image adds none."""
    small, large = coefficients.variance, coefficients.forward_variance
    weight = {"fixed_small": 0.0, "fixed_large": 1.0, "learned": VARIANCE_WEIGHT}[variance]
    return np.where(pairs[:, 1] > 0, large**weight * small ** (1.0 - weight), 0.0)


@pytest.mark.parametrize("steps", [10, 50, 1000])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_images_of_gaussian_data_have_the_moments_of_the_analytic_chain(linear, variance, steps):
    pairs = step_pairs("leading", 1000, steps)
    coefficients = posterior(linear, *pairs.T)
    expected = gaussian_chain(linear, pairs, coefficients.variance, added_noise(coefficients, pairs, variance))
    x_T, keys = start(16, (64, 64, 1))
    images = ddpm(gaussian_denoiser(linear, MEAN, STD), linear, x_T, keys, pairs, variance=variance).images
    assert_normal(images, *expected)


def test_the_analytic_chain_equals_the_reference(linear, reference):
    expected = reference["gaussian_data_mean_0.3_std_0.25_exact_denoiser"]["ddpm_fixed_small_T1000"]
    pairs = step_pairs("leading", 1000, 1000)
    variance = posterior(linear, *pairs.T).variance
    np.testing.assert_allclose(gaussian_chain(linear, pairs, variance, variance)[1], expected, rtol=1e-9)
