import dataclasses

import jax.numpy as jnp
import numpy as np

from ddpm_jax.config.sections import Optimizer
from ddpm_jax.training.ema import ema_decay, start_ema, update_ema


def test_the_ema_follows_the_new_parameters_and_warms_up():
    config = Optimizer(ema_decay=0.9)
    np.testing.assert_allclose(ema_decay(config, jnp.array(0)), 0.1, rtol=1e-6)
    np.testing.assert_allclose(ema_decay(config, jnp.array(10_000)), 0.9, rtol=1e-6)
    plain = dataclasses.replace(config, ema_warmup=False)
    ema = update_ema(plain, {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, jnp.array(0))
    np.testing.assert_allclose(ema["w"], 0.1, rtol=1e-6)
    params = {"w": jnp.ones(2)}
    assert start_ema(params)["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()
