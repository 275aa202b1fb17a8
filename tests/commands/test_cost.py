import math

import jax
import numpy as np
import pytest

from ddpm_jax.builders import param_shapes
from ddpm_jax.commands.cost import bytes_of, sent_bytes, state_bytes
from ddpm_jax.commands.plan import OneDevice
from ddpm_jax.runtime.devices import abstract_mesh
from tests.training.toy import CONFIG


def test_a_state_is_four_times_its_parameters_and_three_counters():
    state = OneDevice(CONFIG).shapes
    params = bytes_of(param_shapes(CONFIG))
    assert params == 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
    assert bytes_of(state) == pytest.approx(4 * params, abs=100)


def test_replicated_states_take_all_their_bytes_on_each_device_and_fsdp_at_most_as_many():
    state = OneDevice(CONFIG).shapes
    assert state_bytes(state, abstract_mesh(4), "replicated") == bytes_of(state)
    assert bytes_of(state) / 4 <= state_bytes(state, abstract_mesh(4), "fsdp") < bytes_of(state)


def test_one_device_sends_nothing_and_many_send_twice_the_parameters():
    params = {"a": np.zeros((3, 5), np.float32)}
    assert sent_bytes(params, 1) == 0 and sent_bytes(params, 2) == 60
    assert sent_bytes(params, 10**6) == pytest.approx(120, rel=1e-5)
