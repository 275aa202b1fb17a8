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
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from ddpm_jax.builders import (
    build_guidance,
    build_inpainting,
    build_pairs,
    build_sampler,
    build_schedule,
    build_unet,
)
from ddpm_jax.config import Config
from ddpm_jax.config.sections import Sample
from ddpm_jax.data.decode import UNREADABLE, CropError, Decoding, decode, decoding_of, size_of
from ddpm_jax.data.sources.folder import SUFFIXES
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.generation.draw import batch_size, compile_sampler, draw_all, load_params
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import building_of, publish, write_images
from ddpm_jax.generation.requests import OF_THE_SAMPLER, names_in, sample_name, with_sampler
from ddpm_jax.network.bind import bind
from ddpm_jax.reporting.images import Picture, captioned_rows, grey_levels_apart, grid, save_gif, save_png
from ddpm_jax.reporting.pixel_file import PixelFile
from ddpm_jax.runtime.devices import along_batch, data_mesh, replicated
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.editing import PixelMask, invert, noised, slerp
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.shapes import ImageKeys, Images, Pixels

Edit = Callable[[Denoiser, Images, ImageKeys], Images]
COMPARED_IMAGES = 8
"""Columns of a comparison."""
COLUMNS = 10
"""Originals in a row of a picture."""

logger = logging.getLogger(__name__)


def reconstruct(config: Config, workdir: Path) -> Path:
    """Inverts images and draws them again; says how near they come."""
    originals = read_images(config)
    params, step = load_params(config, workdir, data_mesh())
    x_T = run_edit(config, workdir, params, inverted(config), from_pixels(originals))
    drawn = to_pixels(run_edit(config, workdir, params, turned_back(config), x_T))
    errors = np.mean((drawn.astype(float) - originals) ** 2, axis=(1, 2, 3))
    decibels = 10 * np.log10(255**2 / np.maximum(errors, 1e-12))
    logger.info("PSNR %.2f dB, mean over %d images", decibels.mean(), len(drawn))
    return write(config, workdir, step, drawn, paired_grid(originals, drawn), given=originals.tobytes())


def interpolate(config: Config, workdir: Path) -> Path:
    """Draws the way from one image or seed to another."""
    settings = config.sample
    ends = read_images(config) if settings.images else None
    if ends is not None and len(ends) != 2:
        raise UserError(f"sample.images={settings.images!r} names {len(ends)} images; interpolate needs two.")
    params, step = load_params(config, workdir, data_mesh())
    if ends is None:
        shape = (config.data.image_size, config.data.image_size, config.data.channels)
        seeds = (settings.seed, settings.other_seed)
        x_T = jnp.concatenate([draw_noise(image_keys(seed, np.zeros(1, int)), 0, shape) for seed in seeds])
    else:
        x_T = run_edit(config, workdir, params, inverted(config), from_pixels(ends))
    first, last = (jnp.repeat(end[None], settings.count, axis=0) for end in x_T)
    between = slerp(first, last, jnp.linspace(0.0, 1.0, settings.count))
    drawn = to_pixels(run_edit(config, workdir, params, turned_back(config), between))
    frames = [grid(image[None]) for image in [*drawn, *drawn[::-1]]]
    given = b"" if ends is None else ends.tobytes()
    picture = grid(drawn, columns=min(settings.count, COLUMNS))
    return write(config, workdir, step, drawn, picture, given=given, frames=frames)


def inverted(config: Config) -> Edit:
    """From x_0 to the x_T that `turned_back` makes x_0 of."""
    schedule, pairs = build_schedule(config), build_pairs(config)
    return lambda denoiser, x0, keys: invert(denoiser, schedule, x0, pairs).images


def turned_back(config: Config) -> Edit:
    """From x_T to x_0 by DDIM, without the threshold, whose doing inversion could not undo."""
    schedule, pairs = build_schedule(config), build_pairs(config)
    return lambda denoiser, x_T, keys: ddim(denoiser, schedule, x_T, keys, pairs).images


def inpaint_images(config: Config, workdir: Path) -> Path:
    """Draws what the mask leaves open; the other pixels stay as they are."""
    originals, mask = read_images(config), read_mask(config)
    chosen = originals[in_turn(config, len(originals))]
    paint = build_inpainting(config)
    params, step = load_params(config, workdir, data_mesh())

    def edit(denoiser: Denoiser, x0: Images, keys: ImageKeys) -> Images:
        return paint(denoiser, x0, keys, mask)

    painted = to_pixels(run_edit(config, workdir, params, edit, from_pixels(chosen)))
    drawn = np.where(mask > 0.5, painted, chosen)
    picture = paired_grid(np.where(mask > 0.5, np.uint8(127), chosen), drawn)
    return write(config, workdir, step, drawn, picture, given=originals.tobytes() + mask.tobytes())


def vary(config: Config, workdir: Path) -> Path:
    """Draws variations of images: the less of them is left, the greater sample.strength is."""
    settings, schedule, sampler = config.sample, build_schedule(config), build_sampler(config)
    originals = read_images(config)
    chosen = originals[in_turn(config, len(originals))]
    pairs = build_pairs(config)
    highest, lowest = round(settings.strength * schedule.steps), int(pairs[-1, 0])
    if highest < lowest:
        raise UserError(
            f"sample.strength={settings.strength} starts at step {highest}, below {lowest}, the lowest that is visited;"
            " raise it, or visit lower steps."
        )
    pairs = pairs[pairs[:, 0] <= highest]

    def edit(denoiser: Denoiser, x0: Images, keys: ImageKeys) -> Images:
        return sampler(denoiser, schedule, noised(schedule, x0, int(pairs[0, 0]), keys), keys, pairs).images

    params, step = load_params(config, workdir, data_mesh())
    drawn = to_pixels(run_edit(config, workdir, params, edit, from_pixels(chosen)))
    return write(config, workdir, step, drawn, paired_grid(chosen, drawn), given=originals.tobytes())


def in_turn(config: Config, originals: int) -> np.ndarray:
    """Which original each of sample.count images is made from."""
    count = config.sample.count
    if count < originals:
        raise UserError(
            f"sample.count={count} leaves out some of the {originals} images that sample.images names; raise it, or "
            "name fewer."
        )
    return np.arange(count) % originals


def compare(config: Config, workdir: Path) -> Path:
    """Draws the same few images with several samplers, a row each, from the same noise."""
    columns = min(config.sample.count, COMPARED_IMAGES)
    field = "sample.compare"
    kinds = [with_sampler(config, name, columns, field) for name in names_in(config.sample.compare, field)]
    if config.sample.sampler not in {one.sample.sampler for one in kinds}:
        _refuse_unused(config)
    params, step = load_params(config, workdir, data_mesh())
    rows = draw_each(kinds, params, label_names(config, workdir))
    first, first_row = rows[0]
    for name, row in rows:
        apart = grey_levels_apart(row, first_row)
        logger.info("%-24s differs from %s by %.1f grey levels (root mean square)", name, first, apart)
    return write(config, workdir, step, np.concatenate([row for _, row in rows]), captioned_rows(rows))


def draw_each(kinds: Sequence[Config], params: PyTree, names: Sequence[str]) -> list[tuple[str, Pixels]]:
    """The same images by several samplers, with the name of each; names: of the labels."""
    mesh, rows = data_mesh(), []
    for one in kinds:
        labels = choose_labels(one, names, np.arange(one.sample.count))
        batches = draw_all(one, compile_sampler(one, mesh), params, labels, mesh, quiet=True)
        name = f"{one.sample.sampler}-{len(build_pairs(one))}steps"
        rows.append((name, np.concatenate([to_pixels(samples.images) for samples in batches])))
    return rows


def _refuse_unused(config: Config) -> None:
    """Settings of a sampler that is not compared would have no effect."""
    settings, default = config.sample, Sample()
    for name in OF_THE_SAMPLER:
        if getattr(settings, name) != getattr(default, name):
            raise UserError(
                f"sample.{name}={getattr(settings, name)} is for sample.sampler={settings.sampler!r}, which "
                f"sample.compare={settings.compare!r} does not name; compare it too, or write sampler:steps."
            )


TASKS: dict[str, Callable[[Config, Path], Path]] = {
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "inpaint": inpaint_images,
    "vary": vary,
    "compare": compare,
}


def run_edit(
    config: Config, workdir: Path, params: PyTree, edit: Edit, images: Images
) -> Float[Array | np.ndarray, "batch height width channels"]:
    """Does an edit to images, a batch at a time over all devices; image i has key (seed, i)."""
    mesh, count = data_mesh(), len(images)
    sized = dataclasses.replace(config, sample=dataclasses.replace(config.sample, count=count))
    unet, schedule, kind = build_unet(config), build_schedule(config), config.diffusion.prediction
    guidance, size = build_guidance(config), batch_size(sized, mesh)

    def work(params: PyTree, seed: Array, indices: Array, labels: Array | None, images: Array) -> Images:
        indices, labels, images = jax.lax.with_sharding_constraint((indices, labels, images), along_batch(mesh))
        denoiser = bind(unet, params, schedule, kind, labels, guidance)
        return edit(denoiser, images, image_keys(seed, indices))

    work = jax.jit(work, out_shardings=replicated(mesh))
    done, told = [], config.sample.label is not None
    names = label_names(config, workdir) if told else ()
    for start in range(0, count, size):
        indices = np.arange(start, start + size)
        # Without a label the model is asked of no class in particular, since the images may be of any.
        labels = choose_labels(config, names, indices) if told else None
        batch = images[np.minimum(indices, count - 1)]
        done.append(jax.device_get(work(params, config.sample.seed, indices, labels, batch))[: count - start])
    return np.concatenate(done)


def read_images(config: Config) -> Pixels:
    """The images of sample.images, cropped and resized as the data were: uint8 [N, size, size, channels]."""
    if not config.sample.images:
        raise UserError(
            f"sample.task={config.sample.task!r} works on images; name some by sample.images, a folder or files "
            "joined by commas."
        )
    files: list[Path] = []
    for name in names_in(config.sample.images, "sample.images"):
        path = Path(name).expanduser()
        files += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise UserError(f"sample.images={config.sample.images!r} holds no image; expected PNG, JPEG or the like.")
    return np.stack([_read(path, decoding_of(config.data), "sample.images") for path in files])


def read_mask(config: Config) -> PixelMask:
    """sample.mask, 1 where it is white."""
    if not config.sample.mask:
        raise UserError("sample.task='inpaint' needs sample.mask, an image that is white where pixels shall be drawn.")
    how = dataclasses.replace(decoding_of(config.data), channels=1, resize="box")  # Cropped as its image is.
    mask = _read(Path(config.sample.mask).expanduser(), how, "sample.mask")
    mask = (mask > 127).astype(np.float32)
    if mask.min() == mask.max():
        colour = "white" if mask.max() else "black"
        raise UserError(
            f"sample.mask={config.sample.mask} is {colour} throughout, where the images are; paint white what shall be "
            "drawn, black what shall stay."
        )
    return mask


def _read(path: Path, how: Decoding, field: str) -> UInt8[np.ndarray, "height width channels"]:
    """An image as the data's are cropped and resized, or as it is where it has their size already."""
    try:
        raw = path.read_bytes()
        if size_of(raw) == (how.image_size, how.image_size):
            how = dataclasses.replace(how, crop=())
        return decode(raw, how)
    except CropError as error:
        raise UserError(f"{field}: {path}: {error}; give a larger image.") from error
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{field}: {path} cannot be read ({reason}); give a PNG, JPEG or the like.") from error


def paired_grid(originals: Pixels, drawn: Pixels) -> Picture:
    """Rows of originals, each above the row of what was made of them."""
    columns = min(len(drawn), COLUMNS)
    padding = [(0, -len(drawn) % columns), (0, 0), (0, 0), (0, 0)]
    pair = (np.asarray(originals), np.asarray(drawn))
    rows = [np.pad(images, padding, constant_values=255).reshape(-1, columns, *images.shape[1:]) for images in pair]
    return grid(np.stack(rows, axis=1).reshape(-1, *drawn.shape[1:]), columns=columns)


def write(
    config: Config,
    workdir: Path,
    step: int,
    pixels: Pixels,
    picture: Picture,
    *,
    given: bytes = b"",
    frames: Sequence[np.ndarray] = (),
) -> Path:
    """The picture, the single files and the array, in <workdir>/samples/<name>/, which it returns.

    given: the pixels of the images and of the mask that they were made from; frames: of a GIF.
    """
    pixels = np.asarray(pixels)
    target = workdir / "samples" / sample_name(config, step, len(pixels), given)
    if jax.process_index() == 0:
        with building_of(target, wait=True) as building:
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            save_png(picture, building / "grid.png")
            if frames:
                save_gif(frames, building / "interpolation.gif", hold=80)
            store = PixelFile(building / "pixels.u8", pixels.shape[1:])
            store.append(pixels)
            write_images(building, store)
            publish(building, target)
    return target
