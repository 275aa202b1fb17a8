import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config.sections import Optimizer
from ddpm_jax.training.optimizer import build_optimizer
from ddpm_jax.training.state import first_state, is_finite

PARAMS = {"a": jnp.arange(3.0), "b": {"w": jnp.ones((2, 2))}}


def state(**options):
    return first_state(PARAMS, build_optimizer(Optimizer(), 10), **options)


def test_the_counters_start_at_zero_and_the_ema_at_the_parameters():
    first = state()
    assert (int(first.step), int(first.skipped), int(first.bad_streak)) == (0, 0, 0)
    jax.tree.map(np.testing.assert_array_equal, first.ema, PARAMS)
    given = state(ema=jax.tree.map(jnp.zeros_like, PARAMS))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(given.ema))


def test_no_two_arrays_of_a_state_share_a_buffer():
    """A shared one could not be donated."""
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state(power_emas=2))]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize("field", ["params", "ema", "opt_state", "power_emas"])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_single_non_finite_number_is_detected(field, value):
    first = state(power_emas=2)
    assert is_finite(first)
    leaves, structure = jax.tree.flatten(getattr(first, field))
    at = next(i for i, leaf in enumerate(leaves) if leaf.ndim and jnp.issubdtype(leaf.dtype, jnp.floating))
    leaves[at] = leaves[at].at[-1].set(value)
    assert not is_finite(first.replace(**{field: jax.tree.unflatten(structure, leaves)}))
