"""--mode=sample --config.sample.task=…: work on given images, or on noise; sampling/editing.py has the mathematics.

reconstruct    images -> inverted by DDIM -> drawn again: originals above, reconstructions below
interpolate    from one image, or the noise of one seed, to another in sample.count steps
inpaint        new pixels where sample.mask is white
vary           images, noised to sample.strength and drawn from there
compare        the same noise through several samplers, a row each
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, UInt8

from ddpm_jax.assemble import build_guidance, build_pairs, build_sampler, build_schedule, build_unet, sampling_steps
from ddpm_jax.config import Config, checked
from ddpm_jax.data.decode import UNREADABLE, Decoding, decode, decoding_of
from ddpm_jax.data.sources.folder import SUFFIXES
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.errors import UserError
from ddpm_jax.network.bind import bind
from ddpm_jax.reporting.images import caption, grid, save_gif, save_png, to_pixels
from ddpm_jax.sample import choose_labels, compile_sampler, draw_all, load_params, sample_name
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.editing import inpaint, invert, noised, slerp
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.shapes import ImageKeys, Images
from ddpm_jax.training.sharding import data_mesh
from ddpm_jax.training.step import from_pixels

Pixels = UInt8[np.ndarray, "batch height width channels"]
Edit = Callable[[Denoiser, Images, ImageKeys], Images]
COMPARED = 8
"""Columns of a comparison."""

logger = logging.getLogger(__name__)


def reconstruct(config: Config, workdir: Path) -> Path:
    """Inverts images and draws them again; says how near they come."""
    originals = read_images(config)
    schedule, pairs = build_schedule(config), build_pairs(config)

    def edit(denoiser: Denoiser, x0: Images, keys: ImageKeys) -> Images:
        return ddim(denoiser, schedule, invert(denoiser, schedule, x0, pairs).images, keys, pairs).images

    params, step = load_params(config, workdir, data_mesh())
    drawn = run_edit(config, workdir, params, edit, originals)
    error = np.mean((drawn.astype(float) - originals) ** 2)
    logger.info("PSNR %.2f dB, mean over %d images", 10 * np.log10(255**2 / max(error, 1e-12)), len(drawn))
    return write(config, workdir, step, drawn, grid(np.concatenate([originals, drawn]), columns=len(drawn)))


def interpolate(config: Config, workdir: Path) -> Path:
    """Draws the way from one image or seed to another."""
    settings, schedule, pairs = config.sample, build_schedule(config), build_pairs(config)
    ends = read_images(config) if settings.images else None
    if ends is not None and len(ends) != 2:
        raise UserError(f"sample.images={settings.images!r} names {len(ends)} images; interpolate needs two.")
    weights, seeds = jnp.linspace(0.0, 1.0, settings.count), (settings.seed, settings.other_seed)
    shape = (config.data.image_size, config.data.image_size, config.data.channels)

    def edit(denoiser: Denoiser, x0: Images, keys: ImageKeys) -> Images:
        if ends is None:
            first, last = (draw_noise(image_keys(seed, np.zeros(settings.count, int)), 0, shape) for seed in seeds)
        else:  # Each end as often as there are labels.
            copies = (from_pixels(end[None]).repeat(settings.count, axis=0) for end in ends)
            first, last = (invert(denoiser, schedule, x0, pairs).images for x0 in copies)
        return ddim(denoiser, schedule, slerp(first, last, weights), keys, pairs).images

    params, step = load_params(config, workdir, data_mesh())
    drawn = run_edit(config, workdir, params, edit, np.zeros((settings.count, *shape), np.uint8), whole=True)
    folder = write(config, workdir, step, drawn, grid(drawn, columns=settings.count))
    save_gif([grid(image[None]) for image in [*drawn, *drawn[::-1]]], folder / "interpolation.gif", hold=80)
    return folder


def inpaint_images(config: Config, workdir: Path) -> Path:
    """Draws what the mask leaves open; the other pixels stay as they are."""
    settings, schedule, pairs = config.sample, build_schedule(config), build_pairs(config)
    originals, mask = read_images(config), read_mask(config)
    chosen = originals[np.arange(settings.count) % len(originals)]

    def edit(denoiser: Denoiser, x0: Images, keys: ImageKeys) -> Images:
        x_T = draw_noise(keys, 0, x0.shape[1:])
        every = jnp.broadcast_to(jnp.asarray(mask), (len(x0), *mask.shape))
        jump, repeats = settings.jump, settings.resamples
        return inpaint(denoiser, schedule, x_T, keys, pairs, x0, every, jump=jump, repeats=repeats).images

    params, step = load_params(config, workdir, data_mesh())
    drawn = np.where(mask > 0.5, run_edit(config, workdir, params, edit, chosen), chosen)
    open_ = np.where(mask > 0.5, np.uint8(127), originals)
    return write(config, workdir, step, drawn, grid(np.concatenate([open_, drawn])))


def vary(config: Config, workdir: Path) -> Path:
    """Draws variations of images: the less of them is left, the greater sample.strength is."""
    settings, schedule, sampler = config.sample, build_schedule(config), build_sampler(config)
    originals = read_images(config)
    pairs = build_pairs(config)
    pairs = pairs[pairs[:, 0] <= max(round(settings.strength * schedule.steps), int(pairs[-1, 0]))]

    def edit(denoiser: Denoiser, x0: Images, keys: ImageKeys) -> Images:
        return sampler(denoiser, schedule, noised(schedule, x0, int(pairs[0, 0]), keys), keys, pairs).images

    params, step = load_params(config, workdir, data_mesh())
    drawn = run_edit(config, workdir, params, edit, originals[np.arange(settings.count) % len(originals)])
    return write(config, workdir, step, drawn, grid(np.concatenate([originals, drawn])))


def compare(config: Config, workdir: Path) -> Path:
    """Draws the same few images with several samplers, a row each, from the same noise."""
    mesh, rows, names = data_mesh(), [], []
    params, step = load_params(config, workdir, mesh)
    for name in config.sample.compare.split(","):
        sampler, _, steps = name.strip().partition(":")
        if steps and not steps.isdecimal():
            raise UserError(f"sample.compare names {name.strip()!r}; expected a sampler, or sampler:steps.")
        settings = dataclasses.replace(
            config.sample,
            sampler=sampler,
            steps=int(steps) if steps else None,
            count=min(config.sample.count, COMPARED),
        )
        one = checked(dataclasses.replace(config, sample=settings))
        labels = choose_labels(one, workdir, np.arange(settings.count))
        batches = draw_all(one, compile_sampler(one, mesh), params, labels, mesh, quiet=True)
        rows.append(np.concatenate([to_pixels(samples.images) for samples in batches]))
        names.append(f"{sampler}-{sampling_steps(one)}steps")
        difference = np.sqrt(np.mean((rows[-1].astype(float) - rows[0]) ** 2))
        logger.info("%-24s differs from %s by %.1f grey levels (root mean square)", names[-1], names[0], difference)
    captioned = [caption(grid(row, columns=len(row)), name) for row, name in zip(rows, names, strict=True)]
    return write(config, workdir, step, np.concatenate(rows), np.concatenate(captioned))


TASKS: dict[str, Callable[[Config, Path], Path]] = {
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "inpaint": inpaint_images,
    "vary": vary,
    "compare": compare,
}


def run_edit(
    config: Config, workdir: Path, params: PyTree, edit: Edit, pixels: Pixels, *, whole: bool = False
) -> Pixels:
    """Does an edit to images, a batch at a time, or all at once if they belong together; image i has key (seed, i)."""
    unet, schedule, kind = build_unet(config), build_schedule(config), config.diffusion.prediction
    guidance, size = build_guidance(config), len(pixels) if whole else config.sample.batch_size

    @jax.jit
    def work(params, seed, indices, labels, x0):
        return edit(bind(unet, params, schedule, kind, labels, guidance), x0, image_keys(seed, indices))

    drawn = []
    for start in range(0, len(pixels), size):
        indices = np.arange(start, min(start + size, len(pixels)))
        # Without a label the model is asked of no class in particular, since the images may be of any.
        labels = choose_labels(config, workdir, indices) if config.sample.label is not None else None
        drawn.append(to_pixels(work(params, config.sample.seed, indices, labels, from_pixels(pixels[indices]))))
    return np.concatenate(drawn)


def read_images(config: Config) -> Pixels:
    """The images of sample.images, cropped and resized as the data were: uint8 [N, size, size, channels]."""
    if not config.sample.images:
        raise UserError(
            f"sample.task={config.sample.task!r} works on images; name some by sample.images, a folder or files "
            "joined by commas."
        )
    files: list[Path] = []
    for name in config.sample.images.split(","):
        path = Path(name.strip()).expanduser()
        files += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise UserError(f"sample.images={config.sample.images!r} holds no image; expected PNG, JPEG or the like.")
    return np.stack([_read(path, decoding_of(config.data), "sample.images") for path in files])


def read_mask(config: Config) -> np.ndarray:
    """sample.mask as float32 [size, size, 1], 1 where it is white."""
    if not config.sample.mask:
        raise UserError("sample.task='inpaint' needs sample.mask, an image that is white where pixels shall be drawn.")
    size = config.data.image_size
    mask = _read(Path(config.sample.mask).expanduser(), Decoding(size, 1, resize="box"), "sample.mask")
    mask = (mask > 127).astype(np.float32)
    if mask.min() == mask.max():
        raise UserError(f"sample.mask={config.sample.mask} is {'white' if mask.max() else 'black'} throughout.")
    return mask


def _read(path: Path, how: Decoding, field: str) -> UInt8[np.ndarray, "height width channels"]:
    try:
        return decode(path.read_bytes(), how)
    except UNREADABLE as error:
        raise UserError(f"{field}: {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def write(config: Config, workdir: Path, step: int, pixels: Pixels, picture: np.ndarray) -> Path:
    """The picture, the single files and the array, in <workdir>/samples/<name>/, which it returns."""
    target = workdir / "samples" / sample_name(config, step)
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "images").mkdir(parents=True)
    save_png(picture, building / "grid.png")
    for i, image in enumerate(pixels):
        save_png(image, building / "images" / f"{i:06d}.png")
    np.savez(building / "samples.npz", pixels)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    logger.info("Wrote %s", target)
    return target
