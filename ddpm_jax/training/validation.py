"""The loss on held-out images with fixed t and noise, so that its curve changes only with the model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ddpm_jax.data.dataset import Dataset
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.runtime.devices import replicated, to_devices
from ddpm_jax.runtime.signals import raise_if_stopped
from ddpm_jax.shapes import Labels, Pixels
from ddpm_jax.training.step import Learner, validation_losses


def build_validation(
    learner: Learner, dataset: Dataset, held: Int[np.ndarray, "held"], batch_size: int
) -> Callable[[PyTree], float]:
    """A function from parameters to the mean loss on the held-out rows; batch_size: a multiple of the devices."""
    count = len(held)

    def total(params: PyTree, images: Pixels, labels: Labels, index: Array, weights: Array) -> Array:
        return jnp.sum(validation_losses(learner, params, images, labels, index, count) * weights)

    evaluate = jit(total, out_shardings=replicated(learner.mesh))
    # The last batch is padded with repeated images of weight 0.
    places = np.arange(-(-count // batch_size) * batch_size).reshape(-1, batch_size)
    mine = np.split(places, jax.process_count(), axis=1)[jax.process_index()]

    def validate(params: PyTree) -> float:
        totals = []
        for place in mine:
            raise_if_stopped()
            index = (place % count).astype(np.int32)
            rows = held[index]
            arrays = (dataset.images[rows], dataset.labels[rows], index, (place < count).astype(np.float32))
            totals.append(evaluate(params, *to_devices(learner.mesh, arrays)))
        return float(np.sum(jax.device_get(totals), dtype=np.float64)) / count

    return validate
