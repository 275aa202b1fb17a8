import numpy as np
import pytest

from ddpm_jax.diffusion.process import posterior
from ddpm_jax.sampling.ddim import ddim, ddim_coefficients
from ddpm_jax.sampling.noise import image_keys
from ddpm_jax.sampling.threshold import clip, constrain
from ddpm_jax.sampling.timesteps import step_pairs
from tests.analytic import gaussian_denoiser
from tests.sampling.samplers import MEAN, STD, assert_normal, diffusers_test_denoiser, gaussian_chain, start


@pytest.mark.parametrize("steps", [10, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_images_of_gaussian_data_have_the_moments_of_the_analytic_chain(linear, eta, steps):
    pairs = step_pairs("leading", 1000, steps)
    variance = eta**2 * posterior(linear, *pairs.T).variance
    x_T, keys = start(16, (64, 64, 1))
    images = ddim(gaussian_denoiser(linear, MEAN, STD), linear, x_T, keys, pairs, eta=eta).images
    assert_normal(images, *gaussian_chain(linear, pairs, variance, variance))


def test_the_analytic_chain_equals_the_reference(linear, reference):
    expected = reference["gaussian_data_mean_0.3_std_0.25_exact_denoiser"]
    for steps in (10, 50, 1000):
        std = gaussian_chain(linear, step_pairs("leading", 1000, steps), np.zeros(steps), np.zeros(steps))[1]
        np.testing.assert_allclose(std, expected[f"ddim_eta0_S{steps}"], rtol=1e-9)


@pytest.mark.parametrize(("kind", "name"), [("eps", "ddim_eta0"), ("v", "ddim_eta0_v_prediction")])
def test_ddim_equals_the_loop_in_the_tests_of_diffusers(linear, reference, kind, name):
    denoiser, x_T = diffusers_test_denoiser(linear, kind)
    clipped, keys = constrain(denoiser, linear, clip), image_keys(0, np.arange(4))
    images = ddim(clipped, linear, x_T, keys, step_pairs("leading", 1000, 10)).images
    expected = reference["scheduler_loops_of_the_diffusers_test_suite"][name]
    np.testing.assert_allclose(np.abs(images).sum(), expected["sum_abs"], rtol=1e-5)
    np.testing.assert_allclose(np.abs(images).mean(), expected["mean_abs"], rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_ddim_step_equals_the_reference(linear, reference, eta):
    expected = reference["linear"]["ddim_step_501_to_481_x_1_eps_0.5"][str(eta)]
    _, signal, noise, sigma = ddim_coefficients(linear, np.array([[501, 481]]), eta)
    np.testing.assert_allclose(sigma, expected["sigma"], rtol=1e-6)
    np.testing.assert_allclose(signal * expected["x0"] + noise * 0.5, expected["mean"], rtol=1e-6)
