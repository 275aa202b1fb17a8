"""Periodic measurements of the training state: validation loss, a light evaluation, previews."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import jax
import numpy as np

from ddpm_jax.commands.edit import COMPARED_IMAGES, sample_each
from ddpm_jax.commands.light_evaluation import build_light_evaluation
from ddpm_jax.config import Config, checked, split_names
from ddpm_jax.config.fields import fields_where
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.generation.conditions import conditions_of, shown_conditions, with_known_pixels
from ddpm_jax.generation.draw import compile_sampler
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import STRIP_IMAGES
from ddpm_jax.generation.requests import with_sampler
from ddpm_jax.reporting.images import captioned_rows, grid, stacked_grid, strip
from ddpm_jax.reporting.writer import Writer
from ddpm_jax.runtime.cpu import release_memory
from ddpm_jax.runtime.signals import Stopped, interruptible, raise_if_stopped
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.sampling.loop import FrameSpec
from ddpm_jax.training.cadence import due
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Learner
from ddpm_jax.training.validation import build_validation

PREVIEW_COLUMNS = 12
"""Conditions in a row of a preview."""

logger = logging.getLogger(__name__)


class Monitor(NamedTuple):
    """One kind of periodic measurement."""

    every: int
    """Steps between two measurements."""
    report: Callable[[int, TrainState], None]
    """Measures the state at a step and writes the result."""


class Monitors:
    """All periodic measurements of a run, and the step up to which they are done."""

    def __init__(
        self,
        monitors: Sequence[Monitor],
        last: int,
        done: int,
        remember: Callable[[int, int], None] = lambda step, done: None,
    ) -> None:
        """last: the run's last step; done: the step of the latest measurements.

        remember(step, done): stores the step that training has reached, and that of the latest measurements.
        """
        self._monitors, self._last, self._done, self._remember = monitors, last, done, remember

    def due(self, step: int) -> list[Monitor]:
        """The measurements that are due at a step and not done already."""
        return [each for each in self._monitors if step > self._done and due(step, each.every, self._last)]

    def run(self, step: int, state: TrainState) -> bool:
        """Takes the measurements that are due at a step, unless they are done already.

        Returns False if a signal interrupted them, which only a job of one process lets it do: they are not done then.
        """
        if step <= self._done:
            return True
        if (monitors := self.due(step)) and step == self._last:
            logger.info("Measuring the last step …")
        try:
            with interruptible() if jax.process_count() == 1 else nullcontext():
                for monitor in monitors:
                    raise_if_stopped()
                    monitor.report(step, state)
        except Stopped:
            return False
        self._done = step
        if monitors:
            release_memory()
        if monitors or step == self._last:
            self.remember(step)
        return True

    def remember(self, step: int) -> None:
        """Stores, for a later start, that training has reached a step, and up to which the measurements are done."""
        self._remember(step, self._done)


def build_monitors(
    config: Config, learner: Learner, dataset: Dataset, held: np.ndarray, writer: Writer, workdir: AnyPath
) -> list[Monitor]:
    """The monitors of a configuration."""
    monitors = []
    if len(held) and config.log.validate_every:
        validate = build_validation(learner, dataset, held, config.data.batch_size // config.train.accumulate)

        def report_validation(step: int, state: TrainState) -> None:
            losses = {"validation/loss_ema": validate(state.ema), "validation/loss_raw": validate(state.params)}
            writer.scalars(step, losses)
            logger.debug("step %d: %s", step, losses)

        monitors.append(Monitor(config.log.validate_every, report_validation))
    if config.evaluate.every:
        evaluate = build_light_evaluation(config, workdir, dataset)

        def report_evaluation(step: int, state: TrainState) -> None:
            writer.scalars(step, {f"evaluation/{name}": value for name, value in evaluate(state.ema).items()})

        monitors.append(Monitor(config.evaluate.every, report_evaluation))
    if config.log.preview_every:
        preview = build_preview(config, learner, dataset, held, writer, workdir)
        monitors.append(Monitor(config.log.preview_every, preview))
    return monitors


def preview_config(config: Config) -> Config:
    """The same run sampled by plain DDIM, or by consistency sampling with its default number of steps if it is tuned
    for that; of sample.* it keeps the fields whose metadata mark them for previews.
    """
    steps = min(config.log.preview_steps, config.diffusion.steps)
    plain = dataclasses.replace(type(config.sample)(), sampler="ddim", steps=steps)
    if config.diffusion.objective == "consistency":
        plain = dataclasses.replace(type(config.sample)(), sampler="consistency")
    kept = fields_where(config.sample, lambda meaning: meaning.preview)
    preview = dataclasses.replace(plain, **{name: getattr(config.sample, name) for name in kept})
    return checked(dataclasses.replace(config, sample=preview))


def comparison_configs(config: Config) -> list[Config]:
    """One configuration for each of log.preview_samplers; raises UserError for settings that do not fit them."""
    field, plain = "log.preview_samplers", preview_config(config)
    return [
        with_sampler(plain, name, COMPARED_IMAGES, field)
        for name in split_names(config.log.preview_samplers or "", field)
    ]


def build_preview(
    config: Config, learner: Learner, dataset: Dataset, held: np.ndarray, writer: Writer, workdir: AnyPath
) -> Callable[[int, TrainState], None]:
    """A report that samples the same few images by DDIM from the EMA parameters, as a grid and a strip of frames.

    The conditions of an image-to-image model are those of held-out images, if there are any: the grid shows rows of
    conditions, each above the samples and the originals.
    """
    preview = preview_config(config)
    sampler = compile_sampler(preview, learner.mesh, FrameSpec(frames=10, images=STRIP_IMAGES))
    indices = np.arange(-(-config.log.preview_count // learner.mesh.size) * learner.mesh.size)
    count, originals, conditions = config.log.preview_count, None, None
    if config.condition_shape:
        rows = held if len(held) else np.arange(len(dataset.images))
        # Evenly spaced, since sets are often sorted by class; the same for any number of devices.
        rows = rows[np.minimum(indices, count - 1) * len(rows) // count]
        originals, labels = dataset.images[rows], dataset.labels[rows] if config.label_width else None
        conditions = conditions_of(config, originals, config.sample.seed)
    else:
        labels = choose_labels(preview, label_names(config, workdir), indices)

    first = np.arange(COMPARED_IMAGES) % count

    def report(step: int, state: TrainState) -> None:
        samples = jax.device_get(sampler(state.ema, config.sample.seed, indices, labels, None, conditions))
        finished = with_known_pixels(config, samples.images, conditions)
        frames = np.concatenate([samples.frames[:-1], finished[None, :STRIP_IMAGES]])
        images, shown = to_pixels(finished, config.data.depth), slice(count)
        picture = grid(images[shown])
        if originals is not None and conditions is not None:
            sets = (shown_conditions(config, conditions), images, originals)
            picture = stacked_grid(*(each[shown] for each in sets), columns=PREVIEW_COLUMNS)
        writer.picture(step, "preview/grid", picture)
        writer.picture(step, "preview/strip", strip(to_pixels(frames), columns=10))
        if step == config.train.steps and config.log.preview_samplers:
            compared = [None if each is None else each[first] for each in (labels, conditions)]
            rows = sample_each(comparison_configs(config), state.ema, *compared)
            writer.picture(step, "preview/samplers", captioned_rows(rows))

    return report
