import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.objective import (
    Objective,
    absolute_error,
    huber,
    losses,
    min_snr,
    p2,
    quarter_of,
    squared_error,
    uniform,
)
from ddpm_jax.diffusion.process import eps_from_x0, q_sample, v_from_x0_eps


@pytest.fixture
def example(linear, draw):
    x0 = draw.uniform(-1, 1, (4, 4, 4, 2)).astype(np.float32)
    noise = draw.standard_normal(x0.shape).astype(np.float32)
    t = jnp.array([60, 250, 500, 800])
    return x0, q_sample(linear, x0, t, noise), t, noise


def targets(schedule, x0, t, noise):
    return {"eps": noise, "x0": x0, "v": v_from_x0_eps(schedule, t, x0, noise)}


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("distance", [squared_error, absolute_error, huber(0.1)])
@pytest.mark.parametrize("weighting", [uniform, min_snr(5.0), p2(1.0, 1.0)])
def test_only_the_true_target_has_no_loss(linear, example, prediction, distance, weighting):
    x0, x_t, t, noise = example
    objective = Objective(prediction, distance, weighting)
    target = targets(linear, x0, t, noise)[prediction]
    np.testing.assert_array_equal(losses(objective, linear, target, x0, x_t, t, noise), 0.0)
    assert np.all(losses(objective, linear, target + 0.01, x0, x_t, t, noise) > 0.0)


@pytest.mark.parametrize("weighting", [min_snr(5.0), p2(0.5, 1.0)])
def test_a_weighting_gives_the_same_loss_for_any_prediction(linear, example, weighting):
    x0, x_t, t, noise = example
    guess = 0.9 * x0
    eps = eps_from_x0(linear, x_t, t, guess)
    outputs = {"x0": guess, "eps": eps, "v": v_from_x0_eps(linear, t, guess, eps)}
    values = [
        losses(Objective(kind, squared_error, weighting), linear, output, x0, x_t, t, noise)
        for kind, output in outputs.items()
    ]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-3)
    np.testing.assert_allclose(values[2], values[0], rtol=1e-3)


def test_min_snr_weights_equal_the_reference(linear, reference):
    for kind, value in reference["linear"]["min_snr_5_weight_t101"].items():
        np.testing.assert_allclose(min_snr(5.0)(linear.snr, kind)[101], value, rtol=1e-9)


def test_uniform_squared_error_is_the_simple_loss_of_the_paper(linear, example, draw):
    x0, x_t, t, noise = example
    output = draw.standard_normal(x0.shape).astype(np.float32)
    expected = ((output - noise) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses(Objective(), linear, output, x0, x_t, t, noise), expected, rtol=1e-6)


def test_huber_is_half_the_square_below_delta_and_linear_above():
    zero, error = jnp.zeros((1, 1, 1, 2)), jnp.array([[[[0.05, 3.0]]]])
    np.testing.assert_allclose(huber(0.1)(error, zero).ravel(), [0.5 * 0.05**2, 0.1 * (3.0 - 0.05)], rtol=1e-6)
    np.testing.assert_allclose(huber(1e3)(error, zero), 0.5 * squared_error(error, zero), rtol=1e-6)


def test_the_bound_trains_only_the_variance(linear, example, draw):
    x0, x_t, t, noise = example
    mean = draw.standard_normal(x0.shape).astype(np.float32)
    hybrid = Objective(learned_variance=True)

    def total(objective, mean, variance):
        output = jnp.concatenate([mean, variance], axis=-1)
        return losses(objective, linear, output, x0, x_t, t, noise).sum()

    variance = jnp.zeros_like(mean)
    gradients = jax.grad(total, argnums=(1, 2))(hybrid, mean, variance)
    simple = jax.grad(lambda m: losses(Objective(), linear, m, x0, x_t, t, noise).sum())(mean)
    np.testing.assert_allclose(gradients[0], simple, rtol=1e-6)
    assert np.all(np.abs(gradients[1]) > 0.0)


def test_the_quarters_divide_the_steps_evenly(linear):
    t = jnp.arange(1, linear.steps + 1)
    assert np.bincount(np.asarray(quarter_of(linear, t))).tolist() == [250] * 4
    assert np.all(np.diff(quarter_of(linear, t)) >= 0)
