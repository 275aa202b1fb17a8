"""Generated images on disk: written batch by batch, resumed after an interruption, then published under their name."""

import dataclasses
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from ddpm_jax.config import Config
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.generation.draw import batch_size, compile_sampler, draw_all
from ddpm_jax.reporting.images import evenly_spaced, grid, save_gif, save_png, strip
from ddpm_jax.reporting.pixel_file import PixelFile
from ddpm_jax.runtime.devices import agreed_by_all, data_mesh
from ddpm_jax.runtime.files import staged
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped
from ddpm_jax.sampling.trajectory import NO_FRAMES, FrameSpec, Samples
from ddpm_jax.shapes import Labels, Pixels

GRID_IMAGES = 100
STRIP_IMAGES = 8
GIF_IMAGES = 36
logger = logging.getLogger(__name__)


def draw_to_disk(
    config: Config, params: PyTree, labels: Labels | None, building: Path, watch: FrameSpec = NO_FRAMES
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
        with staged(building / "frames.npy") as partial, partial.open("wb") as file:
            np.save(file, to_pixels(samples.frames))
    store.append(to_pixels(samples.images))


@contextmanager
def building_of(target: Path, *, wait: bool = False) -> Iterator[Path]:
    """The hidden folder that a target is built in, for the one process that writes.

    Where another job has it, this one waits for it, or refuses, before anything is drawn.
    """
    refusal = None if wait else f"Another job is drawing {target}; wait for it, or set another sample.seed."
    with ExitStack() as held:
        if jax.process_index() == 0:
            held.enter_context(exclusive_lock(target.with_name(f".{target.name}.lock"), refusal))
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


def shown_grid(config: Config, pixels: Pixels) -> np.ndarray:
    """The first images as a picture; where they take the classes in turn, and often enough, a row for each class."""
    classes = config.model.classes
    if not classes or config.sample.label is not None or len(pixels) < 2 * classes:
        return grid(pixels)
    columns = -(-len(pixels) // classes)
    blank = np.full((columns * classes - len(pixels), *pixels.shape[1:]), 255, np.uint8)
    in_turn = np.arange(columns * classes).reshape(columns, classes).T.ravel()
    return grid(np.concatenate([pixels, blank])[in_turn], columns=columns)


def draw_pictures(folder: Path, config: Config, store: PixelFile) -> None:
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
