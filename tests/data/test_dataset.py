import numpy as np
import pytest

from ddpm_jax.data.dataset import hold_out
from ddpm_jax.errors import UserError
from tests.data.test_batches import numbered


def test_held_out_images_are_a_fixed_share_that_training_never_sees():
    train, held = hold_out(numbered(200), 0.1)
    assert len(held) == 20 and sorted([*train, *held]) == list(range(200))
    np.testing.assert_array_equal(held, hold_out(numbered(200), 0.1)[1])
    assert len(hold_out(numbered(200), 0.0)[1]) == 0
    with pytest.raises(UserError, match="leaves none of the 1 images"):
        hold_out(numbered(1), 0.9)
