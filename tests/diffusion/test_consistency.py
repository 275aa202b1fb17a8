import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.consistency import Consistency, consistency_losses, earlier_steps, stage_of
from ddpm_jax.diffusion.process import eps_from_x0, q_sample, v_from_x0_eps
from ddpm_jax.diffusion.schedule import Schedule, cosine_betas, linear_betas, schedule_of_betas

STAGES = 8
SCHEDULES = {
    "linear": schedule_of_betas(linear_betas(1000)),
    "cosine": schedule_of_betas(cosine_betas(1000)),
    "no signal at T": schedule_of_betas(linear_betas(1000), zero_terminal_snr=True),
    "two steps": schedule_of_betas(linear_betas(2)),
    "fine": Schedule(1.0 / (1.0 + np.insert(np.geomspace(1e-3, 1e2, 20_000), 0, 0.0) ** 2)),
}


def settings(schedule, prediction="x0", stages=STAGES, total_steps=800) -> Consistency:
    return Consistency(prediction, earlier_steps(schedule, stages), total_steps)


def network_of(schedule, prediction, clean):
    """A network whose predicted x_0 is clean(x_t, t)."""

    def network(x_t, t):
        x0 = clean(x_t, t)
        eps = eps_from_x0(schedule, x_t, t, x0)
        return {"x0": x0, "eps": eps, "v": v_from_x0_eps(schedule, t, x0, eps)}[prediction]

    return network


@pytest.fixture
def example(draw):
    x0 = draw.uniform(-1, 1, (6, 4, 6, 1)).astype(np.float32)
    return x0, jnp.array([1, 2, 60, 250, 500, 800]), draw.standard_normal(x0.shape).astype(np.float32)


@pytest.mark.parametrize("name", SCHEDULES)
def test_pairs_draw_together_until_they_are_neighbours(name):
    pairs = earlier_steps(SCHEDULES[name], 16)
    t = np.arange(SCHEDULES[name].steps + 1)
    assert pairs.shape == (16, len(t)) and (pairs >= 0).all()
    assert (pairs[:, 0] == 0).all() and (pairs[:, 1:] < t[1:]).all()
    assert (np.diff(pairs, axis=0) >= 0).all()
    assert (pairs[0, 1] == 0) and (pairs[-1, 1:] >= np.minimum(t - 1, t * 0.99)[1:] - 1).all()


def test_pairs_follow_the_published_ratio():
    """To the nearest of many steps: sigma_s / sigma_t = 1 - (1 + 8 / (1 + e^sigma_t)) / 2^stage."""
    schedule = SCHEDULES["fine"]
    sigma = schedule.sigma
    pairs, t = earlier_steps(schedule, STAGES), np.arange(5_000, 20_001, 500)
    for stage in range(1, STAGES + 1):
        expected = np.maximum(1 - (1 + 8 / (1 + np.exp(sigma[t]))) / 2**stage, 0)
        found = sigma[pairs[stage - 1, t]] / sigma[t]
        # Steps are 6e-4 apart in log(sigma); ratios near 0 fall between the lowest step and t = 0.
        clear = (expected == 0) | (expected * sigma[t] > 2e-3)
        np.testing.assert_allclose(found[clear], expected[clear], rtol=5e-4)
        assert clear.mean() > 0.8


def test_stages_divide_the_training_evenly():
    consistency = settings(SCHEDULES["linear"])
    for step in (0, 1, 99, 100, 101, 399, 400, 699, 700, 799, 800, 999):
        assert stage_of(consistency, step) == min(step // 100, 7)
    # Products of these would exceed int32.
    long = dataclasses.replace(consistency, total_steps=2_000_000_000)
    assert int(stage_of(long, 1_900_000_000)) == 7


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("step", [0, 400, 799])
def test_only_a_consistent_model_has_no_loss(linear, example, prediction, step):
    """If all data is one image, the map to that image is consistent; a map to another is not, where s = 0."""
    _, t, noise = example
    x0 = np.full((6, 4, 6, 1), 0.3, np.float32)
    consistency = settings(linear, prediction)
    losses = {}
    for value in (0.3, 0.5):
        network = network_of(linear, prediction, partial(lambda value, x, t: jnp.full_like(x, value), value))
        losses[value] = consistency_losses(consistency, linear, network, x0, t, noise, step)
    np.testing.assert_allclose(losses[0.3], 0.0, atol=2e-3)
    at_clean = consistency.earlier[int(stage_of(consistency, step)), np.asarray(t)] == 0
    assert at_clean[0] and (np.asarray(losses[0.5])[at_clean] > 0.01).all()


def test_the_first_stage_compares_with_the_clean_image(linear, example):
    """With sigma_s = 0 the loss is that of denoising with prediction x0."""
    x0, t, noise = example
    clean = lambda x, t: 0.5 * x  # noqa: E731
    consistency = dataclasses.replace(settings(linear), earlier=np.zeros((1, 1001), int))
    found = consistency_losses(consistency, linear, network_of(linear, "x0", clean), x0, t, noise, 0)
    errors = jnp.mean((0.5 * q_sample(linear, x0, t, noise) - x0) ** 2, axis=(1, 2, 3))
    c = consistency.huber
    weight = found / (jnp.sqrt(errors + c * c) - c)
    assert (np.diff(weight) <= 1e-3).all()  # Noisier steps never weigh more.


def test_the_target_is_fixed(linear, example):
    """The gradient is that of the error at t alone: it does not pass through the prediction at s."""
    x0, t, noise = example
    consistency = settings(linear)

    def total(scale, frozen):
        def clean(x, steps):
            # t is the first evaluation's steps only where they are the largest.
            return jnp.where((steps == t).reshape(-1, 1, 1, 1), scale, frozen) * x

        return jnp.sum(consistency_losses(consistency, linear, network_of(linear, "x0", clean), x0, t, noise, 799))

    by_scale, by_frozen = jax.grad(total, argnums=(0, 1))(0.5, 0.5)
    assert abs(by_scale) > 0.1 and by_frozen == 0.0


def test_a_learned_variance_does_not_matter(linear, example, draw):
    x0, t, noise = example
    variance = draw.standard_normal(x0.shape).astype(np.float32)
    plain = network_of(linear, "v", lambda x, t: 0.5 * x)
    both = lambda x, t: jnp.concatenate([plain(x, t), jnp.asarray(variance)], axis=-1)  # noqa: E731
    found = [consistency_losses(settings(linear, "v"), linear, network, x0, t, noise, 700) for network in (plain, both)]
    np.testing.assert_array_equal(*found)
