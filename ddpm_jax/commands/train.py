"""--mode=train: the whole story of a run, from images to the last checkpoint. The same command again resumes it.

dataset -> batch(step) -> device -> compiled step -> state     (training/step.py has the step itself)
                                      |-> feedback -> TensorBoard
                                      |-> validation, previews, checkpoints: each when due
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from clu.parameter_overview import get_parameter_overview

from ddpm_jax.builders import build_learner, build_loader
from ddpm_jax.commands.cost import StepCost, matrix_rate, step_cost
from ddpm_jax.commands.evaluate import light_config
from ddpm_jax.commands.monitors import build_monitors, comparison_configs
from ddpm_jax.config import Config, flatten, to_json, to_tree
from ddpm_jax.data.batches import Batch, prefetch
from ddpm_jax.data.dataset import hold_out, traits
from ddpm_jax.data.open import open_dataset
from ddpm_jax.errors import TrainingDiverged, UserError, program
from ddpm_jax.reporting.memory import memory_in_use, size_in_words
from ddpm_jax.reporting.profile import Profile
from ddpm_jax.reporting.throughput import Throughput
from ddpm_jax.reporting.writer import (
    JUDGED_BY,
    BestSoFar,
    ByImagesSeen,
    TensorBoard,
    WeightsAndBiases,
    Writer,
    Writers,
    tag,
)
from ddpm_jax.runtime.devices import check_divisible, data_mesh, state_sharding
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped
from ddpm_jax.training.cadence import due
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.feedback import Feedback
from ddpm_jax.training.preemption import Preemption
from ddpm_jax.training.state import TrainState, init_state, is_finite
from ddpm_jax.training.step import Learner, Metrics, empty_metrics, lower_step
from ddpm_jax.workdir import acquired, checkpoint_folder, refuse_another_run

HYPERPARAMETERS = (
    *("seed", "data.image_size", "data.batch_size", "train.steps", "train.accumulate", "train.label_dropout"),
    *("model.channels", "model.multipliers", "model.blocks", "model.attention_resolutions", "model.dropout"),
    *("model.classes", "model.attributes", "model.dtype", "diffusion.steps", "diffusion.schedule"),
    *("diffusion.prediction", "diffusion.loss", "diffusion.weighting", "diffusion.variance"),
    *("optimizer.learning_rate", "optimizer.warmup", "optimizer.schedule", "optimizer.ema_decay", "optimizer.clip"),
)
"""Fields by which TensorBoard's page of hyperparameters tells runs apart."""

logger = logging.getLogger(__name__)


def train(config: Config, workdir: Path) -> None:
    """Trains until train.steps, from the newest checkpoint in the workdir if there is one."""
    refuse_another_run(workdir, config)
    refuse_to_shorten(workdir, config)
    mesh = data_mesh()
    check_divisible(mesh, config.data.batch_size, config.train.accumulate, "data.batch_size")
    if config.evaluate.every:
        light_config(config)  # Raises now what would be found out after the run was begun.
    if config.log.preview_every and config.log.preview_samplers:
        comparison_configs(config)  # Likewise.
    dataset = open_dataset(config)
    rows, held = hold_out(dataset, config.data.holdout)
    learner = build_learner(config, mesh)
    keep = {"keep": config.checkpoint.keep, "keep_every": config.checkpoint.keep_every}
    with acquired(workdir, config, traits(dataset)), Checkpoints(checkpoint_folder(workdir), **keep) as checkpoints:
        state = start_state(config, learner, checkpoints)
        start = int(state.step)
        if start == config.train.steps:
            logger.info("Already at step %d; a larger train.steps goes on from there.", start)
            return
        load = build_loader(config, dataset, rows, mesh)
        logger.info("Compiling the training step …")
        lowered = lower_step(learner, state, load(start))
        step = lowered.compile()
        cost = step_cost(lowered, step, parts=config.train.accumulate, devices=mesh.size)
        describe(config, workdir, state, cost, len(rows), len(held), start)
        peak = matrix_rate(config.model.dtype) * mesh.size
        ideal = peak * config.data.batch_size / cost.flops if cost.flops else None
        best = BestSoFar()
        writer = open_writer(config, workdir, start, best)
        try:
            monitors = build_monitors(config, learner, dataset, held, writer, workdir)
            profile = Profile(workdir, config.log.profile)
            throughput = Throughput(config.data.batch_size, start, ideal)
            with Preemption() as preemption:
                stopped = run_steps(
                    config, step, state, load, checkpoints, preemption, monitors, writer, profile, throughput
                )
                checkpoints.wait()
        finally:
            writer.close()
        if stopped and preemption.requested:
            raise Stopped(preemption.requested)
        summarise(config, workdir, best, checkpoints.steps())


def refuse_to_shorten(workdir: Path, config: Config) -> None:
    """A run cannot end before the step that it has reached."""
    with Checkpoints(checkpoint_folder(workdir)) as checkpoints:
        reached = max(checkpoints.steps(), default=0)
    if reached > config.train.steps:
        raise UserError(
            f"train.steps={config.train.steps} is below step {reached}, which {workdir} has reached; raise it."
        )


def run_steps(
    config: Config,
    step: Callable[[TrainState, Metrics, Batch], tuple[TrainState, Metrics, jax.Array]],
    state: TrainState,
    load: Callable[[int], Batch],
    checkpoints: Checkpoints,
    preemption: Preemption,
    monitors: list[Callable[[int, TrainState], None]],
    writer: Writer,
    profile: Profile,
    throughput: Throughput,
) -> bool:
    """The loop; returns whether it was asked to stop before its end.

    The host runs a few steps ahead of the device; whatever waits for it does so only when due.
    """
    start, last, stopping = int(state.step), config.train.steps, False
    metrics, latest = empty_metrics(), dict[str, float]()
    feedback = build_feedback(config, checkpoints, writer, throughput, latest, int(state.skipped))
    batches = throughput.timed(prefetch(load, range(start, last)))
    note = partial(_note, latest)
    for done, batch in enumerate(progress(batches, "Training", total=last, done=start, note=note), start=start + 1):
        with profile.step(done):
            state, metrics, streak = step(state, metrics, batch)
        profile.stop_after(done, streak)
        reporting = due(done, config.log.every, last)
        feedback.push(done, streak, metrics if reporting else None)
        metrics = empty_metrics() if reporting else metrics
        stopping = preemption.agreed(done)
        if due(done, config.checkpoint.every, last) or stopping:
            feedback.drain()
            writer.flush()
            save(checkpoints, state, config)
        if stopping:
            logger.info("Asked to stop: saving step %d, from which the same command goes on.", done)
            break
        with throughput.paused():
            for watch in monitors:
                watch(done, state)
    profile.stop(state)
    feedback.drain()
    return stopping


def start_state(config: Config, learner: Learner, checkpoints: Checkpoints) -> TrainState:
    """The newest sound checkpoint, or a fresh state, laid out over the devices."""

    @jax.jit  # Traced once for the shapes and for the values.
    def fresh() -> TrainState:
        return init_state(learner.unet, learner.optimizer, config.seed, config.data.image_size, config.data.channels)

    shapes = jax.eval_shape(fresh)
    shardings = state_sharding(learner.mesh, shapes, config.train.sharding)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    restored = checkpoints.restore(like)
    if restored is not None:
        logger.info("Resuming from step %d", int(restored.step))
        checkpoints.set_aside_after(int(restored.step))
        return restored
    # Drawing random numbers is all this does, once: optimised code would take longer to compile than to save.
    return jax.jit(fresh, out_shardings=shardings, compiler_options={"xla_backend_optimization_level": 0})()


def save(checkpoints: Checkpoints, state: TrainState, config: Config) -> None:
    """Saves a state that is sound; one that is not ends the training."""
    if not is_finite(state):
        raise diverged(int(state.step), checkpoints, "a parameter, average or moment is no longer finite")
    workdir = checkpoints.folder.parent
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} was moved or removed while it was trained in; bring it back, and start again.")
    checkpoints.save(state, to_tree(config))


def diverged(step: int, checkpoints: Checkpoints, what: str) -> TrainingDiverged:
    """The error that ends a training whose numbers went wrong."""
    checkpoints.wait()
    good = checkpoints.steps()
    last = f"the last good checkpoint is step {good[-1]}" if good else "no checkpoint was saved yet"
    return TrainingDiverged(
        f"Training stopped at step {step}: {what}; {last}. Try a new --workdir with a lower "
        "optimizer.learning_rate, a longer optimizer.warmup, a smaller optimizer.clip, or model.dtype=float32."
    )


def build_feedback(
    config: Config,
    checkpoints: Checkpoints,
    writer: Writer,
    throughput: Throughput,
    latest: dict[str, float],
    skipped: int,
) -> Feedback:
    """Reports go to the writer and to `latest`; bad steps are logged and counted; too many in a row end the training.

    skipped: steps before this start.
    """

    def bad_step(step: int, streak: int) -> None:
        nonlocal skipped
        skipped += 1
        logger.warning("Step %d was skipped: its loss or gradient is not finite (%d in a row)", step, streak)
        if streak >= config.train.max_bad_steps:
            raise diverged(step, checkpoints, f"{streak} losses or gradients in a row were not finite")

    def report(step: int, means: Mapping[str, float]) -> None:
        values = {**means, "skipped_steps": float(skipped), **throughput.read(step), **memory_in_use()}
        latest.update(values)
        writer.scalars(step, {tag(name): value for name, value in values.items()})
        words = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        logger.debug("step %d: %s", step, words)

    return Feedback(bad_step, report)


def _note(latest: Mapping[str, float]) -> str:
    if "loss" not in latest:
        return ""
    return f"loss {latest['loss']:.4f}, {latest['images_per_second']:.0f} images/s"


def open_writer(config: Config, workdir: Path, start: int, best: BestSoFar) -> Writer:
    """TensorBoard, Weights & Biases if asked, and what remembers the best; only the first process writes."""
    if jax.process_index() > 0:
        return Writers([])
    fields = flatten(config)
    curves = TensorBoard(workdir, start, {name: _plain(fields[name]) for name in HYPERPARAMETERS})
    size = config.data.batch_size
    by_images = ByImagesSeen(TensorBoard(workdir / "by_images_seen", start * size), size)
    places: list[Writer] = [best, curves, by_images]
    if config.log.wandb:
        places.append(WeightsAndBiases(workdir, config.log.wandb_project, dataclasses.asdict(config)))
    writer = Writers(places)
    writer.text("config", "```json\n" + to_json(config) + "```")
    return writer


def _plain(value: Any) -> str | int | float:
    return value if isinstance(value, str | int | float) else str(value)


def describe(
    config: Config, workdir: Path, state: TrainState, cost: StepCost, train: int, held: int, start: int
) -> None:
    """The first screen: where, on what, how large, how to watch."""
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    device = jax.devices()[0]
    lines = {
        "Workdir": workdir,
        "Devices": f"{jax.device_count()} x {device.device_kind} ({device.platform}), jax {jax.__version__}",
        "Images": f"{train:,} to train on, {held:,} held out",
        "Parameters": f"{parameters:,}",
        "One step": cost_in_words(cost),
        "Steps": f"{start:,} to {config.train.steps:,} of {config.data.batch_size} images",
        "Watch": f"tensorboard --logdir {workdir.parent}",
    }
    for name, value in lines.items():
        logger.info("%-11s %s", name, value)
    logger.debug("Parameters:\n%s", get_parameter_overview(state.params, include_stats=False))


def summarise(config: Config, workdir: Path, best: BestSoFar, steps: Sequence[int]) -> None:
    """The last screen: how well, where what lies, and what to do next."""
    points = best.of(JUDGED_BY).items()
    found = (f"{name.replace('/', ' ')} {value:.4g} at step {step:,}" for name, (value, step) in points)
    lines = {
        "Lowest": ", ".join(found) or "nothing was measured",
        "Checkpoints": f"{checkpoint_folder(workdir)} (steps {', '.join(map(str, steps))})",
        "Watch": f"tensorboard --logdir {workdir.parent}",
        "Next": f"{program()} --mode=sample --workdir={workdir}",
    }
    logger.info("Trained to step %d.", config.train.steps)
    for name, value in lines.items():
        logger.info("%-11s %s", name, value)


def cost_in_words(cost: StepCost) -> str:
    """Arithmetic and memory of a step."""
    flops = "unknown arithmetic" if cost.flops is None else f"{cost.flops / 1e9:,.3f} GFLOP"
    return flops if cost.memory is None else f"{flops}, {size_in_words(cost.memory)} of memory on each device"
