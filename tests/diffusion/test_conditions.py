import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.diffusion.conditions import (
    condition_input,
    draw_dropped,
    dropped,
    grey_levels,
    low_resolution,
    masked,
    training_input,
)
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.sampling.noise import image_keys

SHAPE = (8, 12, 3)
KINDS = {
    "low_resolution": low_resolution(*SHAPE[:2], 4, "bicubic"),
    "low_resolution-noised": low_resolution(*SHAPE[:2], 2, "box", noise=300),
    "grey": grey_levels(),
    "mask": masked(),
}
NOISED = KINDS["low_resolution-noised"]
KEYS = image_keys(0, np.arange(64))


@pytest.fixture
def images(draw):
    return from_pixels(draw.integers(0, 256, (64, *SHAPE), np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_read_from_a_file_is_that_of_its_original(images, kind):
    made = KINDS[kind].degrade(images, KEYS)
    np.testing.assert_array_equal(from_pixels(to_pixels(made)), made)


@pytest.mark.parametrize("kind", KINDS)
def test_the_condition_of_an_image_depends_on_the_image_and_its_key_alone(linear, images, kind):
    """So it is the same in any batch, in any number of microbatches and on any number of devices."""
    whole = training_input(KINDS[kind], linear, images, KEYS)
    part = training_input(KINDS[kind], linear, images[10:13], KEYS[10:13])
    for ours, one in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(ours[10:13], one, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_condition_looks_like_the_null_condition(linear, kind):
    """Not even that of an image of one grey level, which may have any level."""
    levels = jnp.arange(256, dtype=jnp.uint8)
    flat = from_pixels(jnp.broadcast_to(jnp.expand_dims(levels, (1, 2, 3)), (256, *SHAPE)))
    condition = KINDS[kind]
    keys = image_keys(1, np.arange(256))
    given = condition_input(condition, linear, condition.degrade(flat, keys), keys)
    assert np.abs(given.channels).max(axis=(1, 2, 3)).min() > 1 / 256
    drop = jnp.arange(256) % 2 == 0
    np.testing.assert_array_equal(dropped(given, drop).channels, np.where(drop[:, None, None, None], 0, given.channels))


def test_the_network_sees_nothing_of_what_a_mask_paints(linear, images):
    condition = KINDS["mask"]
    made = condition.degrade(images, KEYS)
    painted = made[..., -1:] > 0
    changed = made.at[..., :-1].set(jnp.where(painted, -0.3, made[..., :-1]))
    seen, seen_changed = (condition_input(condition, linear, c, KEYS).channels for c in (made, changed))
    np.testing.assert_array_equal(seen, seen_changed)
    np.testing.assert_array_equal(jnp.where(painted, 0.0, images), seen[..., :-1])


def test_training_conditions_are_noised_to_every_step_and_given_ones_only_when_asked(linear, images):
    made = NOISED.degrade(images, KEYS)
    trained = training_input(NOISED, linear, images, KEYS)
    assert 0 <= trained.step.min() < 60 and 240 < trained.step.max() <= 300
    clean, noised = (condition_input(NOISED, linear, made, KEYS, step) for step in (0, trained.step))
    np.testing.assert_array_equal(clean.channels, NOISED.network_input(made))
    np.testing.assert_allclose(noised.channels, trained.channels, atol=1e-6)
    assert condition_input(KINDS["grey"], linear, KINDS["grey"].degrade(images, KEYS), KEYS).step is None


def test_noised_conditions_have_the_moments_of_the_forward_process(linear):
    """The network sees them enlarged: weighted sums of pixels, whose variances add up with the squared weights."""
    keys = image_keys(0, np.arange(1000))
    seen, *_ = condition_input(NOISED, linear, jnp.full((1000, 4, 6, 3), 0.5), keys, 300)
    height, width = (bicubic_weights(old) for old in (4, 6))
    variance = linear.noise_rate[300] ** 2 * np.outer((height**2).sum(axis=1), (width**2).sum(axis=1))
    # 3,000 values at each place: five standard errors of their mean and variance.
    error = 5 / np.sqrt(3000)
    np.testing.assert_allclose(seen.mean(axis=(0, 3)), 0.5 * linear.signal_rate[300], atol=error)
    np.testing.assert_allclose(seen.var(axis=(0, 3)), variance, rtol=error * np.sqrt(2))


def bicubic_weights(old: int) -> np.ndarray:
    """Weights [new, old] with which Pillow enlarges a line of `old` pixels twice."""
    lines = [
        Image.fromarray(line[None]).resize((2 * old, 1), Image.Resampling.BICUBIC)
        for line in np.eye(old, dtype=np.float32)
    ]
    return np.stack([np.asarray(line)[0] for line in lines], axis=1)


def test_the_given_fraction_of_conditions_is_dropped():
    keys = image_keys(3, np.arange(4000))
    assert not draw_dropped(keys, 0.0).any()
    np.testing.assert_allclose(draw_dropped(keys, 0.2).mean(), 0.2, atol=4 * np.sqrt(0.2 * 0.8 / 4000))
