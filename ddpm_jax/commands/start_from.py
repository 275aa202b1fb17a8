"""train.start_from: a new run starts from the parameters of another model, as fine-tuning and consistency tuning do.

    a run, pretrained:NAME, a safetensors file or a diffusers folder -> EMA parameters -> those that fit the new network

What does not fit, such as the first and last layers for other channels, or the embeddings of other labels, is
initialised anew and listed.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from ddpm_jax.builders import build_schedule, param_shapes
from ddpm_jax.config import Config, checked, config_of, defaults
from ddpm_jax.config.convert import to_config_dict
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.generation.draw import load_params
from ddpm_jax.generation.labels import label_names
from ddpm_jax.interop.diffusers_folder import WEIGHTS, read_folder
from ddpm_jax.interop.safetensors_file import PRETRAINED, find_file, read_file
from ddpm_jax.interop.tensors import by_path
from ddpm_jax.runtime.urls import AnyPath, as_path, check_folder, local_file, store_errors
from ddpm_jax.shapes import AnyArray
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint, read_config

FIELD = "train.start_from"
LABELS = "labels."
"""Parameters that belong to the labels of a model."""

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """A model to start from, whose parameters are not loaded yet."""

    config: Config
    names: Sequence[str]
    """Names of its classes or attributes."""
    load: Callable[[Mesh], PyTree]
    """Its EMA parameters, the same on all devices."""


def open_source(config: Config) -> Source | None:
    """The model that train.start_from names; None without one. Raises UserError if it cannot be read."""
    name = config.train.start_from
    if name is None:
        return None
    try:
        source = _open(name, config)
    except UserError as error:
        raise UserError(f"{FIELD}={name}: {error}") from error
    _refuse_misfit(config, source)
    return source


def _open(name: str, config: Config) -> Source:
    if name.startswith(PRETRAINED) or name.endswith(".safetensors"):
        saved = read_file(find_file(name) if name.startswith(PRETRAINED) else local_file(name, FIELD))
        return Source(saved.config, saved.names, lambda mesh: saved.tree("ema"))
    folder = as_path(name, FIELD)
    if isinstance(folder, Path) and folder.is_file():
        raise UserError(
            "It is a file; expected the workdir or URL of a run, pretrained:NAME, a .safetensors file, or a folder of "
            "diffusers."
        )
    with store_errors(folder):
        check_folder(folder)
        if not any((folder / part).exists() for part in ("model_index.json", "unet", WEIGHTS)):
            return _run_source(folder)
    return _diffusers_source(local_file(name, FIELD), config)


def _refuse_misfit(config: Config, source: Source) -> None:
    """Raises UserError unless at least half of the parameters are taken over, by their number."""
    wanted = by_path(param_shapes(config))
    shared = _shared(by_path(param_shapes(source.config)), wanted)
    sizes = {path: math.prod(leaf.shape) for path, leaf in wanted.items()}
    if 2 * sum(sizes[path] for path in shared) < sum(sizes.values()):
        ours, theirs = config.model, source.config.model
        raise UserError(
            f"{FIELD}={config.train.start_from} has few of this network's parameters: its model.channels and "
            f"model.multipliers are {theirs.channels} and {theirs.multipliers}, here they are {ours.channels} and "
            f"{ours.multipliers}; give a model with the same fields of model."
        )


def _shared(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of `given` whose path and shape are also in `wanted`."""
    return {path: leaf for path, leaf in given.items() if path in wanted and leaf.shape == wanted[path].shape}


def _run_source(workdir: AnyPath) -> Source:
    # The sampling options of that run do not matter here; the newest checkpoint does.
    config = checked(dataclasses.replace(read_config(workdir), sample=Sample()))
    if not checkpoint_steps(checkpoint_folder(workdir)):
        raise no_checkpoint(workdir)
    return Source(config, label_names(config, workdir), lambda mesh: load_params(config, workdir, mesh)[0])


def _diffusers_source(folder: Path, target: Config) -> Source:
    """target: the new run, which tells the condition of an image-to-image model; folders do not."""
    found, tree = read_folder(folder, target.model.condition), defaults()
    tree.degradation = to_config_dict(target.degradation)
    tree.update_from_flattened_dict(found.fields)
    config = config_of(tree)
    return Source(config, found.labels(config), lambda mesh: found.params(config))


def first_params(config: Config, workdir: AnyPath, names: Sequence[str], mesh: Mesh) -> Mapping[str, AnyArray]:
    """The parameters that a new run takes over, by their dotted paths; none without a source, or if the run has begun.

    names: of the classes or attributes of the new run. Logs the parameters that are initialised anew, and settings
    that differ from those for which the parameters were trained.
    """
    source = None if checkpoint_steps(checkpoint_folder(workdir)) else open_source(config)
    if source is None:
        return {}
    try:
        given, wanted = by_path(source.load(mesh)), by_path(param_shapes(config))
    except UserError as error:
        raise UserError(f"{FIELD}={config.train.start_from}: {error}") from error
    taken = _shared(given, wanted)
    if config.label_width and list(source.names) != list(names):
        taken = {path: leaf for path, leaf in taken.items() if not path.startswith(LABELS)}
    logger.info("Starting from %d of the %d arrays of %s", len(taken), len(wanted), config.train.start_from)
    if anew := wanted.keys() - taken.keys():
        logger.warning("Initialised anew, since they do not fit: %s.", shortened(sorted(anew)))
    if unused := given.keys() - wanted.keys():
        logger.warning("Not used, since this network has none: %s.", shortened(sorted(unused)))
    for name, (theirs, ours) in _differences(config, source.config).items():
        logger.warning(
            "%s is %r here, and was %r in %s, whose parameters have to adapt.",
            *(name, ours, theirs, config.train.start_from),
        )
    return taken


def _differences(config: Config, source: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that change the meaning of the network's inputs and outputs, as {name: (theirs, ours)}."""
    found = {}
    if config.diffusion.prediction != source.diffusion.prediction:
        found["diffusion.prediction"] = source.diffusion.prediction, config.diffusion.prediction
    if config.diffusion.steps != source.diffusion.steps:
        found["diffusion.steps"] = source.diffusion.steps, config.diffusion.steps
    elif (build_schedule(config).alpha_bar != build_schedule(source).alpha_bar).any():
        found["diffusion.schedule"] = source.diffusion.schedule, config.diffusion.schedule
    return found


def with_params(params: PyTree, taken: Mapping[str, AnyArray]) -> PyTree:
    """The parameters, with those at the dotted paths of `taken` replaced."""
    paths = by_path(params)
    return jax.tree.unflatten(jax.tree.structure(params), [taken.get(path, leaf) for path, leaf in paths.items()])
