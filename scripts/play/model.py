"""The playground without its page: a run and its checkpoints, and samplers as streams of pictures and files."""

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool
from PIL import Image

from ddpm_jax import Run, UserError, load_run
from ddpm_jax.config import Config
from ddpm_jax.config.sections import Sample
from ddpm_jax.data.decode import UNREADABLE, decode, decoding_of
from ddpm_jax.generation.guides import open_guide
from ddpm_jax.generation.requests import sampler_and_steps
from ddpm_jax.generation.steps import SamplingStep
from ddpm_jax.interop.safetensors_file import PRETRAINED
from ddpm_jax.reporting.images import Picture, captioned_rows, grey_levels_apart, grid, save_gif, save_png
from ddpm_jax.shapes import Pixels
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.training.power_ema import fitted_widths
from ddpm_jax.training.seals import sealed_steps
from ddpm_jax.workdir import checkpoint_folder, snapshot_folder

PICTURE_INTERVAL_S = 0.1
"""Minimum time between two pictures sent to the browser."""
GIF_FRAMES = 40
"""Maximum number of frames of a GIF, apart from the last."""
MAX_SAMPLERS = 8
"""Maximum number of rows of a comparison."""
EMA_WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
"""Widths that are offered where they can be rebuilt."""
OWN_CHECKPOINT = "checkpoint:"
"""Begins the name of a guide that is another checkpoint of the run."""
DOWNLOADS_KEPT_S = 3600
"""Time after which files for download are deleted."""


class Update(NamedTuple):
    """New content for a result on the page; the last update of a stream has the files."""

    picture: Picture
    text: str
    png: Path | None = None
    gif: Path | None = None


class Model:
    """A run that can switch between its checkpoints; the two latest choices, of which one may be a guide, stay in
    memory.

    guides: workdirs of other runs for autoguidance. Raises UserError if one does not fit.
    """

    def __init__(self, workdir: str, guides: Sequence[str] = ()):
        self.workdir, self._guides = workdir, tuple(guides)
        newest = _load(workdir, None, True)
        self.config, self.names = newest.config, newest.names
        # For URLs and pretrained models: only the newest.
        self.steps = checkpoint_steps(checkpoint_folder(Path(workdir).expanduser()))[::-1] or [newest.step]
        self._snapshots = sealed_steps(snapshot_folder(newest.workdir)) if newest.workdir else []
        for guide in guides:
            guided = dataclasses.replace(self.config, sample=Sample(guide=guide, guidance=2.0))
            open_guide(guided, newest.workdir, self.names, newest.step)
        self._runs = {(workdir, newest.step, True, None): newest}

    def run(self, step: int, ema: bool, ema_width: float | None = None) -> Run:
        """The run at a step, with its EMA, an EMA of another width, or the raw parameters."""
        return self._load(self.workdir, step, ema, ema_width)

    def _load(self, workdir: str, step: int | None, ema: bool, ema_width: float | None) -> Run:
        key = workdir, step, ema, ema_width
        if key not in self._runs:
            self._runs = dict(list(self._runs.items())[-1:]) | {key: _load(*key)}
        return self._runs[key]

    def guides(self, step: int) -> list[str]:
        """The names of the guides for a step: its other checkpoints, and other runs."""
        return [f"{OWN_CHECKPOINT}{other}" for other in self.steps if other != step] + list(self._guides)

    def guide(self, name: str) -> Run:
        """The guide of a name, with its EMA parameters."""
        if name.startswith(OWN_CHECKPOINT):
            return self.run(int(name.removeprefix(OWN_CHECKPOINT)), True)
        return self._load(name, None, True, None)

    @property
    def steps_with_widths(self) -> list[int]:
        """The checkpoints at whose steps the EMA can have another width, newest first."""
        return [step for step in self.steps if step in self._snapshots]

    def ema_widths(self, step: int) -> list[float]:
        """Those of EMA_WIDTHS that can be rebuilt at a step."""
        if step not in self._snapshots:
            return []
        each = [(t, width) for t in self._snapshots if t <= step for width in self.config.optimizer.power_widths]
        times, widths = zip(*each, strict=True)
        spans = fitted_widths(times, widths, step)
        return [width for width in EMA_WIDTHS if any(low <= width <= high for low, high in spans)]

    @property
    def has_raw_params(self) -> bool:
        """Whether the raw parameters are available besides their EMA."""
        return not self.workdir.startswith(PRETRAINED)

    def description(self, step: int, ema: bool, ema_width: float | None = None) -> str:
        """One line about the loaded parameters, in Markdown."""
        run, data, model = self.run(step, ema, ema_width), self.config.data, self.config.model
        colour = {1: "grey", 2: "grey and alpha", 3: "colour", 4: "colour and alpha"}[data.channels]
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params)) / 1e6
        labels = f", {model.classes} classes" if model.classes else ""
        labels = f", {model.attributes} attributes" if model.attributes else labels
        if model.condition != "none":
            labels += f", condition: {model.condition.replace('_', ' ')}"
        trained = f", trained on a set of {run.images:,}" if run.images else ""
        kind = "raw parameters" if not ema else "EMA" if ema_width is None else f"EMA of width {ema_width}"
        height, width, _ = run.config.image_shape
        size = f"{width}x{height} {colour} images"
        return f"**{self.workdir}**, step {run.step:,} ({kind}): {size}, {parameters:.1f} M parameters{labels}{trained}"


def _load(workdir: str, step: int | None, ema: bool, ema_width: float | None = None) -> Run:
    """Loads a run with default sampling options: the page sets all of them itself."""
    run = load_run(workdir, step=step, ema=ema, ema_width=ema_width)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, sample=Sample()))


def inpaint_brushed(run: Run, image: np.ndarray, brush: np.ndarray, **options: Any) -> Iterator[SamplingStep]:
    """Samples the brushed pixels of an image again.

    image: [height, width, channels]; brush: [any height, any width], more than 0 where the brush painted.
    """
    return run.inpaint(image[None], mask_of_brush(brush, run.config), **options)


def mask_of_brush(brush: np.ndarray, config: Config) -> Bool[np.ndarray, "height width"]:
    """The pixels of the model's images of which the brush covers more than half; refuses none, and all."""
    size = config.image_shape[1::-1]
    covered = Image.fromarray(np.where(brush > 0, np.uint8(255), np.uint8(0))).resize(size, Image.Resampling.BOX)
    mask = np.asarray(covered) > 127
    if not mask.any():
        raise UserError("Nothing is painted; brush over the pixels to sample again.")
    if mask.all():
        raise UserError("Everything is painted; leave some pixels as they are.")
    return mask


def decode_upload(raw: bytes, config: Config) -> np.ndarray:
    """The largest centred box of an image file, at the size of the model's images, [height, width, channels]."""
    try:
        # data.crop is made for the sizes of the training images.
        return decode(raw, dataclasses.replace(decoding_of(config.data), crop=()))
    except UNREADABLE as error:
        raise UserError(f"This file cannot be read ({error}); upload another PNG, JPEG or similar.") from error


def stream_samples(
    steps: Iterator[SamplingStep],
    view: str,
    folder: Path,
    picture_of: Callable[[Pixels], Picture] = grid,
    comment_on: Callable[[Pixels], str] = lambda images: "",
) -> Iterator[Update]:
    """Pictures while a sampler runs, and at the end two files: the images, and a GIF of the steps.

    view: "x_t" or "x0", the images to show before the last step; picture_of: all pictures, from the images;
    comment_on: the end of the last text, from the finished images.
    """
    frames: list[Picture] = []
    for step, send in throttle(steps):
        in_gif = step.done % math.ceil(step.steps / GIF_FRAMES) == 0 or not step.t
        if send or in_gif:
            picture = picture_of(step.x0 if view == "x0" else step.x_t)
            frames += [picture] if in_gif else []
        if send and step.t:
            yield Update(picture, f"Step {step.done} of {step.steps}, t = {step.t}")
    png, gif = new_download(folder, "images.png"), new_download(folder, "denoising.gif")
    save_png(picture, png)
    save_gif(frames, gif)
    yield Update(
        picture,
        f"{_counted(len(step.x_t), 'image')}, {_counted(step.steps, 'step')}, {step.seconds:.2f} seconds without "
        f"compilation{comment_on(step.x_t)}",
        png,
        gif,
    )


def iter_samplers(run: Run, names: Sequence[str], count: int, **options: Any) -> dict[str, Iterator[SamplingStep]]:
    """The steps of several samplers, such as "ddim:50", from the same noise; raises UserError before any step."""
    if not 0 < len(names) <= MAX_SAMPLERS:
        raise UserError(f"{len(names)} samplers are selected; expected 1 to {MAX_SAMPLERS}.")
    parsed = [sampler_and_steps(name, "The comparison") for name in names]
    iterators = [run.iter_steps(count, sampler=sampler, steps=steps, **options) for sampler, steps in parsed]
    return dict(zip(names, iterators, strict=True))


def stream_comparison(samplers: Mapping[str, Iterator[SamplingStep]], folder: Path) -> Iterator[Update]:
    """Runs the samplers one after the other; each gets a row of images and a row of a table."""
    rows: list[tuple[str, Pixels]] = []
    lines = ["| sampler | steps | seconds | difference from the first row |", "|---|---|---|---|"]
    for name, steps in samplers.items():
        sampler = name.partition(":")[0]
        for step, send in throttle(steps):
            row = (f"{sampler}, {_counted(step.steps, 'step')}", step.x_t)
            if send and step.t:
                text = "\n".join([*lines, f"| {sampler} | {step.done} of {step.steps} | | |"])
                yield Update(captioned_rows([*rows, row]), text)
        rows.append(row)
        difference = grey_levels_apart(step.x_t, rows[0][1])
        lines.append(f"| {sampler} | {step.steps} | {step.seconds:.2f} | {difference:.1f} grey levels |")
    png = new_download(folder, "comparison.png")
    save_png(captioned_rows(rows), png)
    yield Update(captioned_rows(rows), "\n".join(lines), png)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def throttle(steps: Iterator[SamplingStep]) -> Iterator[tuple[SamplingStep, bool]]:
    """Each step, and whether to send its picture: at least PICTURE_INTERVAL_S after the one before, or the last."""
    sent = -math.inf
    for step in steps:
        send = not step.t or time.monotonic() - sent >= PICTURE_INTERVAL_S
        yield step, send
        sent = time.monotonic() if send else sent


def new_download(folder: Path, name: str) -> Path:
    """A path with this file name that no other visitor has; also deletes downloads that are too old."""
    for old in folder.glob("download-*"):
        if old.stat().st_mtime < time.time() - DOWNLOADS_KEPT_S:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="download-", dir=folder)) / name
