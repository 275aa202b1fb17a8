import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.builders import build_learner, state_shapes
from ddpm_jax.data.augment import PARAMETERS, augment
from ddpm_jax.data.batches import random_batch
from ddpm_jax.diffusion.conditions import draw_dropped, training_input
from ddpm_jax.diffusion.pixels import from_pixels
from ddpm_jax.diffusion.randomness import Purpose
from ddpm_jax.diffusion.time_sampling import REMEMBERED
from ddpm_jax.network.bind import apply_unet
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.training import step as step_module
from ddpm_jax.training.state import is_finite
from ddpm_jax.training.step import (
    METRICS,
    empty_metrics,
    metrics_from_json,
    metrics_to_json,
    step_keys,
    train_step,
    validation_losses,
)
from tests.training.toy import CONFIG, config_with, learner_and_step, loader, run

pytestmark = pytest.mark.xdist_group("step")  # They share compiled steps.
ACCUMULATING = config_with(train={"accumulate": 2})


def leaves_equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_training_lowers_the_loss_and_counts_steps_and_images():
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
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.full(shape, 0.5))
    state = learner_and_step(CONFIG)[1]
    # Other seeds, so that no step compiled with real noise is used.
    whole, divided = (run(dataclasses.replace(c, seed=9), 1, state) for c in (CONFIG, ACCUMULATING))
    np.testing.assert_allclose(divided[1]["loss"].compute(), whole[1]["loss"].compute(), rtol=1e-5)
    np.testing.assert_allclose(divided[1]["gradient_norm"].compute(), whole[1]["gradient_norm"].compute(), rtol=1e-4)


def test_a_model_with_every_option_trains():
    options = {"classes": 2, "dropout": 0.1, "remat": True, "condition": "low_resolution"}
    options |= {"multipliers": (1, 2), "attention_resolutions": (4,), "dtype": "bfloat16"}
    sections = {"degradation": {"noise": 20}, "diffusion": {"variance": "learned"}, "train": {"condition_dropout": 0.1}}
    config = config_with(data={"augment": 0.5}, model=options, **sections)
    before = learner_and_step(config)[1].params["augmentation"]["kernel"]
    # The last layers begin at zero, so that no gradient reaches the embedding in the first two steps.
    state, metrics, _ = run(config, steps=4)
    assert is_finite(state) and np.isfinite(metrics["loss"].compute())
    assert np.abs(state.params["augmentation"]["kernel"] - before).max(axis=1).min() > 0.0


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_step_remembers_the_loss_at_each_t(microbatches):
    config = config_with(diffusion={"steps": 4}, train={"t_sampling": "loss", "accumulate": microbatches})
    state, metrics, _ = run(config, steps=9)
    history = state.loss_history
    assert int(history.seen.sum()) == 9 * 8 and int(history.seen.min()) >= REMEMBERED
    # No t is left out, and the loss that is reported is the unbiased one.
    by_t = np.asarray(history.losses).mean(axis=1)
    np.testing.assert_allclose(metrics["loss"].compute(), by_t.mean(), rtol=0.2)


@pytest.mark.parametrize("unbiased", [True, False])
def test_t_may_follow_the_noise_level(unbiased):
    config = config_with(train={"t_sampling": "logit_normal", "t_mean": 6.0, "t_std": 0.5, "t_unbiased": unbiased})
    _, metrics, _ = run(config, steps=4)
    assert metrics["loss_t_1st_quarter"].count > 30 and metrics["loss"].count == 32
    first = metrics["loss_t_1st_quarter"].compute()
    assert (metrics["loss"].compute() < 0.9 * first) == unbiased


def test_consistency_tuning_trains():
    config = config_with(diffusion={"objective": "consistency", "consistency_stages": 2}, train={"steps": 4})
    state, metrics, streaks = run(config, steps=5)
    assert is_finite(state) and streaks == [0] * 5 and metrics["loss"].compute() > 0.0
    assert not state.loss_history and not leaves_equal(state.params, learner_and_step(config)[1].params)


def test_the_augmentation_of_an_image_depends_on_the_seed_the_step_and_its_index_alone():
    """So it is the same after a resume, in any number of microbatches and on any number of devices."""

    def data(seed, step, shape):
        learner = build_learner(dataclasses.replace(config_with(data={"augment": 0.12}), seed=seed), data_mesh())
        keys = step_keys(learner, Purpose.AUGMENT, step, shape)
        assert keys.shape == shape
        return np.asarray(jax.random.key_data(keys)).reshape(8, -1)

    keys = data(0, 3, (1, 8))
    np.testing.assert_array_equal(data(0, 3, (4, 2)), keys)
    others = np.concatenate([keys, data(0, 4, (1, 8)), data(1, 3, (1, 8))])
    assert len(np.unique(others, axis=0)) == 24


def test_only_a_step_with_augmentation_augments(monkeypatch):
    """And it tells the network, which a step without augmentation and validation do not."""
    traced, seen = [], []

    def recorded(images, keys, p):
        traced.append((images.shape, keys.shape, p))
        return augment(images, keys, p)

    def listened(unet, params, x_t, t, given, *, dropout_keys):
        seen.append(None if given.augmentation is None else given.augmentation.shape)
        return apply_unet(unet, params, x_t, t, given, dropout_keys=dropout_keys)

    monkeypatch.setattr(step_module, "augment", recorded)
    monkeypatch.setattr(step_module, "apply_unet", listened)
    batch = random_batch(CONFIG, 8)
    for p in (0.0, 0.12):
        config = config_with(data={"augment": p})
        learner, state = build_learner(config, data_mesh()), state_shapes(config)
        jax.eval_shape(partial(train_step, learner), state, empty_metrics(), batch)
    held = batch.images[0], batch.labels[0], np.arange(8)
    jax.eval_shape(lambda params, *arrays: validation_losses(learner, params, *arrays, 8), state.params, *held)
    assert traced == [((8, 8, 8, 1), (8,), 0.12)]
    assert seen == [None, (8, PARAMETERS), None]


@pytest.mark.parametrize("condition", ["low_resolution", "mask"])
def test_the_network_sees_the_condition_of_the_clean_image_or_none(monkeypatch, condition):
    """In training some of the conditions are dropped, with their labels; in validation none are."""
    noise = 40 if condition == "low_resolution" else 0
    degradation = {"factor": 2, "noise": noise} if noise else {}
    rates = {"label_dropout": 0.0, "condition_dropout": 0.5}
    config = config_with(model={"condition": condition, "classes": 2}, degradation=degradation, train=rates)
    learner, seen = build_learner(config, data_mesh()), []
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), state_shapes(config).params)

    def recorded(unet, params, x_t, t, given, *, dropout_keys):
        jax.debug.callback(lambda *values: seen.append(values), given.labels, *given.condition)
        return apply_unet(unet, params, x_t, t, given, dropout_keys=dropout_keys)

    monkeypatch.setattr(step_module, "apply_unet", recorded)
    batch = loader(config)(0)
    keys = step_keys(learner, Purpose.CONDITION, 3, (1, 8))[0]
    gradient = jax.jit(lambda step: step_module._accumulated_gradient(learner, params, batch, step, None)[1])
    jax.block_until_ready(gradient(3))
    held = batch.images[0], batch.labels[0], np.arange(8)
    jax.block_until_ready(jax.jit(lambda *arrays: validation_losses(learner, params, *arrays, 8))(*held))
    jax.effects_barrier()
    (labels, image, *steps), (_, validated, *validated_steps) = seen
    expected = training_input(learner.condition, learner.schedule, from_pixels(batch.images[0]), keys)
    drop = np.asarray(draw_dropped(keys, 0.5))
    assert 0 < drop.sum() < 8
    np.testing.assert_array_equal(np.any(labels, axis=1), ~drop)
    np.testing.assert_allclose(image, np.where(drop[:, None, None, None], 0.0, expected.channels), atol=1e-6)
    assert np.abs(validated).max(axis=(1, 2, 3)).min() > 0.1
    if noise:
        np.testing.assert_array_equal(steps[0], expected.step)
        assert 0 <= validated_steps[0].min() < validated_steps[0].max() <= noise


def test_a_non_finite_step_changes_only_the_counters(monkeypatch):
    original = step_module.from_pixels

    def poisoned(pixels):
        return jnp.where(pixels.max() == 77, jnp.nan, original(pixels))

    monkeypatch.setattr(step_module, "from_pixels", poisoned)

    def change(batch, step):
        return batch._replace(images=jnp.full_like(batch.images, 77)) if step in (2, 3) else batch

    config = dataclasses.replace(config_with(train={"t_sampling": "loss"}), seed=10)
    before, _, _ = run(config, steps=2)
    state, metrics, streaks = run(config, steps=3, state=before, change=change)
    assert streaks == [1, 2, 0]
    assert (int(state.step), int(state.skipped), int(state.bad_streak)) == (5, 2, 0)
    assert np.isfinite(metrics["loss"].compute()) and metrics["loss"].count == 8

    skipped, _, _ = run(config, steps=2, state=before, change=change)
    for name in ("params", "ema", "opt_state", "loss_history"):
        assert leaves_equal(getattr(before, name), getattr(skipped, name)), name
    assert is_finite(state)
    assert not is_finite(state.replace(ema=jax.tree.map(lambda x: x * jnp.inf, state.ema)))


def test_the_first_update_of_adam_has_the_size_of_the_learning_rate():
    """In every coordinate that has a gradient; and the EMA follows the new parameters."""
    config = config_with(optimizer={"clip": 0.0, "learning_rate": 1e-2})
    before = learner_and_step(config)[1]
    after, _, _ = run(config, 1, before)
    moved = jax.tree.map(lambda a, b: np.abs(a - b), after.params, before.params)
    sizes = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])
    assert np.all(sizes < 1.01e-2)
    np.testing.assert_allclose(np.median(sizes[sizes > 1e-3]), 1e-2, rtol=1e-2)
    expected = optax.incremental_update(after.params, before.ema, 0.9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.ema, expected)


def test_metrics_survive_json_exactly():
    _, metrics, _ = run(CONFIG, steps=3)
    saved = json.loads(json.dumps(metrics_to_json(metrics)))
    restored = metrics_from_json(saved)
    assert leaves_equal(restored, metrics)
    for name, mean in restored.items():
        assert (mean.total.dtype, mean.count.dtype) == (metrics[name].total.dtype, metrics[name].count.dtype)
    assert leaves_equal(metrics_from_json({}), empty_metrics())


def test_unknown_metrics_of_other_versions_are_ignored():
    saved = {"loss": [3.0, 2], "of_another_version": [1.0, 1]}
    restored = metrics_from_json(saved)
    assert tuple(restored) == METRICS and restored["loss"].compute() == 1.5


def test_the_losses_of_the_quarters_sum_to_the_whole_loss():
    _, metrics, _ = run(CONFIG, steps=3)
    quarters = [metrics[f"loss_t_{quarter}_quarter"] for quarter in ("1st", "2nd", "3rd", "4th")]
    np.testing.assert_allclose(sum(q.total for q in quarters), metrics["loss"].total, rtol=1e-5)
