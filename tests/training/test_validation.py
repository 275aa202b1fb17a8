import numpy as np
import pytest

from ddpm_jax.data.dataset import hold_out
from ddpm_jax.training.validation import build_validation
from tests.training.toy import CONFIG, DISCS, learner_and_step

pytestmark = pytest.mark.xdist_group("step")  # They share compiled steps.


def test_the_validation_loss_does_not_depend_on_the_batch_size():
    learner, state, _ = learner_and_step(CONFIG)
    _, held = hold_out(DISCS, 0.3)
    losses = [build_validation(learner, DISCS, held, size)(state.params) for size in (4, 8, 32)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    # An untrained network predicts zero, so the loss is the mean square of v, about that of noise and image.
    assert 0.3 < losses[0] < 1.5
