"""The data set that comes with the package: 1,797 handwritten digits of 8x8 pixels (see digits-LICENSE.md)."""

from importlib import resources

import numpy as np

from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import annotate
from ddpm_jax.data.collection import Collection, in_memory
from ddpm_jax.data.sources.splits import choose_split

ORIGIN = "data.source='digits'"


def load_digits(data: Data) -> Collection:
    """All digits as uint8 [1797, 8, 8, 1], with their 17 grey levels scaled to 0..255."""
    choose_split(data.split, (), ORIGIN)
    with resources.files("ddpm_jax.data.sources").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images = np.round(arrays["images"].astype(np.float64) * (255.0 / 16.0)).astype(np.uint8)
        annotations = annotate(len(images), [str(label) for label in arrays["labels"]])
    return in_memory(ORIGIN, images[..., None], annotations)
