"""Generated images on disk: written batch by batch, resumed after an interruption, then published under their name.

samples/.<name>.unfinished/   request.json  pixels.u8  frames.npy: the images so far, and their request
samples/<name>/               grid.png  strip.png  denoising.gif  images/  samples.npz: only once complete;
                              with given conditions  conditions/  masks/  metrics.json; of a cascade  stages.png
"""

import dataclasses
import json
import logging
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ddpm_jax.builders import build_pairs
from ddpm_jax.config import Config
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.generation.draw import compile_sampler, sample_batches
from ddpm_jax.generation.pixel_file import PixelFile
from ddpm_jax.reporting.images import Picture, evenly_spaced, grid, save_gif, save_png, strip
from ddpm_jax.runtime.devices import agreed_by_all, data_mesh
from ddpm_jax.runtime.files import NO_ARRAYS, save_array, staged
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped
from ddpm_jax.runtime.urls import AnyPath, LocalFolder, local_folder, names_in
from ddpm_jax.sampling.loop import NO_FRAMES, FrameSpec, Samples
from ddpm_jax.shapes import ConditionPixels, Labels, Pixels

GRID_IMAGES = 100
STRIP_IMAGES = 8
GIF_IMAGES = 36
UPLOAD_UNFINISHED_EVERY_S = 600.0
"""Seconds between two uploads of the images so far, of which each uploads all."""
PICTURES = {"grid.png", "strip.png", "stages.png", "denoising.gif", "interpolation.gif"}
FOLDERS = {"images", "conditions", "masks"}
FILES = PICTURES | FOLDERS | {"samples.npz", "metrics.json"}
"""All that a folder of samples holds."""

logger = logging.getLogger(__name__)


@contextmanager
def unfinished_folder(target: AnyPath, *, wait: bool = False) -> Iterator[LocalFolder]:
    """The hidden folder that collects the images of a target, locked by the writing process.

    If another job holds the lock, this one waits for it, or is refused before it samples anything. For a target at a
    URL it is on this machine, and what an interrupted command leaves in it is uploaded.
    """
    refusal = None if wait else f"Another job is sampling {target}; wait for it, or set another sample.seed."
    with ExitStack() as held:
        if jax.process_index() == 0:
            held.enter_context(exclusive_lock(target.with_name(f".{target.name}.lock"), refusal))
            _refuse_files_of_the_user(target)
        unfinished = target.with_name(f".{target.name}.unfinished")
        fetch = "*" if jax.process_index() == 0 else None
        yield held.enter_context(local_folder(unfinished, fetch, every=UPLOAD_UNFINISHED_EVERY_S))


def _refuse_files_of_the_user(target: AnyPath) -> None:
    """A folder of samples is replaced as a whole, so nothing else may lie in it."""
    for name in names_in(target):
        if name not in FILES:
            raise UserError(f"{target} holds {name}, which sampling did not write and would remove; move it away.")


def sample_to_disk(
    config: Config,
    params: PyTree,
    labels: Labels | None,
    folder: Path,
    frames: FrameSpec = NO_FRAMES,
    conditions: ConditionPixels | None = None,
) -> PixelFile | None:
    """Samples sample.count images into a folder, or the rest after an interrupted call; None on other processes.

    conditions: one for each image, of config.condition_shape, for an image-to-image model.
    Raises UserError if the images are not finite.
    """
    mesh = data_mesh()
    sampler = compile_sampler(config, mesh, frames)
    store = _open_store(folder, config, (params, labels), conditions) if jax.process_index() == 0 else None
    done = agreed_by_all(store.count if store else 0)
    if done:
        logger.info("Resuming after %d images", done)
    options = {"conditions": conditions, "start": done, "progress_label": "Sampling"}
    batches = sample_batches(config, sampler, params, labels, mesh, **options)
    try:
        for samples in batches:
            if not np.isfinite(samples.images).all():
                raise UserError("The images are not finite; use an earlier checkpoint (sample.checkpoint).")
            if store:
                _append(samples, store, folder, config.data.depth)
    except Stopped:
        if store:
            logger.info("%d of %d images are on disk; the same command resumes.", store.count, config.sample.count)
        raise
    return store


def _open_store(folder: Path, config: Config, given: PyTree, conditions: ConditionPixels | None) -> PixelFile:
    """The images of an interrupted call with the same request and inputs; otherwise an empty file.

    given: the parameters and the labels.
    """
    inputs = {"inputs": checksum(given), "visited": checksum(build_pairs(config))}
    inputs |= {} if conditions is None else {"conditions": checksum(conditions)}
    wanted = {**dataclasses.asdict(config.sample), "batch_size": None, **inputs}
    del wanted["out"]  # The folder may move.
    request, path = json.dumps(wanted, sort_keys=True), folder / "request.json"
    if not path.is_file() or path.read_bytes() != request.encode():
        if path.is_file():
            logger.info("The images of an interrupted call with other settings or parameters are discarded")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path.write_text(request)
    store = PixelFile(folder / "pixels.u8", config.image_shape, config.data.pixel_type)
    if store.count and (store.count > config.sample.count or not _is_intact(folder / "frames.npy")):
        logger.warning("The images of an interrupted call are damaged; they are sampled again")
        store.truncate(0)
    return store


def _is_intact(file: Path) -> bool:
    try:
        np.load(file, allow_pickle=False)
    except (OSError, *NO_ARRAYS):
        return False
    return True


def _append(samples: Samples, store: PixelFile, folder: Path, depth: int) -> None:
    if not store.count:
        # Atomically, since a call that resumes relies on them.
        with staged(folder / "frames.npy") as unfinished:
            save_array(unfinished, to_pixels(samples.frames, depth))
    store.append(to_pixels(samples.images, depth))


def checksum(tree: PyTree) -> int:
    """CRC-32 of all arrays in a tree, such as parameters."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        # A view of the bytes: conditions may be a file that is larger than memory.
        flat = np.ascontiguousarray(jax.device_get(leaf)).reshape(-1)
        total = zlib.crc32(flat.view(np.uint8).data, total)
    return total


def publish_samples(config: Config, folder: Path, store: PixelFile, target: AnyPath) -> None:
    """Writes the pictures, PNG files and array of a finished call to the target, then removes the folder."""
    pixels, frames = store.images(), np.load(folder / "frames.npy", allow_pickle=False)
    with published(folder, target, pixels) as out:
        save_png(shown_grid(config, pixels[:GRID_IMAGES]), out / "grid.png")
        if config.sample.strip:
            save_png(strip(frames[:, :STRIP_IMAGES], config.sample.strip), out / "strip.png")
        if config.sample.gif:
            shown = evenly_spaced(frames[:, :GIF_IMAGES], config.sample.gif)
            save_gif([grid(frame) for frame in shown], out / "denoising.gif")


@contextmanager
def published(folder: Path, target: AnyPath, pixels: Pixels) -> Iterator[Path]:
    """Yields the folder that becomes the target, adds the images to it, and then removes the unfinished folder."""
    with staged(target, folder=True) as out:
        yield out
        write_images(out, pixels)
    shutil.rmtree(folder)
    logger.info("Wrote %s", target)


def shown_grid(config: Config, pixels: Pixels) -> Picture:
    """The first images as a picture, with a row for each class if they take the classes in turn at least twice."""
    classes = config.model.classes
    if not classes or config.sample.label is not None or len(pixels) < 2 * classes:
        return grid(pixels)
    columns = -(-len(pixels) // classes)
    blank = np.full((columns * classes - len(pixels), *pixels.shape[1:]), np.iinfo(pixels.dtype).max, pixels.dtype)
    in_turn = np.arange(columns * classes).reshape(columns, classes).T.ravel()
    return grid(np.concatenate([pixels, blank])[in_turn], columns=columns)


def write_images(folder: Path, pixels: Pixels) -> None:
    """Writes PNG files, and one array in the format of ADM's evaluation."""
    write_files(folder / "images", progress(pixels, "Writing PNG files", "images", total=len(pixels)))
    np.savez(folder / "samples.npz", pixels)


def write_files(folder: Path, images: Iterable[Any]) -> None:
    """Writes images to a new folder as PNG files 000000.png, 000001.png, …"""
    folder.mkdir()
    for i, image in enumerate(images):
        save_png(np.asarray(image), folder / f"{i:06d}.png")
