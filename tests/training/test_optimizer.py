import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config.sections import Optimizer
from ddpm_jax.training.optimizer import build_optimizer, learning_rate


def test_the_learning_rate_warms_up_and_follows_its_schedule():
    rate = learning_rate(Optimizer(learning_rate=0.1, warmup=10, schedule="cosine"), steps=110)
    np.testing.assert_allclose([rate(0), rate(4), rate(9)], [0.01, 0.05, 0.1], rtol=1e-6)
    np.testing.assert_allclose([rate(60), rate(110), rate(500)], [0.05, 0.0, 0.0], atol=1e-8)
    constant = learning_rate(Optimizer(learning_rate=0.1), steps=5)
    np.testing.assert_allclose([constant(0), constant(1000)], 0.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_clipping_bounds_the_gradient_and_decay_is_decoupled(name):
    config = Optimizer(name=name, learning_rate=0.1, weight_decay=0.5, clip=1.0)
    optimizer = build_optimizer(config, 10)
    params = {"w": jnp.full(4, 2.0)}
    first, state = optimizer.update({"w": 0.1 * jnp.ones(4)}, optimizer.init(params), params)
    expected = -0.1 - (0.1 * 0.5 * 2.0 if name == "adamw" else 0.0)
    np.testing.assert_allclose(first["w"], expected, rtol=1e-4)
    # Adam normalises the size of the first gradient, but not of the second.
    seconds = [optimizer.update({"w": g * jnp.ones(4)}, state, params)[0]["w"] for g in (0.5, 10.0, 1e6)]
    np.testing.assert_allclose(seconds[1:], [seconds[0]] * 2, rtol=1e-4)
