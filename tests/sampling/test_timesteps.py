import numpy as np
import pytest

from ddpm_jax.sampling.timesteps import SPACINGS, step_pairs


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("total", "steps"), [(1000, 1), (1000, 10), (1000, 37), (1000, 1000), (8, 5), (50, 50)])
def test_pairs_fall_strictly_within_the_steps_and_end_at_the_image(spacing, total, steps):
    pairs = step_pairs(spacing, total, steps)
    assert pairs.shape == (steps, 2)
    assert pairs[0, 0] <= total and pairs[-1, 1] == 0
    assert np.all(pairs[:, 0] > pairs[:, 1])
    np.testing.assert_array_equal(pairs[1:, 0], pairs[:-1, 1])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_are_all_steps(spacing):
    np.testing.assert_array_equal(step_pairs(spacing, 20, 20)[:, 0], np.arange(20, 0, -1))


@pytest.mark.parametrize(
    ("spacing", "visited"),
    [
        ("leading", [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
        ("trailing", [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]),
        ("linspace", [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]),
    ],
)
def test_ten_of_a_thousand(spacing, visited):
    assert step_pairs(spacing, 1000, 10)[:, 0].tolist() == visited


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_that_cannot_be_is_refused(steps):
    with pytest.raises(ValueError, match="expected 1 to 1000"):
        step_pairs("leading", 1000, steps)
