import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.process import (
    eps_from_v,
    eps_from_x0,
    per_image,
    posterior,
    posterior_tables,
    q_sample,
    v_from_x0_eps,
    x0_from_eps,
    x0_from_v,
)
from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas


@pytest.fixture
def images(draw):
    x0 = draw.uniform(-1, 1, (6, 4, 4, 3)).astype(np.float32)
    eps = draw.standard_normal(x0.shape).astype(np.float32)
    return x0, eps, jnp.array([1, 2, 100, 400, 700, 900])


def test_q_sample_at_zero_returns_the_image(linear, images):
    x0, eps, _ = images
    np.testing.assert_array_equal(q_sample(linear, x0, jnp.zeros(6, jnp.int32), eps), x0)


def test_q_sample_has_the_moments_of_the_paper(linear, draw):
    x0 = jnp.full((1, 64, 64, 3), 0.5)
    x_t = q_sample(linear, x0, jnp.array([300]), draw.standard_normal(x0.shape).astype(np.float32))
    np.testing.assert_allclose(x_t.mean(), 0.5 * linear.signal_rate[300], atol=0.02)
    np.testing.assert_allclose(x_t.std(), linear.noise_rate[300], rtol=0.02)


def test_each_conversion_undoes_its_inverse(linear, images):
    x0, eps, t = images
    x_t = q_sample(linear, x0, t, eps)
    v = v_from_x0_eps(linear, t, x0, eps)
    # Dividing by a small signal or noise amplifies float32 rounding.
    np.testing.assert_allclose(x0_from_eps(linear, x_t, t, eps), x0, atol=2e-4)
    np.testing.assert_allclose(eps_from_x0(linear, x_t, t, x0), eps, atol=2e-4)
    np.testing.assert_allclose(x0_from_v(linear, x_t, t, v), x0, atol=1e-6)
    np.testing.assert_allclose(eps_from_v(linear, x_t, t, v), eps, atol=1e-6)


def test_v_is_invertible_without_signal(images):
    schedule = schedule_of_betas(linear_betas(1000), zero_terminal_snr=True)
    x0, eps, _ = images
    t = jnp.full(6, 1000)
    np.testing.assert_array_equal(q_sample(schedule, x0, t, eps), eps)
    np.testing.assert_array_equal(x0_from_v(schedule, eps, t, v_from_x0_eps(schedule, t, x0, eps)), x0)


def test_v_target_equals_the_reference(linear, reference):
    v = v_from_x0_eps(linear, jnp.array([501]), jnp.ones((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), 0.5))
    np.testing.assert_allclose(v.item(), reference["linear"]["v_target_t501_x0_1_eps_0.5"], rtol=1e-6)


@pytest.mark.parametrize("pairs", [[(1000, 999), (2, 1), (1, 0)], [(1000, 0), (900, 50), (501, 481), (1, 0)]])
def test_the_posterior_carries_the_marginal_of_t_to_that_of_s(cosine, pairs):
    t, s = np.array(pairs).T
    coefficients = posterior(cosine, t, s)
    mean = coefficients.x0 + coefficients.x_t * cosine.signal_rate[t]
    variance = coefficients.x_t**2 * cosine.noise_rate[t] ** 2 + coefficients.variance
    np.testing.assert_allclose(mean, cosine.signal_rate[s], rtol=1e-9)
    np.testing.assert_allclose(variance, cosine.noise_rate[s] ** 2, rtol=1e-9, atol=1e-12)


def test_posterior_equals_the_reference(linear, reference):
    tables, expected = posterior_tables(linear), reference["linear"]["posterior_coefficients_t501"]
    np.testing.assert_allclose(tables.x0[501], expected["x0"], rtol=1e-9)
    np.testing.assert_allclose(tables.x_t[501], expected["x_t"], rtol=1e-9)
    assert (tables.x0[0], tables.x_t[0], tables.variance[0]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("t", "s"), [(5, 5), (5, 6), (1, -1)])
def test_steps_that_do_not_go_back_are_refused(linear, t, s):
    with pytest.raises(ValueError, match="earlier"):
        posterior(linear, np.array([t]), np.array([s]))


def test_per_image_reads_a_float64_table_as_float32_rows(linear):
    rows = per_image(linear.noise_rate, jnp.array([1, 1000]), jnp.zeros((2, 8, 8, 3)))
    assert rows.shape == (2, 1, 1, 1) and rows.dtype == jnp.float32
    # Computed in float32, 1 - alpha_bar would be off by 1.7e-4 here.
    np.testing.assert_allclose(rows[0].item() ** 2, 1e-4, rtol=1e-6)
