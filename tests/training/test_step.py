import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.config.sections import Optimizer
from ddpm_jax.data.dataset import hold_out
from ddpm_jax.training import step as step_module
from ddpm_jax.training.ema import ema_decay, start_ema, update_ema
from ddpm_jax.training.optimizer import build_optimizer, learning_rate
from ddpm_jax.training.state import is_finite
from ddpm_jax.training.validation import build_validation
from tests.training.toy import CONFIG, DISCS, config_with, learner_and_step, run

pytestmark = pytest.mark.xdist_group("step")  # They share compiled steps.
ACCUMULATING = config_with(train={"accumulate": 2})


def leaves_equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_the_learning_rate_warms_up_and_follows_its_curve():
    rate = learning_rate(Optimizer(learning_rate=0.1, warmup=10, schedule="cosine"), steps=110)
    np.testing.assert_allclose([rate(0), rate(4), rate(9)], [0.01, 0.05, 0.1], rtol=1e-6)
    np.testing.assert_allclose([rate(60), rate(110), rate(500)], [0.05, 0.0, 0.0], atol=1e-8)
    constant = learning_rate(Optimizer(learning_rate=0.1), steps=5)
    np.testing.assert_allclose([constant(0), constant(1000)], 0.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_clipping_bounds_the_gradient_and_decay_is_decoupled(name):
    config = Optimizer(name=name, learning_rate=0.1, weight_decay=0.5, clip=1.0)
    optimizer = build_optimizer(config, 10)
    params = {"w": jnp.full(4, 2.0)}
    first, state = optimizer.update({"w": 0.1 * jnp.ones(4)}, optimizer.init(params), params)
    expected = -0.1 - (0.1 * 0.5 * 2.0 if name == "adamw" else 0.0)
    np.testing.assert_allclose(first["w"], expected, rtol=1e-4)
    # Adam divides out the size of a first gradient; of a second one it does not.
    seconds = [optimizer.update({"w": g * jnp.ones(4)}, state, params)[0]["w"] for g in (0.5, 10.0, 1e6)]
    np.testing.assert_allclose(seconds[1:], [seconds[0]] * 2, rtol=1e-4)


def test_the_average_follows_the_new_parameters_and_warms_up():
    config = Optimizer(ema_decay=0.9)
    np.testing.assert_allclose(ema_decay(config, jnp.array(0)), 0.1, rtol=1e-6)
    np.testing.assert_allclose(ema_decay(config, jnp.array(10_000)), 0.9, rtol=1e-6)
    plain = dataclasses.replace(config, ema_warmup=False)
    ema = update_ema(plain, {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, jnp.array(0))
    np.testing.assert_allclose(ema["w"], 0.1, rtol=1e-6)
    params = {"w": jnp.ones(2)}
    assert start_ema(params)["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()


def test_training_lowers_the_loss_and_counts_what_it_saw():
    config = config_with(data={"batch_size": 32}, optimizer={"learning_rate": 3e-3})
    state, early, streaks = run(config, steps=3)
    state, late, _ = run(config, steps=60, state=state)
    assert late["loss"].compute() < 0.7 * early["loss"].compute()
    assert (int(state.step), int(state.skipped), streaks) == (63, 0, [0, 0, 0])
    assert early["loss"].count == 3 * 32
    assert sum(early[f"loss_t_{q}_quarter"].count for q in ("1st", "2nd", "3rd", "4th")) == 3 * 32
    assert not leaves_equal(state.params, state.ema)


def test_a_step_is_a_function_of_state_and_batch():
    first = run(CONFIG)[0]
    assert leaves_equal(first, run(CONFIG)[0])
    assert not leaves_equal(first.params, run(dataclasses.replace(CONFIG, seed=1))[0].params)


def test_the_gradient_of_a_batch_is_the_mean_of_its_microbatches(monkeypatch):
    """With t and noise fixed, two microbatches of four images give the step that eight images give."""
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.full(shape, 30))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.full(shape, 0.5))
    state = learner_and_step(CONFIG)[1]
    # Other seeds, so that no step compiled with real noise is used.
    whole, divided = (run(dataclasses.replace(c, seed=9), 1, state) for c in (CONFIG, ACCUMULATING))
    np.testing.assert_allclose(divided[1]["loss"].compute(), whole[1]["loss"].compute(), rtol=1e-5)
    np.testing.assert_allclose(divided[1]["gradient_norm"].compute(), whole[1]["gradient_norm"].compute(), rtol=1e-4)


def test_a_model_with_every_option_trains():
    options = {"classes": 2, "dropout": 0.1, "remat": True}
    state, metrics, _ = run(config_with(model=options, diffusion={"variance": "learned"}), steps=2)
    assert is_finite(state) and np.isfinite(metrics["loss"].compute())


def test_a_step_that_is_not_finite_changes_only_the_counters(monkeypatch):
    honest = step_module.from_pixels

    def poisoned(pixels):
        images = honest(pixels)
        return jnp.where(pixels.max() == 77, jnp.nan, images)

    monkeypatch.setattr(step_module, "from_pixels", poisoned)

    def change(batch, step):
        return batch._replace(images=jnp.full_like(batch.images, 77)) if step in (2, 3) else batch

    config = dataclasses.replace(CONFIG, seed=10)
    before, _, _ = run(config, steps=2)
    state, metrics, streaks = run(config, steps=3, state=before, change=change)
    assert streaks == [1, 2, 0]
    assert (int(state.step), int(state.skipped), int(state.bad_streak)) == (5, 2, 0)
    assert np.isfinite(metrics["loss"].compute()) and metrics["loss"].count == 8

    skipped, _, _ = run(config, steps=2, state=before, change=change)
    assert leaves_equal((before.params, before.ema, before.opt_state), (skipped.params, skipped.ema, skipped.opt_state))
    assert is_finite(state)
    assert not is_finite(state.replace(ema=jax.tree.map(lambda x: x * jnp.inf, state.ema)))


def test_validation_is_fixed_and_does_not_depend_on_the_batches():
    learner, state, _ = learner_and_step(CONFIG)
    _, held = hold_out(DISCS, 0.3)
    losses = [build_validation(learner, DISCS, held, size)(state.params) for size in (4, 8, 32)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    # A fresh network predicts zero, so the loss is the mean square of v, which is about that of noise and image.
    assert 0.3 < losses[0] < 1.5


def test_the_update_is_that_of_optax_on_the_same_gradient():
    """Adam's first update has size learning_rate in every coordinate that has a gradient."""
    config = config_with(optimizer={"clip": 0.0, "learning_rate": 1e-2})
    before = learner_and_step(config)[1]
    after, _, _ = run(config, 1, before)
    moved = jax.tree.map(lambda a, b: np.abs(a - b), after.params, before.params)
    sizes = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])
    assert np.all(sizes < 1.01e-2)
    np.testing.assert_allclose(np.median(sizes[sizes > 1e-3]), 1e-2, rtol=1e-2)
    expected = optax.incremental_update(after.params, before.ema, 0.9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.ema, expected)
