"""--mode=sample --config.sample.task=…: editing of given images or noise; sampling/editing.py has the mathematics.

reconstruct    images -> inverted by DDIM -> sampled again: originals above, reconstructions below
interpolate    from one image, or the noise of one seed, to another in sample.count steps
inpaint        new pixels where sample.mask is white
vary           images, noised to sample.strength and sampled from there
compare        the same noise through several samplers, one row each
"""

import logging
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ddpm_jax.builders import (
    build_inpainting,
    build_pairs,
    build_pairs_from_noise,
    build_sampler,
    build_schedule,
)
from ddpm_jax.commands.image_files import assign_in_turn, read_images, read_mask
from ddpm_jax.commands.output_folder import output_folder
from ddpm_jax.config import Config, split_names
from ddpm_jax.config.sections import Sample
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.restoration import means_of, psnr
from ddpm_jax.generation.draw import (
    Work,
    batches_of,
    compile_sampler,
    compile_work,
    load_params,
    run_batches,
    sample_pixels,
)
from ddpm_jax.generation.guides import with_guide_step
from ddpm_jax.generation.labels import choose_labels, label_names, labels_if_set
from ddpm_jax.generation.output import unfinished_folder, write_images
from ddpm_jax.generation.requests import sample_name, sampler_fields, with_sampler
from ddpm_jax.reporting.images import Picture, captioned_rows, grey_levels_apart, grid, save_gif, save_png, stacked_grid
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.files import staged
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.editing import invert, noised, slerp
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.timesteps import Pairs
from ddpm_jax.shapes import ConditionPixels, ImageKeys, Images, Labels, Pixels

COMPARED_IMAGES = 8
"""Columns of a comparison."""
COLUMNS = 10
"""Images in a row of a picture."""

logger = logging.getLogger(__name__)


def reconstruct(config: Config, workdir: AnyPath) -> AnyPath:
    """Inverts images, samples them again, and logs the PSNR."""
    originals = read_images(config)
    params, step = load_params(config, workdir, data_mesh())
    x_T = run_edit(config, workdir, params, inversion(config), from_pixels(originals), "Inverting")
    work = deterministic(config, build_pairs(config))
    images = to_pixels(run_edit(config, workdir, params, work, x_T), config.data.depth)
    decibels = means_of({"psnr": psnr(images, originals)})["psnr"]
    logger.info("PSNR %.2f dB, mean over %d images", decibels, len(images))
    return write(config, workdir, params, step, images, stacked_grid(originals, images), inputs=originals.tobytes())


def interpolate(config: Config, workdir: AnyPath) -> AnyPath:
    """Samples images between two images, or between the noise of two seeds."""
    settings = config.sample
    ends = read_images(config) if settings.images else None
    if ends is not None and len(ends) != 2:
        raise UserError(f"sample.images={settings.images!r} names {len(ends)} images; interpolate needs two.")
    params, step = load_params(config, workdir, data_mesh())
    if ends is None:
        seeds = (settings.seed, settings.other_seed)
        noise = [draw_noise(image_keys(seed, np.zeros(1, int)), 0, config.image_shape) for seed in seeds]
        x_T, pairs = jnp.concatenate(noise), build_pairs_from_noise(config)
    else:
        pairs = build_pairs(config)
        x_T = run_edit(config, workdir, params, inversion(config), from_pixels(ends), "Inverting")
    first, last = (jnp.repeat(end[None], settings.count, axis=0) for end in x_T)
    between = slerp(first, last, jnp.linspace(0.0, 1.0, settings.count, dtype=jnp.float32))
    images = to_pixels(run_edit(config, workdir, params, deterministic(config, pairs), between), config.data.depth)
    frames = [grid(image[None]) for image in [*images, *images[::-1]]]
    inputs = b"" if ends is None else ends.tobytes()
    picture = grid(images, columns=min(settings.count, COLUMNS))
    return write(config, workdir, params, step, images, picture, inputs=inputs, frames=frames)


def inversion(config: Config) -> Work:
    """Work from x_0 to the x_T from which `deterministic` samples x_0 again."""
    schedule, pairs = build_schedule(config), build_pairs(config)
    return lambda denoiser, keys, x0: invert(denoiser, schedule, x0, pairs).images


def deterministic(config: Config, pairs: Pairs) -> Work:
    """Work from x_T to x_0 by DDIM, without a threshold, which inversion could not undo."""
    schedule = build_schedule(config)
    return lambda denoiser, keys, x_T: ddim(denoiser, schedule, x_T, keys, pairs).images


def inpaint_images(config: Config, workdir: AnyPath) -> AnyPath:
    """Samples the pixels where the mask is white and keeps the others."""
    originals, mask = read_images(config, most=config.sample.count), read_mask(config)
    chosen = originals[assign_in_turn(config, "sample.images")]
    paint = build_inpainting(config)
    params, step = load_params(config, workdir, data_mesh())

    def work(denoiser: Denoiser, keys: ImageKeys, x0: Images) -> Images:
        return paint(denoiser, x0, keys, mask).images

    painted = to_pixels(run_edit(config, workdir, params, work, from_pixels(chosen)), config.data.depth)
    images = np.where(mask > 0.5, painted, chosen)
    grey = chosen.dtype.type(np.iinfo(chosen.dtype).max // 2)
    picture = stacked_grid(np.where(mask > 0.5, grey, chosen), images)
    return write(config, workdir, params, step, images, picture, inputs=originals.tobytes() + mask.tobytes())


def vary(config: Config, workdir: AnyPath) -> AnyPath:
    """Samples variations of images, which differ the more, the greater sample.strength is."""
    settings, schedule, sampler = config.sample, build_schedule(config), build_sampler(config)
    originals = read_images(config, most=settings.count)
    chosen = originals[assign_in_turn(config, "sample.images")]
    pairs = build_pairs(config)
    highest, lowest = round(settings.strength * schedule.steps), int(pairs[-1, 0])
    if highest < lowest:
        lower = "list lower sample.timesteps" if settings.timesteps else "sample.steps"
        raise UserError(
            f"sample.strength={settings.strength} starts at step {highest}, below {lowest}, the lowest step of the "
            f"sampler; raise sample.strength, or {lower}."
        )
    pairs = pairs[pairs[:, 0] <= highest]

    def work(denoiser: Denoiser, keys: ImageKeys, x0: Images) -> Images:
        return sampler(denoiser, noised(schedule, x0, int(pairs[0, 0]), keys), keys, pairs).images

    params, step = load_params(config, workdir, data_mesh())
    images = to_pixels(run_edit(config, workdir, params, work, from_pixels(chosen)), config.data.depth)
    return write(config, workdir, params, step, images, stacked_grid(chosen, images), inputs=originals.tobytes())


def compare(config: Config, workdir: AnyPath) -> AnyPath:
    """Samples the same few images with several samplers from the same noise, one row each."""
    columns = min(config.sample.count, COMPARED_IMAGES)
    field = "sample.compare"
    configs = [with_sampler(config, name, columns, field) for name in split_names(config.sample.compare, field)]
    if config.sample.sampler not in {one.sample.sampler for one in configs}:
        _refuse_unused(config)
    params, step = load_params(config, workdir, data_mesh())
    rows = sample_each(configs, params, choose_labels(config, label_names(config, workdir), np.arange(columns)))
    first, first_row = rows[0]
    for name, row in rows:
        difference = grey_levels_apart(row, first_row)
        logger.info("%-24s differs from %s by %.1f grey levels (root mean square)", name, first, difference)
    return write(config, workdir, params, step, np.concatenate([row for _, row in rows]), captioned_rows(rows))


def sample_each(
    configs: Sequence[Config], params: PyTree, labels: Labels | None, conditions: ConditionPixels | None = None
) -> list[tuple[str, Pixels]]:
    """The name of each configuration's sampler and its images."""
    mesh, rows = data_mesh(), []
    for one in configs:
        name = f"{one.sample.sampler}-{len(build_pairs(one))}steps"
        rows.append((name, sample_pixels(one, compile_sampler(one, mesh), params, labels, mesh, conditions)))
    return rows


def _refuse_unused(config: Config) -> None:
    """Raises UserError for settings of a sampler that is not compared, which would have no effect."""
    settings, default = config.sample, Sample()
    for name in sampler_fields(settings):
        if getattr(settings, name) != getattr(default, name):
            raise UserError(
                f"sample.{name}={getattr(settings, name)} is for sample.sampler={settings.sampler!r}, which is not in "
                f"sample.compare={settings.compare!r}; add it there, or write sampler:steps."
            )


TASKS: dict[str, Callable[[Config, AnyPath], AnyPath]] = {
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "inpaint": inpaint_images,
    "vary": vary,
    "compare": compare,
}


def run_edit(
    config: Config, workdir: AnyPath, params: PyTree, work: Work, images: Images, label: str = "Sampling"
) -> Float[np.ndarray, "batch height width channels"]:
    """Applies a Work to images in batches, with progress; labels are used only if sample.label is set."""
    mesh, count = data_mesh(), len(images)
    logger.info("%s %d images", label, count)
    batches = run_batches(
        compile_work(config, mesh, work),
        params,
        config.sample.seed,
        batches_of(config, mesh, count),
        labels=labels_if_set(config, workdir, count),
        inputs=images,
        progress_label=label,
    )
    return np.concatenate([outputs[:kept] for outputs, kept in batches])


def write(
    config: Config,
    workdir: AnyPath,
    params: PyTree,
    step: int,
    pixels: Pixels,
    picture: Picture,
    *,
    inputs: bytes = b"",
    frames: Sequence[np.ndarray] = (),
) -> AnyPath:
    """Writes the picture, the single files and the array to <workdir>/samples/<name>/, which it returns.

    inputs: the bytes of the original images and the mask, which the name's checksum covers; frames: those of a GIF.
    """
    name = sample_name(with_guide_step(config, params), step, len(pixels), inputs)
    target = output_folder(config, workdir) / "samples" / name
    if jax.process_index() == 0:
        with unfinished_folder(target, wait=True), staged(target, folder=True) as out:
            save_png(picture, out / "grid.png")
            if frames:
                save_gif(frames, out / "interpolation.gif", hold=80)
            write_images(out, np.asarray(pixels))
        logger.info("Wrote %s", target)
    return target
