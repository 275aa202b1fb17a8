"""What the page asks of a trained model: pictures as they grow, and the files of the finished ones."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from ddpm_jax import Run, UserError, load_run
from ddpm_jax.config import Config
from ddpm_jax.data.decode import UNREADABLE, decode, decoding_of
from ddpm_jax.interop.safetensors_file import PRETRAINED
from ddpm_jax.live import Moment
from ddpm_jax.reporting.images import Picture, caption, grid, save_gif, save_png
from ddpm_jax.sample import sampler_and_steps
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.workdir import checkpoint_folder

PACE = 0.1
"""Seconds between two pictures that are sent to the browser."""
GIF_FRAMES = 40


class Shown(NamedTuple):
    """What the page shows at a moment; the files come with the last."""

    picture: Picture
    text: str
    png: Path | None = None
    gif: Path | None = None


class Tick(NamedTuple):
    """A moment, when it came, and whether it is time to send a picture of it."""

    seconds: float
    send: bool
    moment: Moment


class Model:
    """The run in a workdir, whichever of its checkpoints is asked for; two stay in memory."""

    def __init__(self, workdir: str):
        self.workdir = workdir
        self.at = lru_cache(maxsize=2)(partial(_load, workdir))
        newest = self.at(None, True)
        self.config, self.names = newest.config, newest.names
        with Checkpoints(checkpoint_folder(Path(workdir))) as checkpoints:
            self.steps = checkpoints.steps()[::-1] or [newest.step]  # At an address, and in the package: the newest.

    @property
    def has_raw(self) -> bool:
        """Whether parameters that are not averaged are there, too."""
        return not self.workdir.startswith(PRETRAINED)

    def about(self, step: int | None, ema: bool) -> str:
        """A line about what was loaded."""
        run, data, model = self.at(step, ema), self.config.data, self.config.model
        colour = {1: "grey", 3: "colour"}.get(data.channels, f"{data.channels}-channel")
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params)) / 1e6
        known = f", {model.classes} classes" if model.classes else ""
        known = f", {model.attributes} attributes" if model.attributes else known
        trained = f", trained on {run.images:,} images" if run.images else ""
        which = "average" if ema else "raw parameters"
        size = f"{data.image_size}x{data.image_size} {colour} images"
        return f"**{self.workdir}**, step {run.step:,} ({which}): {size}, {parameters:.1f} M parameters{known}{trained}"


def _load(workdir: str, step: int | None, ema: bool) -> Run:
    return load_run(workdir, step=step, ema=ema)


def inpainted(run: Run, image: np.ndarray, painted: np.ndarray, **options: Any) -> Iterator[Moment]:
    """Draws anew where the brush was.

    image: uint8 [height, width, channels]; painted: [any height, any width], more than 0 where the brush was.
    """
    size = (run.config.data.image_size, run.config.data.image_size)
    covered = Image.fromarray(np.where(painted > 0, np.uint8(255), np.uint8(0))).resize(size, Image.Resampling.BOX)
    mask = np.asarray(covered) > 127
    if not mask.any():
        raise UserError("Nothing is painted: brush over what shall be drawn anew.")
    if mask.all():
        raise UserError("All is painted: leave something to start from.")
    return run.inpaint(image[None], mask, **options)


def fitted(raw: bytes, config: Config) -> np.ndarray:
    """A visitor's image file as the model's images are, uint8 [height, width, channels]."""
    try:
        return decode(raw, decoding_of(config.data))
    except UNREADABLE as error:
        raise UserError(f"This file cannot be read ({error}); give a PNG, JPEG or the like.") from error


def played(moments: Iterator[Moment], view: str, folder: Path) -> Iterator[Shown]:
    """Pictures of a drawing while it goes on, and in the end its files: the images, and how they came."""
    frames: list[Picture] = []
    for tick in timed(moments):
        moment = tick.moment
        picture = grid(moment.x0 if view == "x0" else moment.x_t)
        if moment.done % math.ceil(moment.steps / GIF_FRAMES) == 0 or not moment.t:
            frames.append(picture)
        if tick.send:
            yield Shown(picture, f"Step {moment.done} of {moment.steps}, t = {moment.t}")
    png, gif = new_file(folder, "images.png"), new_file(folder, "denoising.gif")
    save_png(picture, png)
    save_gif(frames, gif)
    yield Shown(picture, f"{len(moment.x_t)} images, {moment.steps} steps, {tick.seconds:.2f} seconds", png, gif)


def compared(run: Run, names: Sequence[str], count: int, folder: Path, **options: Any) -> Iterator[Shown]:
    """The same images drawn by several samplers, such as "ddim:50", a row each, from the same noise."""
    if not names:
        raise UserError("Choose a sampler, or several to compare.")
    kinds = [sampler_and_steps(name, "The comparison") for name in names]
    walks = [run.watch(count, sampler=sampler, steps=steps, **options) for sampler, steps in kinds]
    rows: list[Picture] = []
    lines = ["| sampler | steps | seconds | from the first row |", "|---|---|---|---|"]
    first = None
    for (sampler, _), walk in zip(kinds, walks, strict=True):
        for tick in timed(walk):
            moment = tick.moment
            row = caption(grid(moment.x_t, columns=count), f"{sampler}, {moment.steps} steps")
            if tick.send:
                yield Shown(np.concatenate([*rows, row]), "\n".join([*lines, f"| {sampler} | {moment.done} | | |"]))
        first = moment.x_t if first is None else first
        difference = np.sqrt(np.mean((moment.x_t.astype(float) - first) ** 2))
        lines.append(f"| {sampler} | {moment.steps} | {tick.seconds:.2f} | {difference:.1f} grey levels |")
        rows.append(row)
    png = new_file(folder, "comparison.png")
    save_png(np.concatenate(rows), png)
    yield Shown(np.concatenate(rows), "\n".join(lines), png)


def timed(moments: Iterator[Moment]) -> Iterator[Tick]:
    """Each moment with the seconds that its steps took, and whether it is time to send a picture.

    The first moment comes when the sampler is compiled and one step done: its time is reckoned from the others'.
    """
    start = sent = time.monotonic()
    for moment in moments:
        now = time.monotonic()
        start = start if moment.done else now
        send = not moment.done or now - sent >= PACE
        sent = now if send else sent
        yield Tick((now - start) * moment.steps / max(moment.steps - 1, 1), send, moment)


def new_file(folder: Path, name: str) -> Path:
    """A path of this name that no other visitor has."""
    return Path(tempfile.mkdtemp(dir=folder)) / name
