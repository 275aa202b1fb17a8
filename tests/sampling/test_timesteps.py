import logging
import typing

import numpy as np
import pytest

from ddpm_jax.config.sections import Sample
from ddpm_jax.sampling.timesteps import SPACINGS, _log_repeats, listed_pairs, path, step_pairs

TEN = {
    "leading": [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
    "leading_open": [901, 811, 721, 631, 541, 451, 361, 271, 181, 91],
    "trailing": [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
    "linspace": [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
    "linspace_open": [1000, 900, 800, 700, 600, 501, 401, 301, 201, 101],
    "quadratic": [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10],
    "quadratic_80": [801, 633, 484, 356, 247, 159, 89, 40, 10, 1],
}


def test_the_configuration_names_every_spacing():
    names, _none = typing.get_args(typing.get_type_hints(Sample)["spacing"])
    assert set(typing.get_args(names)) == set(SPACINGS) == set(TEN)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize(("total", "steps"), [(1000, 2), (1000, 10), (1000, 37), (1000, 1000), (8, 5), (50, 50)])
def test_pairs_fall_strictly_within_1_to_T_and_end_at_the_final_step(spacing, final, total, steps):
    pairs = step_pairs(spacing, total, steps, final)
    assert 1 <= len(pairs) <= steps
    assert pairs[0, 0] <= total and pairs[-1, 1] == {"zero": 0, "sigma_min": 1}[final]
    assert np.all(pairs[:, 0] > pairs[:, 1])
    np.testing.assert_array_equal(path(pairs), [*pairs[:, 0], pairs[-1, 1]])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_single_step_starts_where_its_spacing_puts_it(spacing):
    first = {"leading": 1, "leading_open": 501, "quadratic_80": 801}.get(spacing, 1000)
    assert step_pairs(spacing, 1000, 1).tolist() == [[first, 0]]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_all_steps_are_all_steps(spacing):
    np.testing.assert_array_equal(step_pairs(spacing, 20, 20)[:, 0], np.arange(20, 0, -1))


@pytest.mark.parametrize("spacing", TEN)
def test_ten_of_a_thousand(spacing):
    assert step_pairs(spacing, 1000, 10)[:, 0].tolist() == TEN[spacing]


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
