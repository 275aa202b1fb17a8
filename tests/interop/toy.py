"""A small network with random parameters, and its run."""

import json
import subprocess
import sys

import jax
import numpy as np

from ddpm_jax.builders import param_shapes
from ddpm_jax.config import config_of, defaults
from ddpm_jax.interop.diffusers_folder import read_folder
from ddpm_jax.interop.runs import start_run
from tests.end_to_end.commands import ROOT

SMALL = {
    "data": {"image_size": 8, "channels": 1, "batch_size": 4, "source": "digits"},
    "model": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention_resolutions": [4], "norm_groups": 4},
    "diffusion": {"steps": 8, "prediction": "v"},  # In eps, errors at t = T would put every pixel beyond its range.
}


def config(**sections):
    return config_of({name: table | sections.pop(name, {}) for name, table in SMALL.items()} | sections)


def random_params(settings, seed: int = 0):
    """Parameters that neither fade nor saturate: images of them show what the network is conditioned on."""
    draw = np.random.default_rng(seed)

    def random(path, leaf):
        noise, fan_in = draw.normal(size=leaf.shape), np.prod(leaf.shape[:-1])
        values = noise / np.sqrt(fan_in) if leaf.ndim > 1 else 0.2 * noise + (path[-1].key == "scale")
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(random, param_shapes(settings))


def random_run(workdir, names=(), **sections):
    """Writes a run; returns its configuration, parameters and EMA parameters."""
    settings = config(**sections)
    params, ema = random_params(settings, 1), random_params(settings, 2)
    start_run(settings, workdir, params, names, ema=ema)
    return settings, params, ema


def imported(folder, recipe=None):
    """Configuration and parameters of the model in a folder of diffusers; recipe: has the condition."""
    recipe = recipe or defaults()
    found = read_folder(folder, recipe.model.condition)
    recipe.update_from_flattened_dict(found.fields)
    settings = config_of(recipe)
    return settings, found.params(settings)


def script(name: str, *argv: object) -> subprocess.CompletedProcess:
    """Runs a script such as scripts/import_diffusers.py in a separate process."""
    return subprocess.run([sys.executable, ROOT / name, *map(str, argv)], capture_output=True, text=True)


def change(path, **fields):
    """Sets some entries of a JSON file."""
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | fields))
