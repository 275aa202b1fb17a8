"""Made-up images of any size: a bright disc on a dark ground, for checks that need no data."""

import numpy as np

from ddpm_jax.data.dataset import Dataset


def draw_discs(count: int, image_size: int, channels: int, classes: int, seed: int = 0) -> Dataset:
    """Discs as uint8 [count, image_size, image_size, channels], of random place, size and colour.

    The class of a disc (0..max(classes, 1) - 1) is the horizontal band that its centre lies in.
    """
    classes = max(classes, 1)
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centre_y = (labels + draw.uniform(0.2, 0.8, count)) / classes
    centre_x, radius = draw.uniform(0.2, 0.8, count), draw.uniform(0.1, 0.3, count)
    colour, ground = draw.uniform(150, 255, (count, channels)), draw.uniform(0, 60, (count, channels))
    grid = (np.arange(image_size) + 0.5) / image_size
    squared = (grid[None, :, None] - centre_y[:, None, None]) ** 2 + (
        grid[None, None, :] - centre_x[:, None, None]
    ) ** 2
    inside = np.clip((radius[:, None, None] - np.sqrt(squared)) * image_size + 0.5, 0.0, 1.0)[..., None]
    images = inside * colour[:, None, None, :] + (1.0 - inside) * ground[:, None, None, :]
    return Dataset(images.astype(np.uint8), labels.astype(np.int32), tuple(f"band {i}" for i in range(classes)))
