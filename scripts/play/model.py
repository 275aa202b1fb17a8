"""What the page asks of a trained model: pictures as they grow, and the files of the finished ones."""

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from ddpm_jax import Run, UserError, load_run
from ddpm_jax.config import Config
from ddpm_jax.config.sections import Sample
from ddpm_jax.data.decode import UNREADABLE, decode, decoding_of
from ddpm_jax.generation.requests import sampler_and_steps
from ddpm_jax.generation.steps import SamplingStep
from ddpm_jax.interop.safetensors_file import PRETRAINED
from ddpm_jax.reporting.images import Picture, captioned_rows, grey_levels_apart, grid, save_gif, save_png
from ddpm_jax.shapes import Pixels
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.workdir import checkpoint_folder

PACE = 0.1
"""Seconds between two pictures that are sent to the browser."""
GIF_FRAMES = 40
MOST_SAMPLERS = 8
"""In a comparison."""
KEPT_SECONDS = 3600
"""For so long files can be downloaded."""


class Shown(NamedTuple):
    """What the page shows at a time; the files come with the last."""

    picture: Picture
    text: str
    png: Path | None = None
    gif: Path | None = None


class Model:
    """The run in a workdir, whichever of its checkpoints is asked for; two stay in memory."""

    def __init__(self, workdir: str):
        self.workdir = workdir
        newest = _load(workdir, None, True)
        self.config, self.names = newest.config, newest.names
        # At an address, and in the package: the newest.
        self.steps = checkpoint_steps(checkpoint_folder(Path(workdir).expanduser()))[::-1] or [newest.step]
        self._runs = {(newest.step, True): newest}

    def at(self, step: int, ema: bool) -> Run:
        """The run with the parameters of a step, averaged or raw."""
        if (step, ema) not in self._runs:
            self._runs = dict(list(self._runs.items())[-1:]) | {(step, ema): _load(self.workdir, step, ema)}
        return self._runs[step, ema]

    @property
    def has_raw(self) -> bool:
        """Whether parameters that are not averaged are there, too."""
        return not self.workdir.startswith(PRETRAINED)

    def about(self, step: int, ema: bool) -> str:
        """A line about what was loaded."""
        run, data, model = self.at(step, ema), self.config.data, self.config.model
        colour = {1: "grey", 3: "colour"}.get(data.channels, f"{data.channels}-channel")
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params)) / 1e6
        known = f", {model.classes} classes" if model.classes else ""
        known = f", {model.attributes} attributes" if model.attributes else known
        trained = f", of a set of {run.images:,}" if run.images else ""
        which = "average" if ema else "raw parameters"
        size = f"{data.image_size}x{data.image_size} {colour} images"
        return f"**{self.workdir}**, step {run.step:,} ({which}): {size}, {parameters:.1f} M parameters{known}{trained}"


def _load(workdir: str, step: int | None, ema: bool) -> Run:
    """A run without what its configuration says of sampling: the page asks for everything itself."""
    run = load_run(workdir, step=step, ema=ema)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, sample=Sample()))


def inpainted(run: Run, image: np.ndarray, painted: np.ndarray, **options: Any) -> Iterator[SamplingStep]:
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
    """The middle of a visitor's image file, as large as the model's images, uint8 [height, width, channels]."""
    try:
        return decode(raw, dataclasses.replace(decoding_of(config.data), crop=()))  # data.crop is for the data's sizes.
    except UNREADABLE as error:
        raise UserError(
            f"This file cannot be read ({error}); give a PNG, JPEG or the like, and not too large."
        ) from error


def played(steps: Iterator[SamplingStep], view: str, folder: Path) -> Iterator[Shown]:
    """Pictures of a drawing while it goes on, and in the end its files: the images, and how they came."""
    frames: list[Picture] = []
    for step, send in paced(steps):
        of_the_gif = step.done % math.ceil(step.steps / GIF_FRAMES) == 0 or not step.t
        if send or of_the_gif:
            picture = grid(step.x0 if view == "x0" else step.x_t)
            frames += [picture] if of_the_gif else []
        if send and step.t:
            yield Shown(picture, f"Step {step.done} of {step.steps}, t = {step.t}")
    png, gif = new_file(folder, "images.png"), new_file(folder, "denoising.gif")
    save_png(picture, png)
    save_gif(frames, gif)
    yield Shown(
        picture,
        f"{len(step.x_t)} images, {step.steps} steps, {step.seconds:.2f} seconds without compilation",
        png,
        gif,
    )


def iterations(run: Run, names: Sequence[str], count: int, **options: Any) -> dict[str, Iterator[SamplingStep]]:
    """The same images by several samplers, such as "ddim:50"; raises UserError before any of them starts."""
    if not 0 < len(names) <= MOST_SAMPLERS:
        raise UserError(f"{len(names)} samplers are chosen; expected 1 to {MOST_SAMPLERS}.")
    kinds = [sampler_and_steps(name, "The comparison") for name in names]
    found = [run.iter_steps(count, sampler=sampler, steps=steps, **options) for sampler, steps in kinds]
    return dict(zip(names, found, strict=True))


def compared(iterated: Mapping[str, Iterator[SamplingStep]], folder: Path) -> Iterator[Shown]:
    """Samplers one after the other, a row each."""
    rows: list[tuple[str, Pixels]] = []
    lines = ["| sampler | steps | seconds | from the first row |", "|---|---|---|---|"]
    for name, steps in iterated.items():
        sampler = name.partition(":")[0]
        for step, send in paced(steps):
            row = (f"{sampler}, {step.steps} steps", step.x_t)
            if send and step.t:
                text = "\n".join([*lines, f"| {sampler} | {step.done} of {step.steps} | | |"])
                yield Shown(captioned_rows([*rows, row]), text)
        rows.append(row)
        apart = grey_levels_apart(step.x_t, rows[0][1])
        lines.append(f"| {sampler} | {step.steps} | {step.seconds:.2f} | {apart:.1f} grey levels |")
    png = new_file(folder, "comparison.png")
    save_png(captioned_rows(rows), png)
    yield Shown(captioned_rows(rows), "\n".join(lines), png)


def paced(steps: Iterator[SamplingStep]) -> Iterator[tuple[SamplingStep, bool]]:
    """Each step, and whether to send a picture of it: when a while has passed since the last one, and at the end."""
    sent = -math.inf
    for step in steps:
        send = not step.t or time.monotonic() - sent >= PACE
        yield step, send
        sent = time.monotonic() if send else sent


def new_file(folder: Path, name: str) -> Path:
    """A path of this name that no other visitor has; what visitors were given long ago is deleted."""
    for old in folder.glob("given-*"):
        if old.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="given-", dir=folder)) / name
