"""The only driver of trained models: binds the network, compiles it over the mesh, and runs it batch by batch.

    params, (seed, i), labels, conditions, inputs -> Denoiser -> work: any pure function of it -> outputs, by batches

Sampling, editing and the variational bound differ only in their work.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from ddpm_jax.builders import (
    build_condition,
    build_guidance,
    build_pairs_from_noise,
    build_sampler,
    build_schedule,
    build_unet,
    param_shapes,
)
from ddpm_jax.config import Config
from ddpm_jax.diffusion.conditions import condition_input
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.guidance import UNGUIDED, Guidance, autoguided
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.diffusion.randomness import Purpose
from ddpm_jax.generation.conditions import with_known_pixels
from ddpm_jax.generation.guides import GuidedParams, guided_params, naming_guide, open_guide, same_as_model
from ddpm_jax.generation.labels import label_names
from ddpm_jax.interop.safetensors_file import Saved
from ddpm_jax.network.bind import bind
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.runtime.devices import along_batch, replicated
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import raise_if_stopped
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.sampling.loop import NO_FRAMES, FrameSpec, Samples, scan_loop
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.shapes import ConditionPixels, ImageKeys, Labels, Pixels
from ddpm_jax.training.checkpoint import Checkpoints, check_kept, checkpoint_steps
from ddpm_jax.training.ema_snapshots import EmaSnapshots
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint, snapshot_folder

Work = Callable[[Denoiser, ImageKeys, Any], Any]
"""The computation for a batch: (denoiser, a key for each image, a pytree of inputs [batch, ...]) -> any pytree."""
Compiled = Any
"""A jitted (params, seed, indices, labels, inputs=None, conditions=None) -> outputs of a Work; compiled once for each
batch size."""


def load_params(config: Config, workdir: AnyPath, mesh: Mesh) -> tuple[PyTree, int]:
    """The parameters selected by config.sample, on every device, and their step; GuidedParams with sample.guide."""
    params, step = load_own_params(config, workdir, mesh)
    if config.sample.guide is None:
        return params, step
    return with_guide(config, workdir, label_names(config, workdir), params, step, mesh), step


def load_own_params(config: Config, workdir: AnyPath, mesh: Mesh) -> tuple[PyTree, int]:
    """The parameters selected by sample.ema, ema_width and checkpoint, on every device, and their step."""
    shapes = param_shapes(config)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)
    if config.sample.ema_width is not None:
        with _snapshots(config, workdir) as snapshots:
            params, step = snapshots.rebuild(like, config.sample.ema_width, config.sample.checkpoint)
        return jax.device_put(params, replicated(mesh)), step
    with Checkpoints(checkpoint_folder(workdir)) as checkpoints:
        found = checkpoints.restore_params(like, ema=config.sample.ema, step=config.sample.checkpoint)
    if found is None:
        raise no_checkpoint(workdir)
    return found


def _snapshots(config: Config, workdir: AnyPath) -> EmaSnapshots:
    return EmaSnapshots(snapshot_folder(workdir), config.optimizer.power_widths, config.optimizer.ema_snapshots)


def check_params(config: Config, workdir: AnyPath) -> None:
    """Raises UserError if `load_params` would refuse the checkpoint, the EMA width or the guide of config.sample.

    Reads no parameters and communicates with no other process: damage shows only when they are read.
    """
    step = _check_own_params(config, workdir)
    if config.sample.guide is None:
        return
    guide = open_guide(config, workdir, label_names(config, workdir), step)
    with naming_guide(config):
        if isinstance(guide.source, Saved):
            return
        guide_step, kinds = _check_own_params(guide.config, guide.source), ("ema", "ema_width")
        same = all(getattr(config.sample, name) == getattr(guide.config.sample, name) for name in kinds)
        if same and (workdir, step) == (guide.source, guide_step):
            raise same_as_model()


def _check_own_params(config: Config, workdir: AnyPath) -> int:
    """The step of the parameters that `load_own_params` would find."""
    step, width = config.sample.checkpoint, config.sample.ema_width
    if width is not None:
        with _snapshots(config, workdir) as snapshots:
            return snapshots.check(width, step)
    folder = checkpoint_folder(workdir)
    steps = checkpoint_steps(folder)
    if not steps:
        raise no_checkpoint(workdir)
    if step is not None:
        check_kept(folder, steps, step)
    return steps[-1] if step is None else step


def with_guide(
    config: Config, workdir: AnyPath | None, names: Sequence[str], params: PyTree, step: int, mesh: Mesh
) -> GuidedParams:
    """The parameters of a model together with those of the guide that config.sample.guide names.

    workdir: the run of the model, None for a model without; names: its labels. Raises UserError as `open_guide` does.
    """
    guide = open_guide(config, workdir, names, step)
    with naming_guide(config):
        if isinstance(guide.source, Saved):
            loaded = jax.device_put(guide.source.tree("ema"), replicated(mesh)), guide.source.step
        else:
            loaded = load_own_params(guide.config, guide.source, mesh)
        return guided_params(config, params, guide.config, *loaded)


def compile_work(
    config: Config,
    mesh: Mesh,
    work: Work,
    guidance: Guidance | None = None,
    purpose: Purpose = Purpose.SAMPLE,
    *,
    exact: bool = False,
) -> Compiled:
    """Compiles a Work over the mesh. The batch must be a multiple of the number of devices.

    guidance: by default that of config.sample; purpose: what the random keys of the images are for; exact: as in `jit`,
    and with direct convolutions.
    """
    bound = bind_config(config, build_guidance(config) if guidance is None else guidance)

    def batch(
        params: PyTree,
        seed: Array,
        indices: Array,
        labels: Array | None,
        inputs: PyTree = None,
        conditions: ConditionPixels | None = None,
    ) -> PyTree:
        # Under FSDP the parameters are gathered; each device computes its share of the images.
        params = jax.lax.with_sharding_constraint(params, replicated(mesh))
        each = (indices, labels, inputs, conditions)
        indices, labels, inputs, conditions = jax.lax.with_sharding_constraint(each, along_batch(mesh))
        denoiser = bound(params, seed, indices, labels, conditions)
        return work(denoiser, image_keys(seed, indices, purpose), inputs)

    return jit(batch, exact=exact, out_shardings=replicated(mesh))


def bind_config(config: Config, guidance: Guidance = UNGUIDED) -> Callable[..., Denoiser]:
    """A function (params, seed, indices, labels, conditions) -> Denoiser of these images.

    With GuidedParams, guidance compares with the guide, otherwise with the same model without label or condition.
    conditions: as pixels, which the seed noises to sample.condition_noise; None without.
    """
    unet, schedule, kind = build_unet(config), build_schedule(config), config.diffusion.prediction
    condition, has_null = build_condition(config), config.train.condition_dropout > 0.0

    def bound(
        params: PyTree, seed: int | Array, indices: Array, labels: Labels | None, conditions: ConditionPixels | None
    ) -> Denoiser:
        if isinstance(params, GuidedParams):
            each = (seed, indices, labels, conditions)
            model = bind_config(config)(params.params, *each)
            if guidance.scale == 1.0:
                return model
            return autoguided(guidance, schedule, model, bind_config(params.guide_config)(params.guide, *each))
        labels = labels if config.label_width else None  # A guide may have none where the model has some.
        given = None
        if condition is not None and conditions is not None:
            keys, noised_to = image_keys(seed, indices, Purpose.GIVEN_CONDITION), config.sample.condition_noise
            given = condition_input(condition, schedule, from_pixels(conditions), keys, noised_to)
        return bind(unet, params, schedule, kind, labels, guidance, condition=given, has_null_condition=has_null)

    return bound


def run_batches(
    compiled: Compiled,
    params: PyTree,
    seed: int,
    batches: range,
    *,
    labels: Labels | None = None,
    inputs: PyTree = None,
    conditions: ConditionPixels | None = None,
    start: int = 0,
    progress_label: str | None = None,
) -> Iterator[tuple[Any, int]]:
    """The outputs of each batch, in host memory, and the number of its images; the last batch is padded.

    batches: range(0, number of images, batch size); start: the first image to compute;
    labels, inputs, conditions: for all images. progress_label: None for no progress bar.
    """
    count, size = batches.stop, batches.step
    remaining, done = range(start, count, size), start // size
    if progress_label is not None:
        remaining = progress(remaining, progress_label, "batches", total=done + len(remaining), done=done)
    for first in remaining:
        raise_if_stopped()
        indices = np.arange(first, first + size)
        rows = np.minimum(indices, count - 1)
        each = jax.tree.map(lambda column, rows=rows: column[rows], (labels, inputs, conditions))
        outputs = jax.device_get(compiled(params, seed, indices, *each))
        yield outputs, min(size, count - first)


def batches_of(config: Config, mesh: Mesh, count: int | None = None) -> range:
    """Batches of sample.batch_size (rounded up to a multiple of the devices) for `count` or sample.count images."""
    count = config.sample.count if count is None else count
    return range(0, count, -(-min(config.sample.batch_size, count) // mesh.size) * mesh.size)


def compile_sampler(config: Config, mesh: Mesh, frames: FrameSpec = NO_FRAMES) -> Compiled:
    """The configured sampler as a function (params, seed, indices, labels, conditions=None) -> Samples."""
    sampler, pairs, shape = build_sampler(config), build_pairs_from_noise(config), config.image_shape

    def work(denoiser: Denoiser, keys: ImageKeys, _: None) -> Samples:
        return sampler(denoiser, draw_noise(keys, 0, shape), keys, pairs, loop=scan_loop(frames))

    return compile_work(config, mesh, work)


def sample_batches(
    config: Config,
    sampler: Compiled,
    params: PyTree,
    labels: Labels | None,
    mesh: Mesh,
    *,
    conditions: ConditionPixels | None = None,
    start: int = 0,
    progress_label: str | None = None,
) -> Iterator[Samples]:
    """sample.count images in order from `start` on, batch by batch; only the first batch has frames.

    conditions: one for each image, of config.condition_shape, for an image-to-image model.
    """
    batches = batches_of(config, mesh)
    seed, options = config.sample.seed, {"labels": labels, "start": start, "progress_label": progress_label}
    for samples, kept in run_batches(sampler, params, seed, batches, conditions=conditions, **options):
        images, frames = samples.images[:kept], samples.frames[:, :kept] if start == 0 else samples.frames[:0]
        if conditions is not None:
            images = with_known_pixels(config, images, conditions[start : start + kept])
        yield Samples(images, frames)
        start += batches.step


def sample_pixels(
    config: Config,
    sampler: Compiled,
    params: PyTree,
    labels: Labels | None,
    mesh: Mesh,
    conditions: ConditionPixels | None = None,
) -> Pixels:
    """sample.count images, of data.depth, without frames or progress."""
    batches = sample_batches(config, sampler, params, labels, mesh, conditions=conditions)
    return np.concatenate([to_pixels(samples.images, config.data.depth) for samples in batches])
