"""--mode=sample: from a run's checkpoint to images, pictures and files.

    seed, i -> key -> x_T -> sampler (one scan over the Denoiser) -> uint8 -> grid, strip, GIF, PNG files, npz

`run.py` offers the same to Python.
"""

import dataclasses
import json
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from ddpm_jax.assemble import build_guidance, build_pairs, build_sampler, build_schedule, build_unet, shapes_of
from ddpm_jax.config import Config, checked
from ddpm_jax.config.checks import TASK_FIELDS
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.files import replacing
from ddpm_jax.locks import alone
from ddpm_jax.network.bind import bind
from ddpm_jax.reporting.images import evenly_spaced, grid, save_gif, save_png, strip, to_pixels
from ddpm_jax.reporting.pixel_file import PixelFile
from ddpm_jax.reporting.progress import progress
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.sampling.trajectory import UNWATCHED, Samples, Watch
from ddpm_jax.shapes import Labels, Pixels
from ddpm_jax.stopping import Stopped
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.sharding import agreed_by_all, along_batch, data_mesh, replicated
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint, read_label_names

LONGEST_NAME = 180
"""Characters of a folder's name, of which file systems take about 250."""
GRID_IMAGES = 100
STRIP_IMAGES = 8
GIF_IMAGES = 36
NAMED = (
    *("order", "eta", "spacing", "final", "variance", "threshold", "percentile", "percentile_max", "keep_eps"),
    *("label", "guidance", "guidance_interval", "guidance_rescale", "ema"),
    *TASK_FIELDS,
)
"""Fields that a folder's name tells where they are not the default, besides those that it always tells."""
OF_THE_SAMPLER = ("steps", "timesteps", "spacing", "order", "eta", "variance", "keep_eps")
"""Fields that mean something else, or nothing, with another sampler."""
Draw = Callable[[PyTree, int, Int[np.ndarray, "batch"], Labels | None], Samples]

logger = logging.getLogger(__name__)


def sample(config: Config, workdir: Path) -> Path:
    """Draws sample.count images and writes them to <workdir>/samples/<name>/, which it returns.

    Images go to disk batch by batch; the same call after an interruption goes on where it stopped.
    """
    settings = config.sample
    labels = choose_labels(config, label_names(config, workdir), np.arange(settings.count))
    params, step = load_params(config, workdir, data_mesh())
    target = workdir / "samples" / sample_name(config, step, settings.count)
    logger.info("Sampling %d images, %s, from step %d", settings.count, target.name.split("-", 1)[1], step)
    watch = Watch(max(settings.strip, settings.gif), max(STRIP_IMAGES, GIF_IMAGES), settings.frames == "x0")
    with building_of(target) as building:
        store = draw_to_disk(config, params, labels, building, watch)
        if store:
            _draw_pictures(building, config, store)
            write_images(building, store)
            for name in ("frames.npy", "call.json"):
                (building / name).unlink()
            publish(building, target)
    return target


def draw_to_disk(
    config: Config, params: PyTree, labels: Labels | None, building: Path, watch: Watch = UNWATCHED
) -> PixelFile | None:
    """Draws sample.count images into a folder, or what an interrupted call left out; None on other processes."""
    mesh = data_mesh()
    draw = compile_sampler(config, mesh, watch)
    store = start_store(building, config, params, labels)
    done = agreed_by_all(store.count // batch_size(config, mesh) * batch_size(config, mesh) if store else 0)
    if store:
        store.keep(done)
    if done:
        logger.info("Going on after %d images that were drawn before", done)
    try:
        for samples in draw_all(config, draw, params, labels, mesh, start=done):
            if not np.isfinite(samples.images).all():
                raise UserError(
                    "The model draws numbers that are not finite; take an earlier checkpoint (sample.checkpoint)."
                )
            if store:
                keep_samples(samples, store, building)
    except Stopped:
        if store:
            logger.info("%d of %d images are on disk; the same command goes on.", store.count, config.sample.count)
        raise
    return store


def keep_samples(samples: Samples, store: PixelFile, building: Path) -> None:
    """Adds a batch to what is on disk."""
    if not store.count:
        # Whole or not at all, since a call that goes on later relies on them.
        with replacing(building / "frames.npy") as unfinished, unfinished.open("wb") as file:
            np.save(file, to_pixels(samples.frames))
    store.append(to_pixels(samples.images))


@contextmanager
def building_of(target: Path, *, wait: bool = False) -> Iterator[Path]:
    """The hidden folder that a target is built in, for the one process that writes.

    Where another job has it, this one waits for it, or refuses, before anything is drawn.
    """

    def busy() -> None:
        if not wait:
            raise UserError(f"Another job is drawing {target}; wait for it, or set another sample.seed.")
        logger.info("Another job is writing %s; waiting for it", target)

    with ExitStack() as held:
        if jax.process_index() == 0:
            held.enter_context(alone(target.with_name(f".{target.name}.lock"), busy))
        yield target.with_name(f".{target.name}.building")


def start_store(building: Path, config: Config, params: PyTree, labels: Labels | None) -> PixelFile | None:
    """The images of a call that was broken off, or an empty file for them; None on processes that do not write.

    Only a call for the same images from the same parameters and labels goes on with them.
    """
    if jax.process_index():
        return None
    wanted = {**dataclasses.asdict(config.sample), "batch_size": None, "inputs": checksum((params, labels))}
    call = json.dumps(wanted, sort_keys=True)
    if not (building / "call.json").is_file() or (building / "call.json").read_text() != call:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        (building / "call.json").write_text(call)
    data = config.data
    store = PixelFile(building / "pixels.u8", (data.image_size, data.image_size, data.channels))
    if not (building / "frames.npy").is_file():
        store.keep(0)
    return store


def checksum(params: PyTree) -> int:
    """CRC-32 of all numbers in a tree, such as parameters."""
    total = 0
    for leaf in jax.tree.leaves(params):
        total = zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).tobytes(), total)
    return total


def load_params(config: Config, workdir: Path, mesh: Mesh) -> tuple[PyTree, int]:
    """The parameters that sample.ema and sample.checkpoint name, on every device, and the step they are from."""
    shapes = shapes_of(config)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)
    with Checkpoints(checkpoint_folder(workdir)) as checkpoints:
        found = checkpoints.restore_params(like, ema=config.sample.ema, step=config.sample.checkpoint)
    if found is None:
        raise no_checkpoint(workdir)
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


def label_names(config: Config, workdir: Path) -> tuple[str, ...]:
    """The names of the classes or attributes that a run's model is told."""
    return read_label_names(workdir) if config.model.classes or config.model.attributes else ()


def choose_labels(config: Config, names: Sequence[str], indices: Int[np.ndarray, "batch"]) -> Labels | None:
    """The labels of the images at `indices`: sample.label for all, or each class in turn; None if unconditional.

    names: of the classes or attributes.
    """
    width = config.model.classes or config.model.attributes
    label = config.sample.label
    if not width:
        return None
    if label is None:
        if config.model.classes:
            return (indices % width).astype(np.int32)
        return np.zeros((len(indices), width), np.uint8)
    numbers = [_label_number(name.strip(), names, width) for name in label.split(",")]
    if config.model.attributes:
        return np.tile(np.isin(np.arange(width), numbers).astype(np.uint8), (len(indices), 1))
    if len(numbers) > 1:
        raise UserError(
            f"sample.label={label!r} names {len(numbers)} classes; expected one, as an image has one class."
        )
    return np.full(len(indices), numbers[0], np.int32)


def _label_number(name: str, names: Sequence[str], width: int) -> int:
    if name in names:
        return names.index(name)
    # Among classes that have numbers for names, another number would be a mistake rather than a place in the list.
    if name.isdecimal() and int(name) < width and not any(known.isdecimal() for known in names):
        return int(name)
    raise UserError(f"sample.label={name!r} is not a label of this run; {nearest(name, names)}")


def only_images(settings: Sample) -> Sample:
    """The same settings for new images, whatever task they were for."""
    of_tasks = {name: getattr(Sample(), name) for name in ("task", *TASK_FIELDS)}
    return dataclasses.replace(settings, **of_tasks)


def for_sampler(settings: Sample, sampler: str) -> Sample:
    """The same settings with another sampler, to whose defaults the fields fall that are a sampler's own."""
    if sampler == settings.sampler:
        return settings
    own = {name: getattr(Sample(), name) for name in OF_THE_SAMPLER}
    return dataclasses.replace(settings, sampler=sampler, **own)


def names_in(text: str, field: str) -> list[str]:
    """The names in a field, which commas part; none may be empty."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{field}={text!r} holds an empty name; leave out the comma.")
    return names


def sampler_and_steps(name: str, field: str) -> tuple[str, int | None]:
    """("ddim", 20) for "ddim:20", ("ddim", None) for "ddim"; field: where it stands."""
    sampler, _, steps = name.partition(":")
    if steps and not steps.isdecimal():
        raise UserError(f"{field} names {name!r}; expected a sampler, or sampler:steps.")
    return sampler, int(steps) if steps else None


def with_sampler(config: Config, name: str, count: int, field: str) -> Config:
    """The configuration with another sampler, given as "ddim" or with its steps as "ddim:20"; field: it stands in."""
    sampler, steps = sampler_and_steps(name, field)
    settings = dataclasses.replace(for_sampler(config.sample, sampler), count=count)
    if steps:
        settings = dataclasses.replace(settings, steps=steps, timesteps=Sample().timesteps)
    try:
        one = checked(dataclasses.replace(config, sample=settings))
        build_pairs(one)  # Raises now what would be found out after others were drawn.
    except UserError as error:
        raise UserError(f"{field} names {name!r}: {error}") from error
    return one


def sample_name(config: Config, step: int, count: int, given: bytes = b"") -> str:
    """A folder name that tells apart any two calls that could differ in a pixel.

    count: of the images that it will hold; given: the pixels of the images that they are made from.
    """
    s, default = config.sample, Sample()
    # A comparison heeds these settings in the row of this sampler, if it has one.
    of_the_sampler = s.task != "compare" or any(getattr(s, name) != getattr(default, name) for name in OF_THE_SAMPLER)
    sampler = [s.sampler, f"{len(build_pairs(config))}steps"] if of_the_sampler else []
    task = [] if s.task == "generate" else [s.task]
    parts = [str(step), *task, *sampler, f"seed{s.seed}", f"n{count}"]
    if s.timesteps:  # A list may be longer than a file name.
        parts.append(f"timesteps-{zlib.crc32(repr(s.timesteps).encode()):08x}")
    heeded = (name for name in NAMED if s.task in TASK_FIELDS.get(name, (s.task,)))
    parts += [f"{name}-{getattr(s, name)}" for name in heeded if getattr(s, name) != getattr(default, name)]
    name = "-".join([*parts, *([f"of-{zlib.crc32(given):08x}"] if given else [])])
    plain = re.sub(r"[^\w.,+-]", "_", name)
    if plain == name and len(name) <= LONGEST_NAME:
        return name
    return f"{plain[:LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"


def shown_grid(config: Config, pixels: Pixels) -> np.ndarray:
    """The first images as a picture; where they take the classes in turn, and often enough, a row for each class."""
    classes = config.model.classes
    if not classes or config.sample.label is not None or len(pixels) < 2 * classes:
        return grid(pixels)
    columns = -(-len(pixels) // classes)
    blank = np.full((columns * classes - len(pixels), *pixels.shape[1:]), 255, np.uint8)
    in_turn = np.arange(columns * classes).reshape(columns, classes).T.ravel()
    return grid(np.concatenate([pixels, blank])[in_turn], columns=columns)


def _draw_pictures(folder: Path, config: Config, store: PixelFile) -> None:
    """Grid, strip and GIF of a finished call."""
    pixels, frames = store.images(), np.load(folder / "frames.npy", allow_pickle=False)
    save_png(shown_grid(config, pixels[:GRID_IMAGES]), folder / "grid.png")
    if config.sample.strip:
        save_png(strip(frames[:, :STRIP_IMAGES], config.sample.strip), folder / "strip.png")
    if config.sample.gif:
        shown = evenly_spaced(frames[:, :GIF_IMAGES], config.sample.gif)
        save_gif([grid(frame) for frame in shown], folder / "denoising.gif")


def write_images(folder: Path, store: PixelFile) -> None:
    """Single files and one array of the images in a store, which is deleted."""
    pixels = store.images()
    (folder / "images").mkdir(exist_ok=True)
    for i, image in enumerate(progress(pixels, "Writing PNG files", total=len(pixels))):
        save_png(image, folder / "images" / f"{i:06d}.png")
    store.save_npz(folder / "samples.npz")
    store.delete()


def publish(building: Path, target: Path) -> None:
    """Gives a finished folder its name, in place of what an earlier call of that name wrote."""
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    logger.info("Wrote %s", target)
