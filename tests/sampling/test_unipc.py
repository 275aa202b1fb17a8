from functools import partial

import numpy as np
import pytest

from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import step_pairs
from ddpm_jax.sampling.unipc import corrected_integral, corrector_weights, unipc
from tests.analytic import gaussian_denoiser
from tests.sampling.samplers import MEAN, STD, convergence_orders

KEYS = image_keys(0, np.arange(4))


@pytest.mark.parametrize(
    ("options", "lowest", "highest"),
    [({"order": 1}, 1.9, 2.1), ({"order": 2}, 2.85, 3.2), ({"lower_order_final": "never"}, 2.85, 3.1)],
)
def test_the_corrector_raises_the_order_by_one(draw, options, lowest, highest):
    orders = convergence_orders(draw, partial(unipc, **options))
    assert np.all(orders[1:] >= lowest) and np.all(orders[1:] <= highest), orders


@pytest.mark.parametrize("order", [1, 2])
def test_weights_of_an_infinite_step_are_the_limits_of_long_steps(order):
    signal = np.array([0.0, 0.2, 0.5, 0.8, 1.0])
    noise = np.sqrt(1.0 - signal**2)
    exact = corrector_weights(signal, noise, order, "always")
    long = corrector_weights(np.clip(signal, 1e-300, 1.0), np.clip(noise, 1e-300, 1.0), order, "always")
    assert all(np.isfinite(part).all() for part in exact)
    np.testing.assert_allclose(exact.x0, long.x0, atol=0.01)
    np.testing.assert_allclose(corrected_integral(2, 0.7, np.inf), corrected_integral(2, 0.7, 1e12), atol=1e-9)


def test_an_unknown_order_and_pairs_with_a_gap_are_refused(linear):
    x_T, denoiser = draw_noise(KEYS, 0, (4, 4, 1)), gaussian_denoiser(linear, MEAN, STD)
    with pytest.raises(ValueError, match="order is 3; expected 1 or 2"):
        unipc(denoiser, linear, x_T, KEYS, step_pairs("leading", 1000, 5), order=3)
    with pytest.raises(ValueError, match="must start where the one before it ended"):
        unipc(denoiser, linear, x_T, KEYS, np.array([[900, 500], [400, 0]]))
