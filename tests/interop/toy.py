"""A small network with random parameters, and its run."""

import jax
import numpy as np

from ddpm_jax.config import config_of
from ddpm_jax.interop.runs import shapes_of, start_run

SMALL = {
    "data": {"image_size": 8, "channels": 1, "batch_size": 4, "source": "digits"},
    "model": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention_resolutions": [4], "norm_groups": 4},
    "diffusion": {"steps": 8},
}


def config(**sections):
    return config_of({name: table | sections.pop(name, {}) for name, table in SMALL.items()} | sections)


def random_params(settings, seed: int = 0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32) * 0.2, shapes_of(settings))


def random_run(workdir, names=(), **sections):
    """Writes a run; returns its configuration, parameters and average."""
    settings = config(**sections)
    params, ema = random_params(settings, 1), random_params(settings, 2)
    start_run(settings, workdir, params, names, ema=ema)
    return settings, params, ema
