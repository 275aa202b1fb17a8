"""Inversion, interpolation, inpainting and variations, against exact denoisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.editing import inpaint, invert, noised, resampled, slerp
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import step_pairs
from tests.analytic import gaussian_denoiser, point_denoiser

MEAN, STD = 0.3, 0.25
SHAPE = (8, 8, 1)


@pytest.fixture
def keys():
    return image_keys(0, np.arange(6))


def test_ddim_undoes_inversion_with_an_error_that_falls_with_the_steps(linear, keys):
    denoiser = gaussian_denoiser(linear, MEAN, STD)
    x0 = MEAN + STD * draw_noise(keys, 5, SHAPE)
    errors = []
    for steps in (10, 40, 160):
        pairs = step_pairs("trailing", 1000, steps)
        x_T = invert(denoiser, linear, x0, pairs).images
        errors.append(np.abs(ddim(denoiser, linear, x_T, keys, pairs).images - x0).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.1


def test_inverted_gaussian_images_are_standard_noise(linear):
    keys = image_keys(0, np.arange(64))
    x0 = MEAN + STD * draw_noise(keys, 5, (16, 16, 1))
    x_T = invert(gaussian_denoiser(linear, MEAN, STD), linear, x0, step_pairs("trailing", 1000, 200)).images
    np.testing.assert_allclose([x_T.mean(), x_T.std()], [0.0, 1.0], atol=0.03)


def test_slerp_goes_from_a_to_b_and_keeps_the_length_of_noise(keys):
    a, b = draw_noise(keys, 1, SHAPE), draw_noise(keys, 2, SHAPE)
    np.testing.assert_allclose(slerp(a, b, jnp.zeros(6)), a, atol=1e-6)
    np.testing.assert_allclose(slerp(a, b, jnp.ones(6)), b, atol=1e-6)
    unit = a / jnp.sqrt(jnp.sum(a**2, (1, 2, 3), keepdims=True)), b / jnp.sqrt(jnp.sum(b**2, (1, 2, 3), keepdims=True))
    for weight in (0.25, 0.5, 0.9):
        between = slerp(*unit, jnp.full(6, weight))
        np.testing.assert_allclose(jnp.sum(between**2, (1, 2, 3)), 1.0, rtol=1e-5)
        swapped = slerp(unit[1], unit[0], jnp.full(6, 1.0 - weight))
        np.testing.assert_allclose(between, swapped, atol=1e-5)
    np.testing.assert_allclose(slerp(a, a, jnp.full(6, 0.3)), a, atol=1e-6)


def test_from_and_to_a_zero_vector_slerp_is_a_straight_line(keys):
    noise, zero, weight = draw_noise(keys, 1, SHAPE), jnp.zeros((6, *SHAPE)), jnp.linspace(0.0, 1.0, 6)
    expected = np.linspace(0.0, 1.0, 6).reshape(6, 1, 1, 1) * noise
    np.testing.assert_allclose(slerp(zero, noise, weight), expected, atol=1e-6)
    np.testing.assert_allclose(slerp(noise, zero, 1.0 - weight), expected, atol=1e-6)
    np.testing.assert_array_equal(slerp(zero, zero, weight), zero)


def test_noised_images_have_the_marginals_of_the_forward_process(linear):
    keys = image_keys(0, np.arange(200))
    x0 = jnp.full((200, *SHAPE), 0.5)
    x_t = noised(linear, x0, 400, keys)
    np.testing.assert_allclose(x_t.mean(), 0.5 * linear.signal_rate[400], atol=0.03)
    np.testing.assert_allclose(x_t.std(), linear.noise_rate[400], rtol=0.02)


def test_resampling_repeats_each_block_and_each_step_starts_where_the_last_one_ended():
    pairs = step_pairs("leading", 100, 7)
    taken, back = resampled(pairs, jump=3, resamples=2)
    assert taken[:, 0].tolist() == [85, 71, 57, 85, 71, 57, 43, 29, 15, 43, 29, 15, 1, 1]
    assert back.tolist() == [71, 57, 85, 71, 57, 43, 29, 15, 43, 29, 15, 1, 1, 0]
    np.testing.assert_array_equal(back[:-1], taken[1:, 0])
    plain, down = resampled(pairs, jump=10, resamples=1)
    np.testing.assert_array_equal(plain, pairs)
    np.testing.assert_array_equal(down, pairs[:, 1])


@pytest.mark.parametrize("channels", [1, 3])
def test_inpainting_keeps_known_pixels_bit_for_bit(linear, keys, channels):
    known = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, channels)).astype(np.float32))
    mask = jnp.zeros((6, 8, 8, 1)).at[:, 2:5, 3:7].set(1.0)
    x_T = draw_noise(keys, 0, (8, 8, channels))
    pairs = step_pairs("leading", 1000, 10)
    painted = inpaint(point_denoiser(linear, 0.1), linear, x_T, keys, pairs, known, mask, resamples=2).images
    inside = np.broadcast_to(np.asarray(mask) > 0.5, known.shape)
    np.testing.assert_array_equal(np.asarray(painted)[~inside], np.asarray(known)[~inside])
    np.testing.assert_allclose(np.asarray(painted)[inside], 0.1, atol=1e-5)


def test_inpainted_pixels_follow_the_known_ones(linear):
    """Each image has one grey level, N(0.3, 0.25^2): a known pixel fixes the others, and resampling improves that."""
    keys = image_keys(0, np.arange(256))
    signal, noise = (jnp.asarray(table, jnp.float32) for table in (linear.signal_rate, linear.noise_rate))
    known = jnp.broadcast_to((MEAN + STD * jax.random.normal(jax.random.key(3), (256, 1, 1, 1))), (256, 2, 1, 1))
    mask = jnp.asarray([0.0, 1.0]).reshape(1, 2, 1, 1)

    def denoiser(x_t, t):

        a, n = signal[t].reshape(-1, 1, 1, 1), noise[t].reshape(-1, 1, 1, 1)
        total = jnp.sum(x_t, axis=(1, 2, 3), keepdims=True)
        gain = STD**2 * a / (2 * a**2 * STD**2 + n**2)
        grey = MEAN + gain * (total - 2 * a * MEAN)
        x0 = jnp.broadcast_to(grey, x_t.shape)
        return Prediction(x0, (x_t - a * x0) / n)

    x_T = draw_noise(keys, 0, (2, 1, 1))
    pairs, masks = step_pairs("leading", 1000, 50), jnp.broadcast_to(mask, known.shape)
    errors = {}
    for resamples in (1, 5):
        images = inpaint(denoiser, linear, x_T, keys, pairs, known, masks, jump=1, resamples=resamples).images
        errors[resamples] = float(jnp.sqrt(jnp.mean((images[:, 1] - images[:, 0]) ** 2)))
    assert errors[5] < 0.3 * errors[1] and errors[5] < 0.02
