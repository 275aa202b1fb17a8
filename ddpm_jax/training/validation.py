"""The loss on held-out images with fixed t and noise, so that its curve moves only when the model does."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jaxtyping import Int, PyTree

from ddpm_jax.data.dataset import Dataset
from ddpm_jax.training.sharding import replicated, to_devices
from ddpm_jax.training.step import Learner, validation_losses


def build_validation(
    learner: Learner, dataset: Dataset, held: Int[np.ndarray, "held"], batch_size: int
) -> Callable[[PyTree], float]:
    """A function from parameters to the mean loss on the held-out rows; batch_size must divide among the devices."""
    evaluate = jax.jit(partial(validation_losses, learner, count=len(held)), out_shardings=replicated(learner.mesh))
    # The last batch is filled up with repeats, whose losses are dropped.
    padded = np.arange(-(-len(held) // batch_size) * batch_size) % len(held)
    share = batch_size // jax.process_count()
    mine = padded.reshape(-1, batch_size)[:, jax.process_index() * share :][:, :share]

    def validate(params: PyTree) -> float:
        losses = []
        for index in mine:
            rows = held[index]
            arrays = (dataset.images[rows], dataset.labels[rows], index.astype(np.int32))
            losses.append(evaluate(params, *to_devices(learner.mesh, arrays)))
        return float(np.concatenate(jax.device_get(losses))[: len(held)].mean(dtype=np.float64))

    return validate
