"""The guide of autoguidance: a worse model, smaller or less trained, from which sampling moves away.

sample.guide        parameters
runs/small          the EMA of the newest checkpoint of another run, in a folder or at a URL
pretrained:digits   those of a model that comes with the package
checkpoint:5000     the EMA of another checkpoint of the same run
ema_width:0.1       another EMA at the same checkpoint of the same run

diffusion/guidance.py has the equation, and draw.py loads the parameters and binds both models.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct
from jaxtyping import PyTree

from ddpm_jax.builders import build_schedule
from ddpm_jax.config import Config, checked
from ddpm_jax.config.convert import section_of
from ddpm_jax.config.sections import Evaluate, Sample
from ddpm_jax.errors import UserError, abbreviated
from ddpm_jax.generation.labels import label_names
from ddpm_jax.interop.safetensors_file import PRETRAINED, Saved, find_file, read_file
from ddpm_jax.runtime.urls import AnyPath, as_path, check_folder, store_errors
from ddpm_jax.workdir import read_config

OWN_PARAMETERS = {"checkpoint": int, "ema_width": float}
"""Fields of `sample` that choose other parameters of the same run, as in "checkpoint:5000", and their types."""


@struct.dataclass
class GuidedParams:
    """The parameters of a model and of its guide: whatever takes parameters takes these, too."""

    params: PyTree
    guide: PyTree
    guide_step: PyTree
    """Training step of the guide."""
    guide_config: Config = struct.field(pytree_node=False)
    """The guide's own configuration, of which `sample` has no more than binding needs."""


class Guide(NamedTuple):
    """A guide that fits, before its parameters are loaded."""

    config: Config
    source: AnyPath | Saved
    """The workdir, or a file."""


def without_guide(params: PyTree) -> PyTree:
    """The parameters of the model alone."""
    return params.params if isinstance(params, GuidedParams) else params


@contextmanager
def naming_guide(config: Config) -> Iterator[None]:
    """Names sample.guide in errors for users."""
    try:
        yield
    except UserError as error:
        raise UserError(f"sample.guide={config.sample.guide}: {error}") from error


def open_guide(config: Config, workdir: AnyPath | None, names: Sequence[str], step: int) -> Guide:
    """The guide that config.sample.guide names; raises UserError if there is none, or if it does not fit.

    workdir: the run of the model, None for a model without; names: its labels; step: its checkpoint.
    """
    with naming_guide(config):
        guide, guide_names = _open(config, workdir, names, step)
        refuse_misfit(config, names, guide.config, guide_names)
    return guide


def _open(config: Config, workdir: AnyPath | None, names: Sequence[str], step: int) -> tuple[Guide, Sequence[str]]:
    name = config.sample.guide or ""
    field, _, value = name.partition(":")
    if name.startswith(PRETRAINED):
        saved = read_file(find_file(name))
        return Guide(config_of_guide(saved.config, config), saved), saved.names
    if field in OWN_PARAMETERS:
        if workdir is None:
            raise UserError("the model was not loaded from a workdir; name another run as its guide.")
        try:
            chosen = {"checkpoint": step, field: OWN_PARAMETERS[field](value)}
        except ValueError as error:
            raise UserError(f"{value!r} is not a number; expected one such as checkpoint:5000.") from error
        return Guide(config_of_guide(config, config, **chosen), workdir), names
    path = as_path(name, "sample.guide")
    with store_errors(path):
        check_folder(path)
        trained = read_config(path)
        return Guide(config_of_guide(trained, config), path), label_names(trained, path)


def config_of_guide(trained: Config, config: Config, **chosen: Any) -> Config:
    """The configuration of a guide, with these fields of `sample` and those that it shares with the model.

    Raises UserError if they do not suit the guide.
    """
    sample = section_of(Sample, {"condition_noise": config.sample.condition_noise, **chosen}, "sample.")
    return checked(dataclasses.replace(trained, sample=sample, evaluate=Evaluate()))


def refuse_misfit(config: Config, names: Sequence[str], guide: Config, guide_names: Sequence[str]) -> None:
    """Raises UserError unless a guide predicts the same as the model, whatever its network.

    names, guide_names: the names of their labels.
    """
    same: list[tuple[str, Any, Any]] = [
        ("image shape (height, width, channels)", config.image_shape, guide.image_shape),
        ("data.depth", config.data.depth, guide.data.depth),
        ("model.condition", config.model.condition, guide.model.condition),
        ("condition shape", config.condition_shape, guide.condition_shape),
        ("diffusion.steps", config.diffusion.steps, guide.diffusion.steps),
    ]
    if guide.label_width:  # Without labels, a guide is worse in one more respect.
        same.append(("model.classes", config.model.classes, guide.model.classes))
        same.append(("model.attributes", config.model.attributes, guide.model.attributes))
    for what, own, other in same:
        if own != other:
            raise UserError(f"its {what} is {other}, that of the model {own}; name a guide with the same.")
    if guide.label_width and tuple(names) != tuple(guide_names):
        raise UserError(
            f"its labels are {abbreviated(guide_names)}, those of the model {abbreviated(names)}; name a guide with "
            "the same, in the same order."
        )
    if not np.allclose(build_schedule(config).alpha_bar, build_schedule(guide).alpha_bar, rtol=1e-6, atol=0.0):
        raise UserError(
            f"its noise schedule, diffusion.schedule={guide.diffusion.schedule!r}, is not that of the model, "
            f"{config.diffusion.schedule!r} (or diffusion.beta_start, beta_end or zero_terminal_snr differ); name a "
            "guide with the same."
        )


def guided_params(config: Config, params: PyTree, guide_config: Config, guide: PyTree, guide_step: int) -> GuidedParams:
    """The parameters of a model and its guide; raises UserError if they are the same.

    config: the model's, whose conditions the guide must know.
    """
    if _are_equal(params, guide):
        raise same_as_model()
    return GuidedParams(params, guide, guide_step, config_of_guide(guide_config, config))


def same_as_model() -> UserError:
    """The error for a guide that has no effect."""
    return UserError(
        "it is the model itself, so that it has no effect; name a smaller run, or an earlier checkpoint such as "
        "checkpoint:5000."
    )


def _are_equal(params: PyTree, others: PyTree) -> bool:
    """Whether all arrays are equal; reads only as many as it must."""
    leaves, structure = jax.tree.flatten(params)
    other_leaves, other_structure = jax.tree.flatten(others)
    return structure == other_structure and all(
        a.shape == b.shape and np.array_equal(*jax.device_get((a, b)))
        for a, b in zip(leaves, other_leaves, strict=True)
    )


def with_guide_step(config: Config, params: PyTree) -> Config:
    """The configuration for names of results, which shall differ with the place and the step of a guide's run."""
    guide = config.sample.guide
    if guide is None or guide.startswith((PRETRAINED, *(f"{field}:" for field in OWN_PARAMETERS))):
        return config  # The name of the guide, and the step of the model, say it all.
    path = as_path(guide, "sample.guide")
    named = f"{path.name}+{params.guide_step}-{zlib.crc32(str(path).encode()):08x}"
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, guide=named))
