from collections import defaultdict, deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas
from ddpm_jax.diffusion.time_sampling import (
    REMEMBERED,
    LossHistory,
    draw_steps,
    importance_weights,
    logit_normal,
    no_history,
    probabilities_by_loss,
    remember,
    with_uniform,
)


def full_history(losses):
    """A history in which each t has seen only its own loss."""
    return LossHistory(jnp.tile(losses[:, None], (1, REMEMBERED)), jnp.full(len(losses), REMEMBERED))


def densities(cosine, draw):
    losses = draw.uniform(0.1, 2.0, 1000).astype(np.float32)
    return {
        "logit_normal": jnp.asarray(with_uniform(logit_normal(cosine, 2.4, 2.4)), jnp.float32),
        "loss": probabilities_by_loss(full_history(losses)),
        "no history yet": probabilities_by_loss(no_history(1000)),
    }


def test_weights_undo_any_distribution(cosine, draw):
    """E[loss / (T p)] is the mean over t, and its variance is finite: no t has probability 0."""
    loss, t = draw.uniform(0.0, 3.0, 1000), jnp.arange(1, 1001)
    for name, p in densities(cosine, draw).items():
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5, err_msg=name)
        assert p.min() > 0.9e-6, name
        estimate = np.sum(np.asarray(p, np.float64) * np.asarray(importance_weights(p, t), np.float64) * loss)
        np.testing.assert_allclose(estimate, loss.mean(), rtol=1e-5, err_msg=name)


def test_steps_are_drawn_with_their_probabilities(cosine, draw):
    count = 200_000
    for name, p in densities(cosine, draw).items():
        t = draw_steps(jax.random.key(1), p, count)
        assert t.min() >= 1 and t.max() <= 1000
        found = np.bincount(t, minlength=1001)[1:].reshape(50, 20).sum(1)
        expected = count * np.asarray(p, np.float64).reshape(50, 20).sum(1)
        # 50 bins of Poisson counts: six standard deviations of the chi-squared distribution.
        assert np.sum((found - expected) ** 2 / expected) < 50 + 6 * np.sqrt(2 * 50), name


def test_the_log_snr_is_normal(cosine):
    p = logit_normal(cosine, -0.5, 1.5)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)
    log_snr = cosine.log_snr[1:]
    mean = np.sum(p * log_snr)
    np.testing.assert_allclose(mean, -0.5, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(np.sum(p * (log_snr - mean) ** 2)), 1.5, rtol=1e-3)


def test_a_step_without_signal_has_a_probability():
    schedule = schedule_of_betas(linear_betas(100), zero_terminal_snr=True)
    p = with_uniform(logit_normal(schedule, 0.0, 2.0))
    assert np.isfinite(p).all() and p[-1] > 0.0


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
    np.testing.assert_allclose(probabilities_by_loss(history), 0.2)  # t = 5 has no losses yet.


def test_probabilities_follow_the_root_of_the_mean_square():
    losses = jnp.asarray([1.0, 3.0, 0.5, 0.0])
    p = np.asarray(probabilities_by_loss(full_history(losses)))
    np.testing.assert_allclose(p, with_uniform(np.array([1.0, 3.0, 0.5, 0.0])), rtol=1e-6)
    np.testing.assert_allclose(probabilities_by_loss(full_history(0.0 * losses)), 0.25)


@pytest.mark.parametrize("steps", [2, 1000])
def test_estimates_by_loss_vary_less_than_uniform_ones(draw, steps):
    """For losses that are the same each time, the variance vanishes but for the uniform share."""
    losses = jnp.asarray(draw.uniform(0.01, 2.0, steps), jnp.float32)
    p = probabilities_by_loss(full_history(losses))
    variance = partial(np.var, ddof=1)
    t = draw_steps(jax.random.key(0), p, 10_000)
    estimates = importance_weights(p, t) * losses[t - 1]
    uniform = losses[jax.random.randint(jax.random.key(0), (10_000,), 0, steps)]
    assert variance(estimates) < 1e-3 * variance(uniform)
