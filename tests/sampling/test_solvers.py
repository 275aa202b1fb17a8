"""How fast DPM-Solver++ and UniPC approach the exact solution, and that they are the published ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.builders import build_pairs, build_sampler
from ddpm_jax.config import config_of
from ddpm_jax.diffusion.denoiser import Prediction, prediction_of_output
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.dpm_solver import dpm_solver, phi, solver_weights, step_orders
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.threshold import clip, constrain
from ddpm_jax.sampling.timesteps import listed_pairs, step_pairs
from ddpm_jax.sampling.unipc import corrected_integral, corrector_weights, unipc
from tests.analytic import gaussian_denoiser, two_values_denoiser

MEAN, STD = 0.3, 0.25
KEYS = image_keys(0, np.arange(4))


def even_in_log_snr(steps: int) -> Schedule:
    """A schedule whose t = 1..steps + 1 are as far apart in log-SNR as the ends of the linear one, so t is no time."""
    log_snr = np.linspace(9.2, -10.1, steps + 1)
    return Schedule(np.insert(1.0 / (1.0 + np.exp(-log_snr)), 0, 1.0))


def exact_denoiser(schedule):
    """E[x_0 | x_t] of N(MEAN, STD^2) in whatever precision x_t has."""

    def denoise(x_t, t):
        signal, noise = (
            jnp.asarray(table)[t].reshape(-1, 1, 1, 1) for table in (schedule.signal_rate, schedule.noise_rate)
        )
        x0 = MEAN + STD**2 * signal / (signal**2 * STD**2 + noise**2) * (x_t - signal * MEAN)
        return Prediction(x0, (x_t - signal * x0) / noise)

    return denoise


def exact_solution(schedule, x_t, t, s):
    """The probability-flow ODE from t to s: it scales the distance to the mean as the deviation of the marginal."""
    deviation = np.sqrt(schedule.alpha_bar * STD**2 + schedule.noise_rate**2)
    return schedule.signal_rate[s] * MEAN + deviation[s] / deviation[t] * (x_t - schedule.signal_rate[t] * MEAN)


@pytest.mark.parametrize(
    ("solver", "lowest", "highest"),
    [
        (partial(dpm_solver, order=1), 0.95, 1.1),
        (dpm_solver, 1.9, 2.1),
        (partial(dpm_solver, order=3), 2.7, 4.0),
        (partial(dpm_solver, order=3, third_order="diffusers"), 1.9, 2.5),
        (partial(unipc, order=1), 1.9, 2.1),
        (unipc, 2.85, 3.2),
        (partial(unipc, lower_order_final="never"), 2.85, 3.1),
    ],
)
def test_solvers_converge_with_their_order(draw, solver, lowest, highest):
    with jax.enable_x64(True):
        x_T, errors = jnp.asarray(draw.normal(size=(4, 2, 2, 1))), []
        for steps in (20, 40, 80, 160):
            schedule = even_in_log_snr(steps)
            pairs = listed_pairs(range(steps + 1, 1, -1), steps + 1, "sigma_min")
            images = solver(exact_denoiser(schedule), schedule, x_T, KEYS, pairs).images
            assert images.dtype == jnp.float64
            errors.append(np.abs(images - exact_solution(schedule, x_T, steps + 1, 1)).max())
    orders = -np.diff(np.log2(errors))
    assert np.all(orders[1:] >= lowest) and np.all(orders[1:] <= highest), orders


@pytest.mark.parametrize("sampler", ["dpm_solver", "unipc"])
def test_twenty_steps_of_their_own_spacing_beat_fifty_of_ddim(linear, sampler):
    denoiser, x_T = gaussian_denoiser(linear, MEAN, STD), draw_noise(KEYS, 0, (8, 8, 1))
    exact = exact_solution(linear, x_T, 1000, 0)

    def error(name):
        config = config_of({"sample": {"sampler": name, "threshold": "none"}})
        images = build_sampler(config)(denoiser, x_T, KEYS, build_pairs(config)).images
        return np.abs(images - exact).mean()

    assert error(sampler) < 0.6 * error("ddim")


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_order_1_is_ddim(linear, final):
    pairs, denoiser = step_pairs("leading", 1000, 10, final), gaussian_denoiser(linear, MEAN, STD)
    x_T = draw_noise(KEYS, 0, (4, 4, 1))
    ours = dpm_solver(denoiser, linear, x_T, KEYS, pairs, order=1).images
    np.testing.assert_allclose(ours, ddim(denoiser, linear, x_T, KEYS, pairs).images, atol=1e-5)


def test_dpm_solver_equals_the_loop_of_diffusers_own_tests(linear, reference):
    x = (np.arange(768).reshape(3, 8, 8, 4) / 768).transpose(3, 1, 2, 0).astype(np.float32)

    def denoiser(x_t, t):
        factor = ((t - 1).astype(jnp.float32) / t.astype(jnp.float32)).reshape(-1, 1, 1, 1)
        return prediction_of_output(linear, "eps", x_t * factor, x_t, t)

    pairs = step_pairs("linspace_open", 1000, 10, "sigma_min")
    images = dpm_solver(constrain(denoiser, linear, clip), linear, x, KEYS, pairs, lower_order_final="never").images
    loops = reference["scheduler_loops_of_the_diffusers_test_suite"]
    expected = loops["dpm_solver_pp_2m_midpoint (final sigma_min, lower_order_final off)"]
    np.testing.assert_allclose(np.abs(images).sum(), expected["sum_abs"], rtol=1e-5)
    np.testing.assert_allclose(np.abs(images).mean(), expected["mean_abs"], rtol=1e-5)


@pytest.mark.parametrize("h", [1e-2, 0.5, 3.0, 40.0])
def test_the_integrals_are_those_of_the_exponential(h):
    u, weight = np.polynomial.legendre.leggauss(200)
    u, weight = (u + 1) * h / 2, weight * h / 2
    for j, value in enumerate(phi(h)):
        np.testing.assert_allclose(value, np.sum(weight * np.exp(u - h) * (u / h) ** j / max(j, 1)), rtol=1e-9)
    assert phi(np.inf) == (1.0, 1.0, 0.5)


def test_weights_of_an_endless_step_are_the_limits_of_long_ones():
    signal, noise = np.array([0.0, 0.2, 0.5, 0.8, 1.0]), np.sqrt(1 - np.array([0.0, 0.2, 0.5, 0.8, 1.0]) ** 2)
    nearly = np.clip(signal, 1e-300, 1.0), np.clip(noise, 1e-300, 1.0)
    for order in (1, 2, 3):
        exact, long = (solver_weights(*tables, order, "always") for tables in ((signal, noise), nearly))
        assert all(np.isfinite(part).all() for part in exact)
        np.testing.assert_allclose(exact.x0, long.x0, atol=0.01)
        np.testing.assert_allclose((exact.x[0], exact.x0[0, 0]), (noise[1], signal[1]))
        np.testing.assert_allclose((exact.x[-1], exact.x0[-1, 0], exact.x0[-1, 1:].sum()), (0.0, 1.0, 0.0))
        if order < 3:
            exact, long = (corrector_weights(*tables, order, "always") for tables in ((signal, noise), nearly))
            np.testing.assert_allclose(exact.x0, long.x0, atol=0.01)
    np.testing.assert_allclose(corrected_integral(2, 0.7, np.inf), corrected_integral(2, 0.7, 1e12), atol=1e-9)


def test_orders_rise_at_the_start_and_fall_at_the_end():
    assert step_orders(np.ones(6), 3, "always") == [1, 2, 3, 3, 2, 1]
    assert step_orders(np.ones(6), 3, "few") == [1, 2, 3, 3, 2, 1]
    assert step_orders(np.ones(6), 3, "never") == [1, 2, 3, 3, 3, 3]
    assert step_orders(np.ones(15), 3, "few") == [1, 2, *[3] * 13]
    assert step_orders(np.array([np.inf, 1, 1, 1, np.inf]), 2, "never") == [1, 2, 2, 2, 1]


@pytest.mark.parametrize(("solver", "order"), [(dpm_solver, 0), (dpm_solver, 4), (unipc, 3)])
def test_an_order_that_does_not_exist_is_refused(linear, solver, order):
    x_T = draw_noise(KEYS, 0, (4, 4, 1))
    with pytest.raises(ValueError, match=f"order is {order}; expected 1"):
        solver(gaussian_denoiser(linear, MEAN, STD), linear, x_T, KEYS, step_pairs("leading", 1000, 5), order=order)


@pytest.mark.parametrize("solver", [dpm_solver, unipc])
def test_steps_that_do_not_follow_each_other_are_refused(linear, solver):
    x_T = draw_noise(KEYS, 0, (4, 4, 1))
    with pytest.raises(ValueError, match="must start where the one before it ended"):
        solver(gaussian_denoiser(linear, MEAN, STD), linear, x_T, KEYS, np.array([[900, 500], [400, 0]]))


def test_the_spacings_that_solvers_have_by_default_serve_them_best(linear):
    """Pixels near -0.5 or 0.5, exactly denoised, against the true solution: builders.py cites these distances."""
    denoiser = two_values_denoiser(linear, 0.5, 0.05)
    x_T = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 1)), jnp.float32)
    keys = image_keys(0, np.arange(4))
    true = dpm_solver(denoiser, linear, x_T, keys, step_pairs("linspace", 1000, 1000)).images

    def distance(solve, spacing):
        return float(jnp.abs(solve(denoiser, linear, x_T, keys, step_pairs(spacing, 1000, 20)).images - true).mean())

    for solve in (dpm_solver, unipc):
        distances = [distance(solve, spacing) for spacing in ("quadratic", "linspace_open", "leading")]
        assert distances[0] < 0.005 and 0.02 < distances[1] < 0.04 and 0.1 < distances[2] < 0.2
    assert 0.015 < distance(ddim, "leading") < 0.03
