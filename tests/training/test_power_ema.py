import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config.fields import WIDEST
from ddpm_jax.training.power_ema import (
    exponent_of,
    fit_profile,
    fitted_widths,
    inner_product,
    start_power_emas,
    update_power_emas,
    width_of,
)

WIDTHS = (0.05, 0.1)


def emas_of(params: np.ndarray, *widths: float) -> np.ndarray:
    """The EMAs [step, width] of parameters that change as `params` [step], by the sums that define them."""
    n = np.arange(len(params) + 1.0)
    powers = np.stack([n ** (exponent_of(width) + 1.0) for width in widths])
    return (np.cumsum(np.diff(powers) * params, axis=1) / powers[:, 1:]).T


def snapshots(length: int, every: int) -> tuple[list[int], list[float]]:
    """Times and widths of snapshots every few steps."""
    times = [t for t in range(every, length + 1, every) for _ in WIDTHS]
    return times, list(WIDTHS) * (len(times) // len(WIDTHS))


def test_exponents_are_those_of_the_paper_and_give_the_width_back():
    np.testing.assert_allclose([exponent_of(0.05), exponent_of(0.1)], [16.97219860, 6.937203938], rtol=1e-9)
    for width in (1e-3, 0.01, 0.07, 0.2, WIDEST):
        np.testing.assert_allclose(width_of(exponent_of(width)), width, rtol=1e-9)
    np.testing.assert_allclose(width_of(0.0), 1 / np.sqrt(12))  # The mean of all parameters so far.


def test_the_width_is_the_standard_deviation_of_the_profile():
    t, gamma = 3.0, exponent_of(0.07)
    tau = (np.arange(200_000) + 0.5) / 200_000 * t
    profile = (gamma + 1) * tau**gamma / t ** (gamma + 1)
    mean = np.mean(profile * tau) * t
    np.testing.assert_allclose(np.sqrt(np.mean(profile * (tau - mean) ** 2) * t) / t, 0.07, rtol=1e-5)


@pytest.mark.parametrize("t_b", [2.0, 5.0])
def test_inner_products_are_integrals(t_b):
    t_a, gamma_a, gamma_b = 3.0, 4.5, 9.0
    tau = (np.arange(200_000) + 0.5) / 200_000 * min(t_a, t_b)
    product = (gamma_a + 1) * (tau / t_a) ** gamma_a / t_a * (gamma_b + 1) * (tau / t_b) ** gamma_b / t_b
    found = inner_product(*map(np.float64, (t_a, gamma_a, t_b, gamma_b)))
    np.testing.assert_allclose(found, np.mean(product) * min(t_a, t_b), rtol=1e-6)


def test_inner_products_of_very_narrow_profiles_are_finite():
    """Their powers alone would overflow."""
    gamma = np.float64(exponent_of(1e-3))
    found = inner_product(np.array([1.0, 1e7]), gamma, np.array([1e7, 1e7]), gamma)
    assert found[0] == 0.0
    np.testing.assert_allclose(found[1], (gamma + 1) ** 2 / (2 * gamma + 1) / 1e7)


def test_updates_are_the_sums_of_the_profile_and_the_first_one_replaces_the_start():
    params = np.random.default_rng(0).normal(size=300).cumsum()
    emas = start_power_emas({"w": jnp.ones(1)}, len(WIDTHS))
    for t, value in enumerate(params, 1):
        emas = update_power_emas(WIDTHS, emas, {"w": jnp.full(1, value, jnp.float32)}, jnp.asarray(t))
        if t == 1:
            assert all(float(ema["w"][0]) == np.float32(value) for ema in emas)
    np.testing.assert_allclose([float(ema["w"][0]) for ema in emas], emas_of(params, *WIDTHS)[-1], rtol=1e-5)


def test_the_ema_of_a_ramp_has_its_closed_form():
    """sum_i i (i^g - (i - 1)^g) / t^g = t - sum_(i < t) (i / t)^g, by summation by parts; g = gamma + 1."""
    t, power = 50, exponent_of(0.1) + 1.0
    expected = t - np.sum((np.arange(t) / t) ** power)
    ema = start_power_emas(jnp.ones(()), 1)
    for i in range(1, t + 1):
        ema = update_power_emas((0.1,), ema, jnp.asarray(float(i)), jnp.asarray(i))
    np.testing.assert_allclose(ema[0], expected, rtol=1e-5)


@pytest.mark.parametrize("t", [1, 7, 10**6, 2**31 - 1])
def test_constant_parameters_stay_to_the_bit(t):
    params = jnp.asarray([0.1, -3.0, 1e-8])
    (ema,) = update_power_emas((0.1,), (params,), params, jnp.asarray(t))
    np.testing.assert_array_equal(ema, params)


def test_late_updates_keep_their_small_weights():
    """At a million updates, 1 - 1/t has hardly a digit of 1/t in float32."""
    (ema,) = update_power_emas((0.05,), (jnp.zeros(()),), jnp.ones(()), jnp.asarray(10**6))
    np.testing.assert_allclose(ema, -np.expm1((exponent_of(0.05) + 1) * np.log1p(-1e-6)), rtol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_stored_width_is_its_own_snapshot(width):
    times, widths = snapshots(1000, 100)
    weights, error = fit_profile(times, widths, 700, width)
    expected = [float((t, own) == (700, width)) for t, own in zip(times, widths, strict=True)]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize("width", [0.04, 0.07, 0.15])
def test_a_rebuilt_width_is_the_ema_of_that_width(width):
    """On random walks, within a few per cent of the walk's spread over the width of the profile."""
    length, every = 1600, 100
    times, widths = snapshots(length, every)
    weights, error = fit_profile(times, widths, length, width)
    np.testing.assert_allclose(weights.sum(), 1.0)
    differences = []
    for seed in range(40):
        walk = np.random.default_rng(seed).normal(size=length).cumsum()
        stored = emas_of(walk, *WIDTHS)[every - 1 :: every].ravel()
        differences.append(weights @ stored - emas_of(walk, width)[-1, 0])
    assert error < 0.02
    assert np.std(differences) < 0.02 * np.sqrt(length * width)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [(0.045, 0.06), (0.085, 0.11)]), (4, [(0.045, 0.12)]), (8, [(0.04, 0.17)]), (32, [(0.02, 0.255)])],
)
def test_more_snapshots_give_more_widths(count, expected):
    """As docs/sampling.md says."""
    assert fitted_widths(*snapshots(3200, 3200 // count), 3200) == expected
