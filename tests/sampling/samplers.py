"""The samplers with their options, and exact results for Gaussian data, shared by the tests of the samplers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.denoiser import Prediction, prediction_of_output
from ddpm_jax.diffusion.schedule import Schedule
from ddpm_jax.sampling.consistency import consistency
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.ddpm import ddpm
from ddpm_jax.sampling.dpm_solver import dpm_solver
from ddpm_jax.sampling.heun import heun
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import listed_pairs
from ddpm_jax.sampling.unipc import unipc

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
    "consistency": consistency,
    "unipc-1": partial(unipc, order=1),
    "unipc-2": unipc,
    "heun": heun,
}


def start(count, shape, seed=0):
    """x_T and keys of `count` images."""
    keys = image_keys(seed, np.arange(count))
    return draw_noise(keys, 0, shape), keys


def gaussian_chain(schedule, pairs, variance, added):
    """Mean and standard deviation of x_0 where x_T is standard normal, the data is N(MEAN, STD^2) and exactly denoised.

    Each step is x_s = signal_s x_0 + sqrt(noise_s^2 - variance) eps + sqrt(added) noise, an affine map of x_t.
    """
    mean, total = 0.0, 1.0
    for (t, s), own, noise_added in zip(pairs, variance, added, strict=True):
        signal, noise = schedule.signal_rate[t], schedule.noise_rate[t]
        gain = STD**2 * signal / (signal**2 * STD**2 + noise**2)
        # x_0 = offset + gain x_t and eps = (x_t - signal x_0) / noise.
        offset, weight = MEAN * (1 - gain * signal), np.sqrt(schedule.noise_rate[s] ** 2 - own)
        slope = schedule.signal_rate[s] * gain + weight * (1 - signal * gain) / noise
        mean = slope * mean + schedule.signal_rate[s] * offset - weight * signal * offset / noise
        total = slope**2 * total + noise_added
    return mean, np.sqrt(total)


def assert_normal(images, mean, std):
    """Asserts that independent pixels have these moments, within their sampling error."""
    np.testing.assert_allclose(images.std(), std, rtol=0.01)
    np.testing.assert_allclose(images.mean(), mean, atol=4 * std / np.sqrt(images.size))


def diffusers_test_denoiser(schedule, kind):
    """The network of diffusers' scheduler tests, whose output is x_t n / (n + 1) at n = t - 1, and its x_T."""

    def denoiser(x_t, t):
        factor = ((t - 1).astype(jnp.float32) / t.astype(jnp.float32)).reshape(-1, 1, 1, 1)
        return prediction_of_output(schedule, kind, x_t * factor, x_t, t)

    return denoiser, (np.arange(768).reshape(3, 8, 8, 4) / 768).transpose(3, 1, 2, 0).astype(np.float32)


def even_in_log_snr(steps: int) -> Schedule:
    """A schedule whose t = 1..steps + 1 are evenly spaced in log-SNR, between about the ends of the linear one."""
    log_snr = np.linspace(9.2, -10.1, steps + 1)
    return Schedule(np.insert(1.0 / (1.0 + np.exp(-log_snr)), 0, 1.0))


def exact_denoiser(schedule):
    """E[x_0 | x_t] of N(MEAN, STD^2) in whatever precision x_t has."""

    def denoise(x_t, t):
        signal, noise = (
            jnp.asarray(table)[t].reshape(-1, 1, 1, 1) for table in (schedule.signal_rate, schedule.noise_rate)
        )
        x0 = MEAN + STD**2 * signal / (signal**2 * STD**2 + noise**2) * (x_t - signal * MEAN)
        return Prediction(x0, (x_t - signal * x0) / noise)

    return denoise


def exact_solution(schedule, x_t, t, s):
    """The probability-flow ODE from t to s: it scales the distance to the mean as the deviation of the marginal."""
    deviation = np.sqrt(schedule.alpha_bar * STD**2 + schedule.noise_rate**2)
    return schedule.signal_rate[s] * MEAN + deviation[s] / deviation[t] * (x_t - schedule.signal_rate[t] * MEAN)


def convergence_orders(draw, solver):
    """The order at which the error of a solver falls, for each doubling of the number of steps."""
    with jax.enable_x64(True):
        x_T, errors = jnp.asarray(draw.normal(size=(4, 2, 2, 1))), []
        for steps in (20, 40, 80, 160):
            schedule = even_in_log_snr(steps)
            pairs = listed_pairs(range(steps + 1, 1, -1), steps + 1, "sigma_min")
            images = solver(exact_denoiser(schedule), schedule, x_T, image_keys(0, np.arange(4)), pairs).images
            assert images.dtype == jnp.float64
            errors.append(np.abs(images - exact_solution(schedule, x_T, steps + 1, 1)).max())
    return -np.diff(np.log2(errors))
