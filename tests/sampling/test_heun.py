import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.schedule import Schedule, linear_betas, schedule_of_betas
from ddpm_jax.sampling import heun as heun_module
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.heun import MAX_RATIO, heun, heun_coefficients
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.threshold import clip, constrain
from ddpm_jax.sampling.timesteps import karras, karras_sigmas, listed_pairs, step_pairs
from tests.analytic import gaussian_denoiser
from tests.sampling.samplers import MEAN, STD, convergence_orders, exact_denoiser, exact_solution

KEYS = image_keys(0, np.arange(4))


def test_the_solver_converges_with_order_2(draw):
    orders = convergence_orders(draw, heun)
    assert np.all(orders[1:] >= 1.9) and np.all(orders[1:] <= 2.1), orders


@pytest.mark.parametrize("keep_eps", [False, True])
def test_steps_without_a_correction_are_those_of_ddim(linear, monkeypatch, keep_eps):
    monkeypatch.setattr(heun_module, "MAX_RATIO", 0.0)
    pairs, x_T = step_pairs("leading", 1000, 10), draw_noise(KEYS, 0, (4, 4, 1))
    denoiser = constrain(gaussian_denoiser(linear, MEAN, 3.0), linear, clip, keep_eps=keep_eps)
    ours = heun(denoiser, linear, x_T, KEYS, pairs).images
    np.testing.assert_allclose(ours, ddim(denoiser, linear, x_T, KEYS, pairs).images, atol=1e-5)


def test_with_the_noise_levels_of_the_paper_it_is_its_algorithm(draw):
    """Karras et al. 2022, Algorithm 1, as it is printed, for the exact denoiser D of Gaussian data."""
    levels = karras_sigmas(80.0, 0.002, 18)
    schedule = Schedule(np.insert(1.0 / (1.0 + levels[::-1] ** 2), 0, 1.0))
    np.testing.assert_array_equal(karras(schedule.sigma, 18), np.arange(1, 19))
    x_T = draw.normal(size=(4, 2, 2, 1))

    def slope(x, sigma):
        return (x - (MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN))) / sigma

    x = x_T * np.sqrt(1.0 + levels[0] ** 2)
    for sigma, following in zip(levels, np.append(levels[1:], 0.0), strict=True):
        d = slope(x, sigma)
        euler = x + (following - sigma) * d
        x = x + (following - sigma) * (d + slope(euler, following)) / 2 if following else euler
    with jax.enable_x64(True):
        pairs = listed_pairs(range(18, 0, -1), 18)
        images = heun(exact_denoiser(schedule), schedule, jnp.asarray(x_T), KEYS, pairs).images
    np.testing.assert_allclose(images, x, rtol=1e-9)


def test_samples_are_more_exact_than_those_of_ddim_with_as_many_evaluations(linear):
    denoiser, x_T = gaussian_denoiser(linear, MEAN, STD), draw_noise(KEYS, 0, (8, 8, 1))
    exact = exact_solution(linear, x_T, 1000, 0)
    ours = heun(denoiser, linear, x_T, KEYS, step_pairs("karras", 1000, 18, sigma=linear.sigma)).images
    theirs = ddim(denoiser, linear, x_T, KEYS, step_pairs("trailing", 1000, 35)).images
    assert np.abs(ours - exact).mean() < 0.6 * np.abs(theirs - exact).mean()


@pytest.mark.parametrize(("zero_terminal_snr", "first"), [(False, [1000, 750]), (True, [1000])])
def test_the_network_is_evaluated_once_in_the_last_step_and_from_zero_signal(zero_terminal_snr, first):
    schedule = schedule_of_betas(linear_betas(1000), zero_terminal_snr=zero_terminal_snr)
    exact, times = gaussian_denoiser(schedule, MEAN, STD), []

    def denoiser(x_t, t):
        times.append(int(t[0]))
        return exact(x_t, t)

    with jax.disable_jit():
        heun(denoiser, schedule, draw_noise(KEYS, 0, (2, 2, 1)), KEYS, step_pairs("trailing", 1000, 4))
    assert times == [*first, 750, 500, 500, 250, 250]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_only_long_steps_in_log_sigma_are_not_corrected(schedule, request):
    chosen = request.getfixturevalue(schedule)
    for steps in (10, 18, 50):
        pairs = step_pairs("karras", 1000, steps, sigma=chosen.sigma)
        evaluations = np.asarray(heun_coefficients(chosen, pairs, np.float32)[2])
        ratio = chosen.sigma[pairs[:, 0]] / np.maximum(chosen.sigma[pairs[:, 1]], 1e-9)
        np.testing.assert_array_equal(evaluations == 1, ratio > MAX_RATIO)
        assert np.all(evaluations[1:-1] == 2) and evaluations[-1] == 1
