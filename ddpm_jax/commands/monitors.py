"""What looks at the state now and then while it trains: validation loss, a light evaluation, previews."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ddpm_jax.commands.edit import COMPARED_IMAGES, sample_each
from ddpm_jax.commands.evaluate import build_light_evaluation
from ddpm_jax.config import Config, checked, split_names
from ddpm_jax.config.fields import fields_where
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.generation.draw import compile_sampler
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import STRIP_IMAGES
from ddpm_jax.generation.requests import with_sampler
from ddpm_jax.reporting.images import captioned_rows, grid, strip
from ddpm_jax.reporting.writer import Writer
from ddpm_jax.sampling.loop import FrameSpec
from ddpm_jax.training.cadence import due
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Learner
from ddpm_jax.training.validation import build_validation

logger = logging.getLogger(__name__)


def build_monitors(
    config: Config, learner: Learner, dataset: Dataset, held: np.ndarray, writer: Writer, workdir: Path
) -> list[Callable[[int, TrainState], None]]:
    """What looks at the state now and then: the validation loss and the previews."""
    monitors = []
    if len(held) and config.log.validate_every:
        part = config.data.batch_size // config.train.accumulate
        validate = build_validation(learner, dataset, held, part)

        def report_validation(step: int, state: TrainState) -> None:
            if due(step, config.log.validate_every, config.train.steps):
                losses = {"validation/loss_ema": validate(state.ema), "validation/loss_raw": validate(state.params)}
                writer.scalars(step, losses)
                logger.debug("step %d: %s", step, losses)

        monitors.append(report_validation)
    if config.evaluate.every:
        figures = build_light_evaluation(config, workdir, dataset)

        def report_figures(step: int, state: TrainState) -> None:
            if due(step, config.evaluate.every, config.train.steps):
                writer.scalars(step, {f"evaluation/{name}": value for name, value in figures(state.ema).items()})

        monitors.append(report_figures)
    if config.log.preview_every:
        monitors.append(build_preview(config, learner, writer, workdir))
    return monitors


def preview_config(config: Config) -> Config:
    """The same run sampled by plain DDIM, each class in turn; of sample.* it uses what the fields' meaning says."""
    steps = min(config.log.preview_steps, config.diffusion.steps)
    plain = dataclasses.replace(type(config.sample)(), sampler="ddim", steps=steps)
    kept = fields_where(config.sample, lambda meaning: meaning.preview)
    preview = dataclasses.replace(plain, **{name: getattr(config.sample, name) for name in kept})
    return checked(dataclasses.replace(config, sample=preview))


def comparison_configs(config: Config) -> list[Config]:
    """The samplers of log.preview_samplers; raises UserError for what they cannot do."""
    field, plain = "log.preview_samplers", preview_config(config)
    return [
        with_sampler(plain, name, COMPARED_IMAGES, field)
        for name in split_names(config.log.preview_samplers or "", field)
    ]


def build_preview(config: Config, learner: Learner, writer: Writer, workdir: Path) -> Callable[[int, TrainState], None]:
    """Draws the same few images by DDIM from the averaged parameters: a grid, and a strip of how they came about."""
    names = label_names(config, workdir)
    count = -(-config.log.preview_count // learner.mesh.size) * learner.mesh.size
    drawn = preview_config(config)
    draw = compile_sampler(drawn, learner.mesh, FrameSpec(frames=10, images=STRIP_IMAGES))
    indices = np.arange(count)
    labels = choose_labels(drawn, names, indices)

    def show(step: int, state: TrainState) -> None:
        if due(step, config.log.preview_every, config.train.steps):
            samples = jax.device_get(draw(state.ema, config.sample.seed, indices, labels))
            writer.picture(step, "preview/grid", grid(to_pixels(samples.images[: config.log.preview_count])))
            writer.picture(step, "preview/strip", strip(to_pixels(samples.frames), columns=10))
            if step == config.train.steps and config.log.preview_samplers:
                writer.picture(
                    step, "preview/samplers", captioned_rows(sample_each(comparison_configs(config), state.ema, names))
                )

    return show
