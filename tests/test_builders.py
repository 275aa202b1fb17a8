"""The defaults of the samplers, which builders.py chooses."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.builders import build_pairs, build_sampler
from ddpm_jax.config import config_of
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.dpm_solver import dpm_solver
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import step_pairs
from ddpm_jax.sampling.unipc import unipc
from tests.analytic import gaussian_denoiser, two_values_denoiser
from tests.sampling.samplers import MEAN, STD, exact_solution

KEYS = image_keys(0, np.arange(4))


@pytest.mark.parametrize("sampler", ["dpm_solver", "unipc"])
def test_the_default_steps_of_solvers_are_more_exact_than_those_of_ddim(linear, sampler):
    denoiser, x_T = gaussian_denoiser(linear, MEAN, STD), draw_noise(KEYS, 0, (8, 8, 1))
    exact = exact_solution(linear, x_T, 1000, 0)

    def error(name):
        config = config_of({"sample": {"sampler": name, "threshold": "none"}})
        images = build_sampler(config)(denoiser, x_T, KEYS, build_pairs(config)).images
        return np.abs(images - exact).mean()

    assert error(sampler) < 0.6 * error("ddim")


def test_the_default_spacing_of_solvers_has_the_smallest_error(linear):
    """Pixels near -0.5 or 0.5, exactly denoised, against the true solution: builders.py cites these distances."""
    denoiser = two_values_denoiser(linear, 0.5, 0.05)
    x_T = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 1)), jnp.float32)
    true = dpm_solver(denoiser, linear, x_T, KEYS, step_pairs("linspace", 1000, 1000)).images

    def distance(solve, spacing):
        return float(jnp.abs(solve(denoiser, linear, x_T, KEYS, step_pairs(spacing, 1000, 20)).images - true).mean())

    for solve in (dpm_solver, unipc):
        distances = [distance(solve, spacing) for spacing in ("quadratic", "linspace_open", "leading")]
        assert distances[0] < 0.005 and 0.02 < distances[1] < 0.04 and 0.1 < distances[2] < 0.2
    assert 0.015 < distance(ddim, "leading") < 0.03
