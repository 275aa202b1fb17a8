import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.diffusion.likelihood import (
    bits_per_dim,
    bound_term,
    discretized_log_likelihood,
    gaussian_kl,
    log_variance_bounds,
    prior_bits,
)
from ddpm_jax.diffusion.pixels import from_pixels
from ddpm_jax.diffusion.process import q_sample
from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas
from ddpm_jax.sampling.noise import image_keys
from tests.analytic import gaussian_denoiser


def test_prior_equals_the_reference(linear, reference):
    for x0, bits in reference["linear"]["prior_kl_bits_per_dim"].items():
        np.testing.assert_allclose(prior_bits(linear, jnp.full((1, 2, 2, 1), float(x0))).item(), bits, rtol=1e-4)


def test_clipped_variance_at_the_first_step_equals_the_reference(linear, reference):
    small, large = log_variance_bounds(linear)
    expected = reference["linear"]["log_posterior_variance_clipped_at_t1"]
    np.testing.assert_allclose(small[1], expected, rtol=1e-9)
    np.testing.assert_allclose(np.exp(large[1:]), 1.0 - linear.alpha_bar[1:] / linear.alpha_bar[:-1], rtol=1e-9)
    assert np.all(small[1:] < large[1:])


@pytest.mark.parametrize("mean", [-1.3, -0.5, 0.0, 0.999])
@pytest.mark.parametrize("std", [0.003, 0.05, 0.7])
@pytest.mark.parametrize("depth", [8, 16])
def test_the_probabilities_of_all_grey_levels_sum_to_one(mean, std, depth):
    levels = from_pixels(jnp.arange(2**depth, dtype=f"uint{depth}").reshape(-1, 1, 1, 1))
    means, log_vars = jnp.full_like(levels, mean), jnp.full_like(levels, 2 * np.log(std))
    log_p = discretized_log_likelihood(levels, means, log_vars, depth)
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, atol=1e-4 if depth == 8 else 2e-3)


def test_twice_the_bits_cost_eight_more_bits(draw):
    """A smooth density has 257 times as many levels of 16 bits as of 8: log2(257) more bits for each."""
    levels = draw.integers(20, 236, (64, 1, 1, 1)).astype(np.uint8)
    x0, mean, log_var = from_pixels(levels), jnp.full(levels.shape, 0.1), jnp.full(levels.shape, 2 * np.log(0.3))
    few, many = (discretized_log_likelihood(x0, mean, log_var, depth) for depth in (8, 16))
    np.testing.assert_allclose((few - many) / np.log(2), np.log2(257), rtol=2e-3)


def test_kl_equals_its_float64_value_and_is_zero_for_equal_gaussians():
    m1, v1, m2, v2 = 0.3, 0.5, -0.2, 0.8
    images = [jnp.full((1, 1, 1, 1), value) for value in (m1, np.log(v1), m2, np.log(v2))]
    exact = 0.5 * (np.log(v2 / v1) + (v1 + (m1 - m2) ** 2) / v2 - 1.0)
    np.testing.assert_allclose(gaussian_kl(*images).item(), exact, rtol=1e-5)
    np.testing.assert_array_equal(gaussian_kl(images[0], images[1], images[0], images[1]), 0.0)


def test_the_kl_is_zero_if_the_image_is_known(linear, draw):
    x0 = draw.uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    eps, t = draw.standard_normal(x0.shape).astype(np.float32), jnp.array([2, 500, 1000])
    x_t = q_sample(linear, x0, t, eps)
    sure = bound_term(linear, "fixed_small", Prediction(jnp.asarray(x0), eps), x0, x_t, t)
    unsure = bound_term(linear, "fixed_small", Prediction(jnp.asarray(x0) + 0.1, eps), x0, x_t, t)
    np.testing.assert_allclose(sure, 0.0, atol=1e-6)
    assert np.all(unsure > sure)


def test_the_bound_of_the_exact_model_is_just_above_the_entropy(draw):
    """For N(m, s^2) on a grid of width 2/255 no code is shorter than log2(s sqrt(2 pi e) 127.5) bits a pixel."""
    schedule, std = schedule_of_betas(linear_betas(200)), 0.25
    levels = np.round((draw.normal(0.1, std, (8, 16, 16, 1)) + 1.0) * 127.5)
    x0 = jnp.asarray(np.clip(levels, 0, 255) / 127.5 - 1.0, jnp.float32)
    denoiser = gaussian_denoiser(schedule, 0.1, std)
    bound = jax.jit(lambda x0, keys: bits_per_dim(denoiser, schedule, x0, keys, variance="fixed_large"))
    total, terms, prior = bound(x0, image_keys(0, np.arange(8)))
    entropy = np.log2(std * np.sqrt(2 * np.pi * np.e) * 127.5)
    assert terms.shape == (200, 8)
    np.testing.assert_allclose(total, terms.sum(axis=0) + prior, rtol=1e-5)
    assert entropy - 0.05 < total.mean() < entropy + 0.4


def test_learned_variance_needs_a_predicted_variance(linear):
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match="predicts none"):
        bound_term(linear, "learned", Prediction(x, x), x, x, jnp.array([5]))


MEAN, STD = 0.3, 0.25


def gaussian_grid(points: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x_0 ~ N(MEAN, STD^2), eps ~ N(0, 1) and weights such that weighted sums are expectations (Gauss-Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    weights = weights / weights.sum()
    x0, eps = (grid.reshape(-1, 1, 1, 1).astype(np.float32) for grid in np.meshgrid(MEAN + STD * nodes, nodes))
    return x0, eps, np.outer(weights, weights).ravel()


@pytest.mark.parametrize("t", [2, 10, 100, 500, 1000])
def test_each_term_of_the_exact_gaussian_model_has_its_closed_form(linear, t):
    """KL = c_0^2 Var(x_0 | x_t) / (2 posterior variance), as the exact model errs only by the spread of x_0."""
    x0, eps, weights = gaussian_grid()
    steps = jnp.full(len(x0), t)
    x_t = q_sample(linear, x0, steps, eps)
    prediction = gaussian_denoiser(linear, MEAN, STD)(x_t, steps)
    measured = float(weights @ np.asarray(bound_term(linear, "fixed_small", prediction, x0, x_t, steps), np.float64))
    abar, before = linear.alpha_bar[t], linear.alpha_bar[t - 1]
    beta = 1.0 - abar / before
    variance = beta * (1.0 - before) / (1.0 - abar)
    c_0 = np.sqrt(before) * beta / (1.0 - abar)
    spread = STD**2 * (1.0 - abar) / (abar * STD**2 + 1.0 - abar)
    assert measured == pytest.approx(c_0**2 * spread / (2.0 * variance) / np.log(2.0), rel=1e-3)


def test_the_prior_of_gaussian_data_has_its_closed_form(linear):
    x0, _, weights = gaussian_grid()
    abar = linear.alpha_bar[-1]
    expected = 0.5 * (abar * (MEAN**2 + STD**2) - abar - np.log1p(-abar)) / np.log(2.0)
    assert float(weights @ np.asarray(prior_bits(linear, jnp.asarray(x0)), np.float64)) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize("level", [0, 1, 128, 165, 254, 255])
def test_the_decoder_equals_quadrature(linear, level):
    """-log of the probability of a grey level under p(x_0 | x_1), averaged over the noise of x_1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x0 = np.full((40, 1, 1, 1), level / 127.5 - 1.0, np.float32)
    steps = jnp.ones(40, int)
    x_1 = q_sample(linear, x0, steps, nodes.reshape(-1, 1, 1, 1).astype(np.float32))
    prediction = gaussian_denoiser(linear, MEAN, STD)(x_1, steps)
    terms = np.asarray(bound_term(linear, "fixed_small", prediction, x0, x_1, steps), np.float64)
    mean = np.asarray(prediction.x0, np.float64).ravel()
    std = np.exp(0.5 * log_variance_bounds(linear)[0][1])
    centre = level / 127.5 - 1.0
    upper = np.inf if level == 255 else (centre + 1 / 255 - mean) / std
    lower = -np.inf if level == 0 else (centre - 1 / 255 - mean) / std
    inside = np.log(np.maximum(scipy.stats.norm.cdf(upper) - scipy.stats.norm.cdf(lower), 1e-12))
    log_mass = inside if 0 < level < 255 else scipy.stats.norm.logsf(lower) if level else scipy.stats.norm.logcdf(upper)
    expected = -(weights @ log_mass) / weights.sum() / np.log(2.0)
    assert weights @ terms / weights.sum() == pytest.approx(expected, rel=1e-3)
