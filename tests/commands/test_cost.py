import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.builders import param_shapes
from ddpm_jax.commands.cost import bytes_of, count_flops, sent_bytes, state_bytes
from ddpm_jax.commands.one_device import OneDevice
from ddpm_jax.network.winograd import winograd_conv
from ddpm_jax.runtime.devices import abstract_mesh
from tests.training.toy import CONFIG, config_with


def test_a_state_is_four_times_its_parameters_and_three_counters():
    state = OneDevice(CONFIG).shapes
    params = bytes_of(param_shapes(CONFIG))
    assert params == 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
    assert bytes_of(state) == pytest.approx(4 * params, abs=100)


def test_replicated_states_take_all_their_bytes_on_each_device_and_fsdp_at_most_as_many():
    state = OneDevice(config_with(model={"channels": 64})).shapes  # FSDP leaves small arrays whole.
    assert state_bytes(state, abstract_mesh(4), "replicated") == bytes_of(state)
    assert bytes_of(state) / 4 <= state_bytes(state, abstract_mesh(4), "fsdp") < bytes_of(state)


def test_one_device_sends_nothing_and_many_send_twice_the_parameters():
    params = {"a": np.zeros((3, 5), np.float32)}
    assert sent_bytes(params, 1) == 0 and sent_bytes(params, 2) == 60
    assert sent_bytes(params, 10**6) == pytest.approx(120, rel=1e-5)


def flops_of(function, *shapes: tuple[int, ...]) -> int:
    """The operations of a function of arrays of these shapes."""
    return count_flops(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)))


def convolve(x, kernel):
    """A convolution of NHWC images, padded to the same size."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_a_product_has_two_operations_for_each_pair_of_numbers():
    assert flops_of(jnp.dot, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops_of(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (4, 3, 5), (4, 7, 5)) == 2 * 4 * 3 * 5 * 7
    assert flops_of(lambda a: a + jnp.sin(a), (3, 5)) == 0


def test_a_convolution_applies_its_kernel_at_each_pixel_forward_and_in_both_gradients():
    shapes, forward = ((2, 6, 10, 3), (3, 3, 3, 8)), 2 * (2 * 6 * 10) * (3 * 3 * 3 * 8)
    assert flops_of(convolve, *shapes) == forward
    assert flops_of(jax.grad(lambda x, kernel: convolve(x, kernel).sum() ** 2, (0, 1)), *shapes) == 3 * forward


def test_winograds_convolutions_count_like_direct_ones_forward_and_in_both_gradients():
    shapes = ((2, 16, 32, 64), (3, 3, 64, 96))
    expected = flops_of(jax.grad(lambda x, kernel: (convolve(x, kernel) ** 2).sum(), (0, 1)), *shapes)
    assert flops_of(jax.grad(lambda x, g: (winograd_conv(4, x, g) ** 2).sum(), (0, 1)), *shapes) == expected


def test_what_is_repeated_counts_each_time_and_of_alternatives_the_largest():
    one = flops_of(jnp.dot, (5, 5), (5, 5))
    assert flops_of(lambda a: jax.lax.scan(lambda x, _: (x @ a, None), a, length=7)[0], (5, 5)) == 7 * one
    assert flops_of(jax.jit(jax.checkpoint(lambda a: a @ a)), (5, 5)) == one
    branches = [lambda a: a, lambda a: a @ a, lambda a: a @ a @ a]
    assert flops_of(lambda a: jax.lax.switch(0 * jnp.int32(a.sum()), branches, a), (5, 5)) == 2 * one
