"""Laws that all samplers share, and the exact distributions that DDPM and DDIM must reach for Gaussian data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.denoiser import prediction_of_output
from ddpm_jax.diffusion.process import posterior
from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas
from ddpm_jax.sampling.ddim import ddim, ddim_coefficients
from ddpm_jax.sampling.ddpm import ddpm
from ddpm_jax.sampling.dpm_solver import dpm_solver
from ddpm_jax.sampling.loop import FrameSpec, scan_loop
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.threshold import clip, constrain
from ddpm_jax.sampling.timesteps import step_pairs
from ddpm_jax.sampling.unipc import unipc
from tests.analytic import gaussian_denoiser, point_denoiser

MEAN, STD = 0.3, 0.25
SAMPLERS = {
    "ddpm": ddpm,
    "ddpm-large": partial(ddpm, variance="fixed_large"),
    "ddpm-learned": partial(ddpm, variance="learned"),
    "ddim": ddim,
    "ddim-eta": partial(ddim, eta=1.0),
    "dpm_solver-1": partial(dpm_solver, order=1),
    "dpm_solver-2": dpm_solver,
    "dpm_solver-3": partial(dpm_solver, order=3),
    "unipc-1": partial(unipc, order=1),
    "unipc-2": unipc,
}


def start(count, shape, seed=0):
    keys = image_keys(seed, np.arange(count))
    return draw_noise(keys, 0, shape), keys


def analytic_chain(schedule, pairs, noise_variance):
    """Mean and standard deviation of x_0 when x_T is standard normal and every step is the affine map it is."""
    mean, variance = 0.0, 1.0
    for (t, s), added in zip(pairs, noise_variance, strict=True):
        signal, noise = schedule.signal_rate[t], schedule.noise_rate[t]
        gain = STD**2 * signal / (signal**2 * STD**2 + noise**2)
        # x_0 = offset + gain x_t and eps = (x_t - signal x_0) / noise; x_s = signal_s x_0 + weight eps + noise.
        offset, weight = MEAN * (1 - gain * signal), np.sqrt(schedule.noise_rate[s] ** 2 - added)
        slope = schedule.signal_rate[s] * gain + weight * (1 - signal * gain) / noise
        mean = slope * mean + schedule.signal_rate[s] * offset - weight * signal * offset / noise
        variance = slope**2 * variance + added
    return mean, np.sqrt(variance)


@pytest.mark.parametrize("steps", [10, 50, 1000])
@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_gaussian_data_come_out_as_the_analytic_chain_says(linear, kind, steps):
    pairs = step_pairs("leading", 1000, steps)
    variance = posterior(linear, *pairs.T).variance
    mean, std = analytic_chain(linear, pairs, variance if kind == "ddpm" else 0.0 * variance)
    x_T, keys = start(16, (64, 64, 1))
    images = SAMPLERS[kind](gaussian_denoiser(linear, MEAN, STD), linear, x_T, keys, pairs).images
    np.testing.assert_allclose(images.std(), std, rtol=0.01)
    np.testing.assert_allclose(images.mean(), mean, atol=4 * std / np.sqrt(images.size))


def test_the_analytic_chain_equals_the_reference(linear, reference):
    expected = reference["gaussian_data_mean_0.3_std_0.25_exact_denoiser"]
    for steps in (10, 50, 1000):
        pairs = step_pairs("leading", 1000, steps)
        std = analytic_chain(linear, pairs, np.zeros(steps))[1]
        np.testing.assert_allclose(std, expected[f"ddim_eta0_S{steps}"], rtol=1e-9)
    pairs = step_pairs("leading", 1000, 1000)
    std = analytic_chain(linear, pairs, posterior(linear, *pairs.T).variance)[1]
    np.testing.assert_allclose(std, expected["ddpm_fixed_small_T1000"], rtol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 20])
def test_an_ideal_denoiser_recovers_a_point_mass(linear, name, steps):
    x_T, keys = start(4, (8, 8, 1))
    pairs = step_pairs("trailing", 1000, steps)
    images = SAMPLERS[name](point_denoiser(linear, 0.3), linear, x_T, keys, pairs).images
    np.testing.assert_allclose(images, 0.3, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_compiled_and_interpreted_agree(linear, name):
    x_T, keys = start(2, (4, 4, 1))
    call = partial(SAMPLERS[name], point_denoiser(linear, 0.3), linear, pairs=step_pairs("leading", 1000, 5))
    with jax.disable_jit():
        eager = call(x_T, keys).images
    np.testing.assert_allclose(jax.jit(call)(x_T, keys).images, eager, atol=1e-6)


@pytest.mark.parametrize("name", ["ddpm", "ddim-eta", "dpm_solver-3", "unipc-2"])
def test_an_image_depends_on_its_seed_and_number_alone(linear, name):
    pairs, denoiser = step_pairs("leading", 1000, 10), gaussian_denoiser(linear, MEAN, STD)

    @jax.jit
    def draw(indices):
        keys = image_keys(7, indices)
        x_T = draw_noise(keys, 0, (4, 4, 1))
        return x_T, SAMPLERS[name](denoiser, linear, x_T, keys, pairs).images

    noise, images = draw(np.arange(64))
    for batch in (1, 7):
        for first in (0, 64 - batch):
            part_noise, part_images = draw(np.arange(first, first + batch))
            np.testing.assert_array_equal(part_noise, noise[first : first + batch])
            # One grey level of 256 over [-1, 1].
            np.testing.assert_allclose(part_images, images[first : first + batch], atol=1 / 127.5)
    assert np.abs(images[0] - images[1]).max() > 0.01


@pytest.mark.parametrize(("kind", "name"), [("eps", "ddim_eta0"), ("v", "ddim_eta0_v_prediction")])
def test_ddim_equals_the_loop_of_diffusers_own_tests(linear, reference, kind, name):
    x = (np.arange(768).reshape(3, 8, 8, 4) / 768).transpose(3, 1, 2, 0).astype(np.float32)

    def denoiser(x_t, t):
        factor = ((t - 1).astype(jnp.float32) / t.astype(jnp.float32)).reshape(-1, 1, 1, 1)
        return prediction_of_output(linear, kind, x_t * factor, x_t, t)

    clipped = constrain(denoiser, linear, clip)
    images = ddim(clipped, linear, x, image_keys(0, np.arange(4)), step_pairs("leading", 1000, 10)).images
    expected = reference["scheduler_loops_of_the_diffusers_test_suite"][name]
    np.testing.assert_allclose(np.abs(images).sum(), expected["sum_abs"], rtol=1e-5)
    np.testing.assert_allclose(np.abs(images).mean(), expected["mean_abs"], rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_ddim_step_equals_the_reference(linear, reference, eta):
    expected = reference["linear"]["ddim_step_501_to_481_x_1_eps_0.5"][str(eta)]
    rows = ddim_coefficients(linear, np.array([[501, 481]]), eta)
    np.testing.assert_allclose(rows.sigma, expected["sigma"], rtol=1e-6)
    np.testing.assert_allclose(rows.x0 * expected["x0"] + rows.eps * 0.5, expected["mean"], rtol=1e-6)


def test_frames_run_from_noise_to_image_whatever_their_number(linear):
    x_T, keys = start(3, (4, 4, 1))
    pairs, denoiser = step_pairs("leading", 1000, 10), gaussian_denoiser(linear, MEAN, STD)
    whole = ddim(denoiser, linear, x_T, keys, pairs, loop=scan_loop(FrameSpec(11, 2)))
    assert whole.frames.shape == (11, 2, 4, 4, 1)
    np.testing.assert_array_equal(whole.frames[0], x_T[:2])
    np.testing.assert_array_equal(whole.frames[-1], whole.images[:2])
    for count in (1, 4, 30):
        frames = ddim(denoiser, linear, x_T, keys, pairs, loop=scan_loop(FrameSpec(count, 2))).frames
        shown = np.round(np.linspace(0, 10, count)).astype(int)
        np.testing.assert_allclose(frames, whole.frames[shown], atol=1e-6)
    assert ddim(denoiser, linear, x_T, keys, pairs).frames.shape[0] == 0


@pytest.mark.parametrize("name", ["ddpm", "dpm_solver-3", "unipc-2"])
def test_memory_does_not_grow_with_the_steps(linear, name):
    x_T, keys = start(2, (16, 16, 1))

    def temporary(steps):
        pairs = step_pairs("leading", 1000, steps)
        denoiser = point_denoiser(linear, 0.1)
        run = jax.jit(lambda x, k: SAMPLERS[name](denoiser, linear, x, k, pairs, loop=scan_loop(FrameSpec(5, 2))))
        return run.lower(x_T, keys).compile().memory_analysis().temp_size_in_bytes

    image = x_T.size * 4
    assert temporary(1000) - temporary(10) < 10 * image + 64 * 1000


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"ddpm-learned"}))
def test_no_signal_at_all_is_a_start_like_any_other(name, final):
    schedule = schedule_of_betas(linear_betas(1000), zero_terminal_snr=True)
    assert schedule.signal_rate[-1] == 0.0
    x_T, keys = start(64, (8, 8, 1))
    pairs = step_pairs("trailing", 1000, 50, final)
    images = SAMPLERS[name](gaussian_denoiser(schedule, MEAN, STD), schedule, x_T, keys, pairs).images
    np.testing.assert_allclose(images.mean(), MEAN, atol=0.02)
    np.testing.assert_allclose(images.std(), STD, atol=0.06)
