from functools import partial

import numpy as np
import pytest

from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.dpm_solver import dpm_solver, phi, solver_weights, step_orders
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.threshold import clip, constrain
from ddpm_jax.sampling.timesteps import step_pairs
from tests.analytic import gaussian_denoiser
from tests.sampling.samplers import MEAN, STD, convergence_orders, diffusers_test_denoiser

KEYS = image_keys(0, np.arange(4))
SIGNAL = np.array([0.0, 0.2, 0.5, 0.8, 1.0])
NOISE = np.sqrt(1.0 - SIGNAL**2)


@pytest.mark.parametrize(
    ("options", "lowest", "highest"),
    [
        ({"order": 1}, 0.95, 1.1),
        ({"order": 2}, 1.9, 2.1),
        ({"order": 3}, 2.7, 4.0),
        ({"order": 3, "third_order": "diffusers"}, 1.9, 2.5),
    ],
)
def test_the_solver_converges_with_its_order(draw, options, lowest, highest):
    orders = convergence_orders(draw, partial(dpm_solver, **options))
    assert np.all(orders[1:] >= lowest) and np.all(orders[1:] <= highest), orders


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_order_1_is_ddim(linear, final):
    pairs, denoiser = step_pairs("leading", 1000, 10, final), gaussian_denoiser(linear, MEAN, STD)
    x_T = draw_noise(KEYS, 0, (4, 4, 1))
    ours = dpm_solver(denoiser, linear, x_T, KEYS, pairs, order=1).images
    np.testing.assert_allclose(ours, ddim(denoiser, linear, x_T, KEYS, pairs).images, atol=1e-5)


def test_dpm_solver_equals_the_loop_in_the_tests_of_diffusers(linear, reference):
    denoiser, x_T = diffusers_test_denoiser(linear, "eps")
    pairs = step_pairs("linspace_open", 1000, 10, "sigma_min")
    images = dpm_solver(constrain(denoiser, linear, clip), linear, x_T, KEYS, pairs, lower_order_final="never").images
    loops = reference["scheduler_loops_of_the_diffusers_test_suite"]
    expected = loops["dpm_solver_pp_2m_midpoint (final sigma_min, lower_order_final off)"]
    np.testing.assert_allclose(np.abs(images).sum(), expected["sum_abs"], rtol=1e-5)
    np.testing.assert_allclose(np.abs(images).mean(), expected["mean_abs"], rtol=1e-5)


@pytest.mark.parametrize("h", [1e-2, 0.5, 3.0, 40.0])
def test_phi_equals_quadrature_of_the_integrals(h):
    u, weight = np.polynomial.legendre.leggauss(200)
    u, weight = (u + 1) * h / 2, weight * h / 2
    for j, value in enumerate(phi(h)):
        np.testing.assert_allclose(value, np.sum(weight * np.exp(u - h) * (u / h) ** j / max(j, 1)), rtol=1e-9)
    assert phi(np.inf) == (1.0, 1.0, 0.5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_weights_of_an_infinite_step_are_the_limits_of_long_steps(order):
    exact = solver_weights(SIGNAL, NOISE, order, "always")
    long = solver_weights(np.clip(SIGNAL, 1e-300, 1.0), np.clip(NOISE, 1e-300, 1.0), order, "always")
    assert all(np.isfinite(part).all() for part in exact)
    np.testing.assert_allclose(exact.x0, long.x0, atol=0.01)
    np.testing.assert_allclose((exact.x[0], exact.x0[0, 0]), (NOISE[1], SIGNAL[1]))
    np.testing.assert_allclose((exact.x[-1], exact.x0[-1, 0], exact.x0[-1, 1:].sum()), (0.0, 1.0, 0.0))


def test_orders_rise_at_the_start_and_fall_at_the_end():
    assert step_orders(np.ones(6), 3, "always") == [1, 2, 3, 3, 2, 1]
    assert step_orders(np.ones(6), 3, "few") == [1, 2, 3, 3, 2, 1]
    assert step_orders(np.ones(6), 3, "never") == [1, 2, 3, 3, 3, 3]
    assert step_orders(np.ones(15), 3, "few") == [1, 2, *[3] * 13]
    assert step_orders(np.array([np.inf, 1, 1, 1, np.inf]), 2, "never") == [1, 2, 2, 2, 1]


@pytest.mark.parametrize("order", [0, 4])
def test_an_order_that_does_not_exist_is_refused(linear, order):
    x_T, pairs = draw_noise(KEYS, 0, (4, 4, 1)), step_pairs("leading", 1000, 5)
    with pytest.raises(ValueError, match=f"order is {order}; expected 1, 2 or 3"):
        dpm_solver(gaussian_denoiser(linear, MEAN, STD), linear, x_T, KEYS, pairs, order=order)


def test_pairs_with_a_gap_are_refused(linear):
    x_T = draw_noise(KEYS, 0, (4, 4, 1))
    with pytest.raises(ValueError, match="must start where the one before it ended"):
        dpm_solver(gaussian_denoiser(linear, MEAN, STD), linear, x_T, KEYS, np.array([[900, 500], [400, 0]]))
