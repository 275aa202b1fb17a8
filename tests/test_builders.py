"""The defaults of the samplers, which builders.py chooses."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import builders
from ddpm_jax.builders import SAMPLERS, build_pairs, build_pairs_from_noise, build_sampler
from ddpm_jax.config import checked, config_of
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.dpm_solver import dpm_solver
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import SPACINGS, step_pairs
from ddpm_jax.sampling.unipc import unipc
from tests.analytic import gaussian_denoiser, two_values_denoiser
from tests.sampling.samplers import MEAN, STD, exact_solution, gaussian_chain

KEYS = image_keys(0, np.arange(4))


@pytest.fixture(autouse=True)
def warnings_again():
    """Warnings are given once in a process."""
    builders._warn_of_signal.cache_clear()


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


def settings(total=1000, schedule="cosine", **sample):
    return checked(config_of({"diffusion": {"steps": total, "schedule": schedule}, "sample": sample}))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_default_steps_start_at_T_for_every_T_and_any_number_of_steps(sampler, package_log):
    for total in range(2, 201):
        assert build_pairs_from_noise(settings(total, sampler=sampler))[0, 0] == total
    for steps in (1, 2, 3, 5, 7, 10, 20, 50, 100, 250, 333, 500, 501, 600, 750, 999, 1000):
        assert build_pairs_from_noise(settings(sampler=sampler, steps=steps))[0, 0] == 1000
    assert "signal" not in package_log.text


def test_default_steps_keep_the_mean_that_steps_from_the_middle_lose(linear):
    """The mean of the data is signal, which a first step far from T expects in x_t and pure noise lacks."""

    def error(**options):
        pairs = build_pairs(settings(schedule="linear", sampler="ddim", steps=501, **options))
        return abs(gaussian_chain(linear, pairs, *np.zeros((2, len(pairs))))[0] - MEAN)

    assert error() < 0.001 and error(spacing="leading") > 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": "leading", "steps": 501}, "With sample.spacing='leading' the first step is t = 501 of 1000"),
        ({"spacing": "leading", "steps": 1, "sampler": "ddim"}, "the first step is t = 1 of 1000"),
        ({"spacing": "leading", "total": 60, "sampler": "ddim"}, "t = 50 of 60, whose images hold signal"),
        ({"timesteps": (400, 200, 1)}, "With sample.timesteps the first step is t = 400 of 1000"),
        (
            {"timesteps": (300, 1), "task": "inpaint", "images": "a.png", "mask": "b.png"},
            "the first step is t = 300",
        ),
    ],
)
def test_steps_that_begin_with_signal_in_the_images_are_warned_of_once(options, message, package_log):
    build_pairs_from_noise(settings(**options))
    build_pairs_from_noise(settings(**options))
    (warning,) = package_log.messages
    assert message in warning
    remedy = "start sample.timesteps at 1000." if "timesteps" in options else "use sample.spacing='trailing'."
    assert warning.endswith(remedy)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_published_spacings_need_no_warning(spacing, package_log):
    for steps in (10, 50, 100):
        build_pairs_from_noise(settings(schedule="linear", spacing=spacing, steps=steps))
    assert "signal" not in package_log.text
