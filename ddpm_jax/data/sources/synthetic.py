"""Synthetic images of any size: a bright disc on a dark background, for tests without data."""

import numpy as np

from ddpm_jax.data.annotations import Annotations
from ddpm_jax.data.collection import Collection, in_memory


def draw_discs(
    count: int, size: tuple[int, int], channels: int, classes: int = 0, attributes: tuple[str, ...] = (), seed: int = 0
) -> Collection:
    """Discs as uint8 [count, height, width, channels], of random position, size and colour; size: height and width.

    The class of a disc (0..classes - 1) is the horizontal band that contains its centre; an odd number of attributes
    halves its radius.
    """
    bands = max(classes, 1)
    random = np.random.default_rng(seed)
    labels = np.arange(count) % bands
    centre_y = (labels + random.uniform(0.2, 0.8, count)) / bands
    centre_x, radius = random.uniform(0.2, 0.8, count), random.uniform(0.1, 0.3, count)
    colour, ground = random.uniform(150, 255, (count, channels)), random.uniform(0, 60, (count, channels))
    values = random.integers(0, 2, (count, len(attributes)), np.uint8)
    radius /= 1 + values.sum(axis=1) % 2
    side = min(size)  # The unit of lengths.
    y, x = ((np.arange(pixels) + 0.5) / side for pixels in size)
    centre_y, centre_x = centre_y * (size[0] / side), centre_x * (size[1] / side)
    squared = (y[None, :, None] - centre_y[:, None, None]) ** 2 + (x[None, None, :] - centre_x[:, None, None]) ** 2
    inside = np.clip((radius[:, None, None] - np.sqrt(squared)) * side + 0.5, 0.0, 1.0)[..., None]
    images = inside * colour[:, None, None, :] + (1.0 - inside) * ground[:, None, None, :]
    names = tuple(f"band {i}" for i in range(classes))
    annotations = Annotations(labels.astype(np.int32), names, values, attributes)
    return in_memory("data.source='synthetic'", images.astype(np.uint8), annotations)
