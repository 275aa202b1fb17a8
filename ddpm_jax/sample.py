"""--mode=sample: from a run's checkpoint to images, pictures and files.

    seed, i -> key -> x_T -> sampler (one scan over the Denoiser) -> uint8 -> grid, strip, GIF, PNG files, npz

`run.py` offers the same to Python.
"""

import logging
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from ddpm_jax.assemble import build_guidance, build_pairs, build_sampler, build_schedule, build_unet, sampling_steps
from ddpm_jax.config import Config
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.network.bind import bind
from ddpm_jax.network.unet import init_params
from ddpm_jax.reporting.images import evenly_spaced, grid, save_gif, save_png, strip, to_pixels
from ddpm_jax.reporting.progress import progress
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.trajectory import UNWATCHED, Samples, Watch
from ddpm_jax.shapes import Labels, Pixels
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.sharding import along_batch, data_mesh, replicated
from ddpm_jax.workdir import checkpoint_folder, read_label_names

GRID_IMAGES = 100
STRIP_IMAGES = 8
GIF_IMAGES = 36
NAMED = (
    *("order", "eta", "spacing", "final", "variance", "threshold", "percentile", "percentile_max", "rederive_eps"),
    *("label", "guidance", "guidance_interval", "guidance_rescale", "ema", "strip", "gif"),
)
"""Fields that a folder's name tells where they are not the default, besides those that it always tells."""
Draw = Callable[[PyTree, int, Int[np.ndarray, "batch"], Labels | None], Samples]

logger = logging.getLogger(__name__)


def sample(config: Config, workdir: Path) -> Path:
    """Draws sample.count images and writes them to <workdir>/samples/<name>/, which it returns."""
    mesh = data_mesh()
    labels = choose_labels(config, workdir, np.arange(config.sample.count))
    params, step = load_params(config, workdir, mesh)
    target = workdir / "samples" / sample_name(config, step)
    logger.info("Sampling %d images, %s, from step %d", config.sample.count, target.name.split("-", 1)[1], step)

    watch = Watch(max(config.sample.strip, config.sample.gif), max(STRIP_IMAGES, GIF_IMAGES))
    draw = compile_sampler(config, mesh, watch)
    drawn = [Samples(*map(to_pixels, samples)) for samples in draw_all(config, draw, params, labels, mesh)]
    if jax.process_index() == 0:
        _write(target, config, np.concatenate([samples.images for samples in drawn]), np.asarray(drawn[0].frames))
    logger.info("Wrote %s", target)
    return target


def load_params(config: Config, workdir: Path, mesh: Mesh) -> tuple[PyTree, int]:
    """The parameters that sample.ema and sample.checkpoint name, on every device, and the step they are from."""
    unet, data = build_unet(config), config.data
    shapes = jax.eval_shape(lambda: init_params(unet, jax.random.key(0), data.image_size, data.channels))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)
    with Checkpoints(checkpoint_folder(workdir)) as checkpoints:
        found = checkpoints.restore_params(like, ema=config.sample.ema, step=config.sample.checkpoint)
    if found is None:
        raise UserError(
            f"{workdir} holds no checkpoint yet; train first: python main.py --config=… --workdir={workdir}"
        )
    return found


def compile_sampler(config: Config, mesh: Mesh, watch: Watch = UNWATCHED) -> Draw:
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


def draw_all(
    config: Config, draw: Draw, params: PyTree, labels: Labels | None, mesh: Mesh, *, quiet: bool = False
) -> Iterator[Samples]:
    """sample.count images in order, a batch at a time; frames come with the first batch only."""
    count = config.sample.count
    size = min(config.sample.batch_size, count)
    size = -(-size // mesh.size) * mesh.size
    starts = range(0, count, size)
    for start in starts if quiet else progress(starts, "Sampling", total=len(starts)):
        indices = np.arange(start, start + size)
        chosen = None if labels is None else np.asarray(labels)[np.minimum(indices, count - 1)]
        samples = draw(params, config.sample.seed, indices, chosen)
        frames = samples.frames[:, : count - start] if start == 0 else samples.frames[:0]
        yield jax.device_get(Samples(samples.images[: count - start], frames))


def choose_labels(config: Config, workdir: Path, indices: Int[np.ndarray, "batch"]) -> Labels | None:
    """The labels of the images at `indices`: sample.label for all, or each class in turn; None if unconditional."""
    width = config.model.classes or config.model.attributes
    label = config.sample.label
    if not width:
        return None
    if label is None:
        if config.model.classes:
            return (indices % width).astype(np.int32)
        return np.zeros((len(indices), width), np.uint8)
    numbers = [_label_number(name.strip(), read_label_names(workdir), width) for name in label.split(",")]
    if config.model.attributes:
        return np.tile(np.isin(np.arange(width), numbers).astype(np.uint8), (len(indices), 1))
    if len(numbers) > 1:
        raise UserError(
            f"sample.label={label!r} names {len(numbers)} classes; expected one, as an image has one class."
        )
    return np.full(len(indices), numbers[0], np.int32)


def _label_number(name: str, names: tuple[str, ...], width: int) -> int:
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < width:
        return int(name)
    raise UserError(f"sample.label={name!r} is not a label of this run; {nearest(name, names)}")


def sample_name(config: Config, step: int) -> str:
    """A folder name that tells apart any two calls that could differ in a pixel."""
    s, default = config.sample, Sample()
    parts = [str(step), s.sampler, f"{sampling_steps(config)}steps", f"seed{s.seed}", f"n{s.count}"]
    if s.timesteps:  # A list may be longer than a file name.
        parts.append(f"timesteps-{zlib.crc32(repr(s.timesteps).encode()):08x}")
    parts += [f"{name}-{getattr(s, name)}" for name in NAMED if getattr(s, name) != getattr(default, name)]
    return re.sub(r"[^\w.,+-]", "_", "-".join(parts))


def _write(target: Path, config: Config, pixels: Pixels, frames: np.ndarray) -> None:
    """Writes beside the target, then renames: the same call again replaces its own files, never half of them."""
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "images").mkdir(parents=True)
    save_png(grid(pixels[:GRID_IMAGES]), building / "grid.png")
    if config.sample.strip:
        save_png(strip(frames[:, :STRIP_IMAGES], config.sample.strip), building / "strip.png")
    if config.sample.gif:
        shown = evenly_spaced(frames[:, :GIF_IMAGES], config.sample.gif)
        save_gif([grid(frame) for frame in shown], building / "denoising.gif")
    for i, image in enumerate(np.asarray(pixels)):
        save_png(image, building / "images" / f"{i:06d}.png")
    np.savez(building / "samples.npz", pixels)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
