from collections import defaultdict, deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.schedule import cosine_betas, linear_betas, schedule_of_betas
from ddpm_jax.diffusion.time_sampling import (
    REMEMBERED,
    UNIFORM_SHARE,
    LossHistory,
    density_by_loss,
    draw_steps,
    importance_weights,
    logit_normal,
    no_history,
    remember,
)


def full_history(losses):
    """A history in which each t has seen only its own loss."""
    return LossHistory(jnp.tile(losses[:, None], (1, REMEMBERED)), jnp.full(len(losses), REMEMBERED))


def densities(cosine, draw):
    losses = draw.uniform(0.1, 2.0, 1000).astype(np.float32)
    return {
        "logit_normal": logit_normal(cosine, 2.4, 2.4),
        "loss": density_by_loss(full_history(losses)),
        "no history yet": density_by_loss(no_history(1000)),
    }


def with_uniform(density):
    return (1.0 - UNIFORM_SHARE) * np.asarray(density, np.float64) + UNIFORM_SHARE / len(density)


def test_weights_undo_any_density(cosine, draw):
    """E[loss / (T p)] is the mean over t, and the weights are bounded: no t has probability 0."""
    loss, t = draw.uniform(0.0, 3.0, 1000), jnp.arange(1, 1001)
    for name, density in densities(cosine, draw).items():
        np.testing.assert_allclose(density.sum(), 1.0, rtol=1e-5, err_msg=name)
        weights = np.asarray(importance_weights(density, t), np.float64)
        np.testing.assert_allclose(np.sum(with_uniform(density) * weights * loss), loss.mean(), rtol=1e-5, err_msg=name)
        assert weights.max() <= 1.001 / UNIFORM_SHARE, name


def test_steps_are_drawn_with_their_probabilities(cosine, draw):
    count = 200_000
    for name, density in densities(cosine, draw).items():
        t = draw_steps(jax.random.key(1), density, count)
        assert t.min() >= 1 and t.max() <= 1000
        found = np.bincount(t, minlength=1001)[1:].reshape(50, 20).sum(1)
        expected = count * with_uniform(density).reshape(50, 20).sum(1)
        # 50 bins of Poisson counts: six standard deviations of the chi-squared distribution.
        assert np.sum((found - expected) ** 2 / expected) < 50 + 6 * np.sqrt(2 * 50), name


@pytest.mark.parametrize("steps", [1000, 4000])
def test_steps_far_from_the_density_are_drawn_at_their_uniform_share(steps):
    """There the weights are largest: t of a share of 1e-3 / T, of which float32 could not tell two sums apart."""
    density = logit_normal(schedule_of_betas(cosine_betas(steps)), 6.0, 0.5)
    rare = np.arange(1, steps + 1) > steps // 2
    assert density[rare].sum() < 1e-12
    count = 500_000
    t = np.asarray(draw_steps(jax.random.key(0), density, count))
    found = np.sum(rare[t - 1])
    expected = count * UNIFORM_SHARE * rare.mean()
    assert abs(found - expected) < 5 * np.sqrt(expected)
    weights = importance_weights(density, jnp.asarray(t))
    weights = np.asarray(weights, np.float64)
    np.testing.assert_allclose(weights.mean(), 1.0, atol=5 * weights.std() / np.sqrt(count))


def test_the_log_snr_is_normal(cosine):
    p = logit_normal(cosine, -0.5, 1.5)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)
    log_snr = cosine.log_snr[1:]
    mean = np.sum(p * log_snr)
    np.testing.assert_allclose(mean, -0.5, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(np.sum(p * (log_snr - mean) ** 2)), 1.5, rtol=1e-3)


def test_a_step_without_signal_has_a_probability():
    schedule = schedule_of_betas(linear_betas(100), zero_terminal_snr=True)
    density = logit_normal(schedule, 0.0, 2.0)
    assert np.isfinite(density).all() and density[-1] > 0.0
    two = logit_normal(schedule_of_betas(linear_betas(2), zero_terminal_snr=True), 0.0, 2.0)
    np.testing.assert_allclose(two.sum(), 1.0)


def test_a_history_holds_the_latest_losses_of_each_step(draw):
    """As lists of limited length would, whatever repeats in a batch."""
    history, expected = no_history(5), defaultdict(lambda: deque(maxlen=REMEMBERED))
    update = jax.jit(remember)
    for size in (1, 7, 64, 64, 3, 30):
        t, loss = draw.integers(1, 5, size), draw.uniform(size=size).astype(np.float32)  # Never 5.
        history = update(history, jnp.asarray(t), jnp.asarray(loss))
        for step, value in zip(t, loss, strict=True):
            expected[step].append(value)
        for step in range(1, 5):
            kept = np.asarray(history.losses)[step - 1][: min(int(history.seen[step - 1]), REMEMBERED)]
            np.testing.assert_array_equal(np.sort(kept), np.sort(expected[step]))
    np.testing.assert_allclose(density_by_loss(history), 0.2)  # t = 5 has no losses yet.


def test_probabilities_follow_the_root_of_the_mean_square():
    losses = jnp.asarray([1.0, 3.0, 0.5, 0.0])
    p = np.asarray(density_by_loss(full_history(losses)))
    np.testing.assert_allclose(p, np.array([1.0, 3.0, 0.5, 0.0]) / 4.5, rtol=1e-6)
    np.testing.assert_allclose(density_by_loss(full_history(0.0 * losses)), 0.25)


@pytest.mark.parametrize("steps", [2, 1000])
def test_estimates_by_loss_vary_less_than_uniform_ones(draw, steps):
    """For losses that are the same each time, the variance vanishes but for the uniform share."""
    losses = jnp.asarray(draw.uniform(0.01, 2.0, steps), jnp.float32)
    p = density_by_loss(full_history(losses))
    variance = partial(np.var, ddof=1)
    t = draw_steps(jax.random.key(0), p, 10_000)
    estimates = importance_weights(p, t) * losses[t - 1]
    uniform = losses[jax.random.randint(jax.random.key(0), (10_000,), 0, steps)]
    assert variance(estimates) < 1e-3 * variance(uniform)
