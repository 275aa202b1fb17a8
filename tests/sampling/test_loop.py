"""Laws that hold for every sampler in its loop."""

from functools import partial

import jax
import numpy as np
import pytest

from ddpm_jax.diffusion.schedule import linear_betas, schedule_of_betas
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.loop import FrameSpec, scan_loop
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import step_pairs
from tests.analytic import gaussian_denoiser, point_denoiser
from tests.sampling.samplers import MEAN, SAMPLERS, STD, start


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 20])
def test_an_ideal_denoiser_recovers_a_point_mass(linear, name, steps):
    x_T, keys = start(4, (8, 6, 1))
    pairs = step_pairs("trailing", 1000, steps)
    images = SAMPLERS[name](point_denoiser(linear, 0.3), linear, x_T, keys, pairs).images
    np.testing.assert_allclose(images, 0.3, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_compiled_and_interpreted_agree(linear, name):
    """For Gaussian data, unlike for a point mass, images depend on every coefficient."""
    x_T, keys = start(2, (4, 6, 1))
    call = partial(SAMPLERS[name], gaussian_denoiser(linear, MEAN, STD), linear, pairs=step_pairs("leading", 1000, 5))
    with jax.disable_jit():
        eager = call(x_T, keys).images
    np.testing.assert_allclose(jax.jit(call)(x_T, keys).images, eager, atol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "ddim-eta", "dpm_solver-3", "unipc-2", "consistency", "heun"])
def test_an_image_depends_only_on_its_seed_and_index(linear, name):
    pairs, denoiser = step_pairs("leading", 1000, 10), gaussian_denoiser(linear, MEAN, STD)

    @jax.jit
    def sample(indices):
        keys = image_keys(7, indices)
        x_T = draw_noise(keys, 0, (4, 6, 1))
        return x_T, SAMPLERS[name](denoiser, linear, x_T, keys, pairs).images

    noise, images = sample(np.arange(64))
    for batch in (1, 7):
        for first in (0, 64 - batch):
            batch_noise, batch_images = sample(np.arange(first, first + batch))
            np.testing.assert_array_equal(batch_noise, noise[first : first + batch])
            # One grey level of 256 over [-1, 1].
            np.testing.assert_allclose(batch_images, images[first : first + batch], atol=1 / 127.5)
    assert np.abs(images[0] - images[1]).max() > 0.01


def test_any_number_of_frames_runs_from_noise_to_image(linear):
    x_T, keys = start(3, (4, 6, 1))
    pairs, denoiser = step_pairs("leading", 1000, 10), gaussian_denoiser(linear, MEAN, STD)
    whole = ddim(denoiser, linear, x_T, keys, pairs, loop=scan_loop(FrameSpec(11, 2)))
    assert whole.frames.shape == (11, 2, 4, 6, 1)
    np.testing.assert_array_equal(whole.frames[0], x_T[:2])
    np.testing.assert_array_equal(whole.frames[-1], whole.images[:2])
    for count in (1, 4, 30):
        frames = ddim(denoiser, linear, x_T, keys, pairs, loop=scan_loop(FrameSpec(count, 2))).frames
        shown = np.round(np.linspace(0, 10, count)).astype(int)
        np.testing.assert_allclose(frames, whole.frames[shown], atol=1e-6)
    assert ddim(denoiser, linear, x_T, keys, pairs).frames.shape[0] == 0


@pytest.mark.parametrize("name", ["ddpm", "dpm_solver-3", "unipc-2", "heun"])
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
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "consistency"])  # Exact for other denoisers.
def test_sampling_may_start_from_zero_signal(name, final):
    schedule = schedule_of_betas(linear_betas(1000), zero_terminal_snr=True)
    assert schedule.signal_rate[-1] == 0.0
    x_T, keys = start(64, (8, 6, 1))
    pairs = step_pairs("trailing", 1000, 50, final)
    images = SAMPLERS[name](gaussian_denoiser(schedule, MEAN, STD), schedule, x_T, keys, pairs).images
    np.testing.assert_allclose(images.mean(), MEAN, atol=0.02)
    np.testing.assert_allclose(images.std(), STD, atol=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("total", [50, 4000])
def test_chains_shorter_and_longer_than_usual_recover_a_point_mass(name, total):
    schedule = schedule_of_betas(linear_betas(total))
    x_T, keys = start(2, (4, 6, 1))
    images = SAMPLERS[name](
        point_denoiser(schedule, 0.3), schedule, x_T, keys, step_pairs("trailing", total, 25)
    ).images
    np.testing.assert_allclose(images, 0.3, atol=1e-5)
