"""Reports of a training run: a description at its start, metrics while it runs, and a summary at its end."""

import dataclasses
import logging
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from clu.parameter_overview import get_parameter_overview
from jaxtyping import Array, Int

from ddpm_jax.commands.cost import StepCost
from ddpm_jax.config import Config, flatten, to_json
from ddpm_jax.config.advice import before_training
from ddpm_jax.errors import TrainingDiverged, printable, shell_command
from ddpm_jax.reporting.memory import memory_in_use, size_in_words
from ddpm_jax.reporting.profile import Profile
from ddpm_jax.reporting.throughput import Moment, Throughput
from ddpm_jax.reporting.writer import BestSoFar, ByImagesSeen, TensorBoard, WeightsAndBiases, Writer, Writers, tag
from ddpm_jax.runtime.cpu import processor_name, usable_cpus
from ddpm_jax.runtime.source import commit_of_code
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.training.cadence import due
from ddpm_jax.training.feedback import Feedback
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Metrics, empty_metrics
from ddpm_jax.workdir import Segment, checkpoint_folder, next_command, wandb_id

HYPERPARAMETERS = (
    *("seed", "data.image_size", "data.batch_size", "train.steps", "train.accumulate", "train.label_dropout"),
    *("model.channels", "model.multipliers", "model.blocks", "model.attention_resolutions", "model.dropout"),
    *("model.classes", "model.attributes", "model.dtype", "diffusion.steps", "diffusion.schedule"),
    *("diffusion.prediction", "diffusion.loss", "diffusion.weighting", "diffusion.variance"),
    *("optimizer.learning_rate", "optimizer.warmup", "optimizer.schedule", "optimizer.ema_decay", "optimizer.clip"),
)
"""Fields that TensorBoard's page of hyperparameters compares across runs."""

LINE = "%-11s %s"
"""A fact with its name, in the log."""

logger = logging.getLogger(__name__)


class Reports:
    """The metrics of training on their way from the device to the curves, the log and the progress bar."""

    def __init__(
        self,
        config: Config,
        writer: Writer,
        throughput: Throughput,
        profile: Profile,
        metrics: Metrics,
        skipped: int,
        diverged: Callable[[int, str], TrainingDiverged],
    ) -> None:
        """metrics: the means since the last report; skipped: steps skipped so far.

        diverged(step, reason): the error to raise if too many steps in a row are skipped.
        """
        self.throughput, self.profile, self.metrics = throughput, profile, metrics
        self._config, self._writer, self._skipped, self._diverged = config, writer, skipped, diverged
        self._latest: dict[str, float] = {}
        self._feedback = Feedback(self._bad_step, self._report, throughput.now)

    def push(self, step: int, streak: Int[Array, ""]) -> None:
        """Takes the outcome of a step, which `metrics` include; starts new means if a report is due."""
        reporting = due(step, self._config.log.every, self._config.train.steps)
        metrics = self.metrics if reporting else None
        self._feedback.push(step, streak, metrics)  # pyright: ignore[reportArgumentType]  # JAX does not declare is_ready.
        self.metrics = empty_metrics() if reporting else self.metrics
        if self.profile.ends_at(step):
            self.drain()
            with self.throughput.paused():
                self.profile.stop(streak)

    def drain(self) -> None:
        """Reports all steps so far; waits for the device."""
        self._feedback.drain()

    def note(self) -> str:
        """A few words for the progress bar."""
        if "loss" not in self._latest:
            return ""
        return f"loss {self._latest['loss']:.4f}, {self._latest['images_per_second']:.0f} images/s"

    def _bad_step(self, step: int, streak: int) -> None:
        self._skipped += 1
        logger.warning("Step %d was skipped: its loss or gradient is not finite (%d in a row)", step, streak)
        if streak >= self._config.train.max_bad_steps:
            raise self._diverged(step, f"{streak} losses or gradients in a row were not finite")

    def _report(self, step: int, means: Mapping[str, float], finished: Moment) -> None:
        speed = self.throughput.read(step, finished)
        self._latest = {**means, "skipped_steps": float(self._skipped), **speed, **memory_in_use()}
        self._writer.scalars(step, {tag(name): value for name, value in self._latest.items()})
        logger.debug("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in self._latest.items()))


def open_writer(config: Config, workdir: AnyPath, folder: Path, start: int, best: BestSoFar) -> Writer:
    """A writer to TensorBoard, to Weights & Biases if configured, and to `best`; only the first process writes.

    folder: the workdir, or the folder on this machine whose files are uploaded there.
    """
    if jax.process_index() > 0:
        return Writers([])
    fields = flatten(config)
    curves = TensorBoard(folder, start, {name: _plain(fields[name]) for name in HYPERPARAMETERS})
    size = config.data.batch_size
    by_images = ByImagesSeen(TensorBoard(folder / "by_images_seen", start * size), size)
    writers: list[Writer] = [best, curves, by_images]
    if config.log.wandb:
        settings = dataclasses.asdict(config)
        writers.append(WeightsAndBiases(folder, config.log.wandb_project, settings, wandb_id(workdir)))
    writer = Writers(writers)
    writer.text("config", "```json\n" + to_json(config) + "```")
    return writer


def _plain(value: Any) -> str | int | float:
    return value if isinstance(value, str | int | float) else str(value)


def describe(config: Config, workdir: AnyPath, state: TrainState, train: int, held: int, start: int) -> None:
    """Logs the workdir, the devices, the sizes and warnings when training starts."""
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    lines = {
        "Workdir": workdir,
        "Devices": f"{devices_in_words()}, jax {jax.__version__}",
        "Images": f"{train:,} to train on, {held:,} held out",
        "Parameters": f"{parameters:,}",
        "Steps": f"{start:,} to {config.train.steps:,} of {config.data.batch_size} images",
        "Watch": shell_command("tensorboard", "--logdir", workdir.parent),
    }
    for name, value in lines.items():
        logger.info(LINE, name, value)
    for line in before_training(config, train) if jax.process_index() == 0 else ():
        logger.warning("%s", line)
    logger.debug("Parameters:\n%s", get_parameter_overview(state.params, include_stats=False))


def describe_step(cost: StepCost) -> None:
    """Logs what a training step costs, which is known once it is compiled."""
    logger.info(LINE, "One step", cost_in_words(cost))


def begin_segment(start: int) -> Callable[[int], Segment]:
    """The segment that begins now at a step, as a function of the step that it has reached.

    Only the first process writes it, so the others do not ask for the commit, which takes a while on a network disk.
    """
    began, command = time.monotonic(), printable(shlex.join(sys.argv))
    commit = commit_of_code() if jax.process_index() == 0 else None
    facts = (command, commit, devices_in_words(), jax.__version__)
    return lambda step: Segment(*facts, start, step, round(time.monotonic() - began, 3))


def devices_in_words() -> str:
    """Number and kind of the devices, such as "1 x NVIDIA H200 (gpu)"."""
    device = jax.devices()[0]
    words = f"{jax.device_count()} x {device.device_kind}"
    if device.platform == "cpu":  # Its kind says nothing about its speed.
        return f"{words}, {usable_cpus()} cores of {processor_name()}"
    return f"{words} ({device.platform})"


def summarise(config: Config, workdir: AnyPath, best: BestSoFar, steps: Sequence[int]) -> None:
    """Logs the lowest losses, the checkpoints and the next command when training ends."""
    points = best.lowest().items()
    found = (f"{name.replace('/', ' ')} {value:.4g} at step {step:,}" for name, (step, value) in points)
    lines = {
        "Lowest": ", ".join(found) or "nothing was measured",
        "Checkpoints": f"{checkpoint_folder(workdir)} (steps {', '.join(map(str, steps))})",
        "Watch": shell_command("tensorboard", "--logdir", workdir.parent),
        "Next": next_command(config, workdir),
    }
    logger.info("Trained to step %d.", config.train.steps)
    for name, value in lines.items():
        logger.info(LINE, name, value)


def cost_in_words(cost: StepCost) -> str:
    """Arithmetic and memory of a step as text."""
    flops = f"{cost.flops / 1e9:,.3f} GFLOP"
    return flops if cost.memory is None else f"{flops}, {size_in_words(cost.memory)} of arrays on each device"
