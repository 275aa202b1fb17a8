import logging
import typing

import numpy as np
import pytest

from ddpm_jax.config.sections import Sample
from ddpm_jax.diffusion.schedule import cosine_betas, linear_betas, schedule_of_betas
from ddpm_jax.sampling.timesteps import (
    SPACINGS,
    _log_repeats,
    karras,
    karras_sigmas,
    listed_pairs,
    path,
    step_pairs,
)

TEN = {
    "leading": [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
    "leading_open": [901, 811, 721, 631, 541, 451, 361, 271, 181, 91],
    "trailing": [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
    "linspace": [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
    "linspace_open": [1000, 900, 800, 700, 600, 501, 401, 301, 201, 101],
    "quadratic": [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10],
    "quadratic_80": [801, 633, 484, 356, 247, 159, 89, 40, 10, 1],
    "karras": [1000, 931, 857, 768, 655, 502, 293, 99, 19, 1],
}


def linear_sigma(total):
    return schedule_of_betas(linear_betas(total)).sigma


def test_the_configuration_names_every_spacing():
    names, _none = typing.get_args(typing.get_type_hints(Sample)["spacing"])
    assert set(typing.get_args(names)) == set(SPACINGS) == set(TEN)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize(("total", "steps"), [(1000, 2), (1000, 10), (1000, 37), (1000, 1000), (8, 5), (50, 50)])
def test_pairs_fall_strictly_within_1_to_T_and_end_at_the_final_step(spacing, final, total, steps):
    pairs = step_pairs(spacing, total, steps, final, linear_sigma(total))
    assert 1 <= len(pairs) <= steps
    assert pairs[0, 0] <= total and pairs[-1, 1] == {"zero": 0, "sigma_min": 1}[final]
    assert np.all(pairs[:, 0] > pairs[:, 1])
    np.testing.assert_array_equal(path(pairs), [*pairs[:, 0], pairs[-1, 1]])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_single_step_starts_where_its_spacing_puts_it(spacing):
    first = {"leading": 1, "leading_open": 501, "quadratic_80": 801}.get(spacing, 1000)
    assert step_pairs(spacing, 1000, 1, sigma=linear_sigma(1000)).tolist() == [[first, 0]]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_all_steps_are_all_steps(spacing):
    np.testing.assert_array_equal(step_pairs(spacing, 20, 20)[:, 0], np.arange(20, 0, -1))


@pytest.mark.parametrize("spacing", TEN)
def test_ten_of_a_thousand(spacing):
    assert step_pairs(spacing, 1000, 10, sigma=linear_sigma(1000))[:, 0].tolist() == TEN[spacing]


def test_karras_sigmas_are_those_of_the_paper():
    """sigma_max = 80, sigma_min = 0.002, rho = 7 and 18 steps, as EDM samples CIFAR-10."""
    levels = karras_sigmas(80.0, 0.002, 18)
    published = [80.0, 57.586, 40.7856, 28.3746, 19.3526, 12.9099, 8.4009, 5.3151, 3.2569]
    np.testing.assert_allclose(levels[:9], published, rtol=1e-4)
    np.testing.assert_allclose(levels[-1], 0.002)
    np.testing.assert_allclose(np.diff(levels ** (1 / 7), 2), 0.0, atol=1e-12)
    assert np.all(levels[:-1] / levels[1:] < 4.0)
    assert karras_sigmas(80.0, 0.002, 1).tolist() == [pytest.approx(80.0)]


@pytest.mark.parametrize("betas", [linear_betas(1000), cosine_betas(1000), linear_betas(1000, beta_end=0.016)])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_karras_visits_the_steps_nearest_to_its_noise_levels_from_T_to_1(betas, zero_terminal_snr):
    sigma = schedule_of_betas(betas, zero_terminal_snr=zero_terminal_snr).sigma
    visited = karras(sigma, 18)
    assert visited[0] == 1 and visited[-1] == 1000 and np.all(np.diff(visited) >= 0)
    # T itself, above 80, is not one of the levels, but sampling starts there.
    levels = karras_sigmas(80.0, sigma[1], 17) if sigma[-1] > 80.0 else karras_sigmas(sigma[-1], sigma[1], 18)
    distances = np.abs(np.log(sigma[1:]) - np.log(levels)[:, None])
    nearest = distances[np.arange(len(levels)), visited[: len(levels)][::-1] - 1]
    np.testing.assert_array_equal(nearest, distances.min(axis=1))
    assert (sigma[-1] > 80.0) == (len(levels) == 17)


@pytest.mark.parametrize("sigma", [None, linear_sigma(999)])
def test_karras_needs_the_noise_levels_of_the_schedule(sigma):
    with pytest.raises(ValueError, match="Spacing 'karras' needs sigma, the 1001 noise levels"):
        step_pairs("karras", 1000, 10, sigma=sigma)


def test_sigma_min_leaves_no_empty_step():
    assert step_pairs("leading", 1000, 10, "sigma_min").tolist()[-1] == [101, 1]
    assert step_pairs("trailing", 1000, 10, "sigma_min").tolist()[-1] == [100, 1]
    assert listed_pairs([7, 3, 1], 10, "sigma_min").tolist() == [[7, 3], [3, 1]]
    with pytest.raises(ValueError, match="The only step is t = 1"):
        listed_pairs([1], 10, "sigma_min")


def test_repeated_steps_are_visited_once_and_the_log_file_counts_them(package_log):
    package_log.set_level(logging.DEBUG, "ddpm_jax")
    _log_repeats.cache_clear()  # Another test may have asked for the same steps.
    assert len(step_pairs("quadratic", 1000, 50)) == 49
    assert package_log.messages == ["Spacing 'quadratic' rounds 50 steps of 1000 to 49 different ones"]
    package_log.clear()
    step_pairs("quadratic", 1000, 10)
    assert not package_log.messages


def test_listed_steps_are_taken_as_they_are():
    assert listed_pairs([999, 500, 2], 1000).tolist() == [[999, 500], [500, 2], [2, 0]]


@pytest.mark.parametrize("listed", [[], [3, 3, 1], [1, 2], [1001, 5], [5, 0], [5, -1]])
def test_lists_that_do_not_fall_within_1_to_T_are_refused(listed):
    with pytest.raises(ValueError, match="expected falling whole numbers from 1000 to 1"):
        listed_pairs(listed, 1000)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match="expected 1 to 1000"):
        step_pairs("leading", 1000, steps)
