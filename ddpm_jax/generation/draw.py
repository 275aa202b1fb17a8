"""Images from a trained model: the network is bound, compiled over the mesh, and run a batch at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from ddpm_jax.builders import build_guidance, build_pairs, build_sampler, build_schedule, build_unet, param_shapes
from ddpm_jax.config import Config
from ddpm_jax.network.bind import bind
from ddpm_jax.runtime.devices import along_batch, replicated
from ddpm_jax.runtime.progress import progress
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.trajectory import NO_FRAMES, FrameSpec, Samples
from ddpm_jax.shapes import Labels
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint

Draw = Callable[[PyTree, int, Int[np.ndarray, "batch"], Labels | None], Samples]


def load_params(config: Config, workdir: Path, mesh: Mesh) -> tuple[PyTree, int]:
    """The parameters that sample.ema and sample.checkpoint name, on every device, and the step they are from."""
    shapes = param_shapes(config)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)
    with Checkpoints(checkpoint_folder(workdir)) as checkpoints:
        found = checkpoints.restore_params(like, ema=config.sample.ema, step=config.sample.checkpoint)
    if found is None:
        raise no_checkpoint(workdir)
    return found


def compile_sampler(config: Config, mesh: Mesh, watch: FrameSpec = NO_FRAMES) -> Draw:
    """A function (params, seed, indices, labels) -> Samples, compiled once for each batch size.

    indices: which images of the seed to draw, [batch], a multiple of the number of devices.
    """
    unet, schedule = build_unet(config), build_schedule(config)
    pairs, sampler, guidance = build_pairs(config), build_sampler(config), build_guidance(config)
    shape = (config.data.image_size, config.data.image_size, config.data.channels)

    def draw(params: PyTree, seed: Array, indices: Array, labels: Array | None) -> Samples:
        # FSDP's parameters are gathered, and each device draws its share of the images.
        params = jax.lax.with_sharding_constraint(params, replicated(mesh))
        indices, labels = jax.lax.with_sharding_constraint((indices, labels), along_batch(mesh))
        keys = image_keys(seed, indices)
        x_T = draw_noise(keys, 0, shape)
        denoiser = bind(unet, params, schedule, config.diffusion.prediction, labels, guidance)
        return sampler(denoiser, schedule, x_T, keys, pairs, watch=watch)

    return jax.jit(draw, out_shardings=replicated(mesh))


def batch_size(config: Config, mesh: Mesh) -> int:
    """How many images are drawn at once: sample.batch_size, rounded up to the number of devices."""
    return -(-min(config.sample.batch_size, config.sample.count) // mesh.size) * mesh.size


def draw_all(
    config: Config,
    draw: Draw,
    params: PyTree,
    labels: Labels | None,
    mesh: Mesh,
    *,
    start: int = 0,
    quiet: bool = False,
) -> Iterator[Samples]:
    """sample.count images in order from `start` on, a batch at a time; frames come with the first batch only."""
    count, size = config.sample.count, batch_size(config, mesh)
    starts = range(0, count, size)
    left = starts[start // size :]
    shown = left if quiet else progress(left, "Sampling", total=len(starts), done=len(starts) - len(left))
    for first in shown:
        indices = np.arange(first, first + size)
        chosen = None if labels is None else np.asarray(labels)[np.minimum(indices, count - 1)]
        samples = draw(params, config.sample.seed, indices, chosen)
        frames = samples.frames[:, : count - first] if first == 0 else samples.frames[:0]
        yield jax.device_get(Samples(samples.images[: count - first], frames))
