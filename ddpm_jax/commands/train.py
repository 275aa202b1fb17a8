"""--mode=train: a run from its images to its last checkpoint. The same command again resumes it.

dataset -> batch(step) -> device -> compiled step -> state     (training/step.py has the step itself)
                                      |-> metrics -> TensorBoard            (reports.py)
                                      |-> checkpoints, when due or on a signal to stop
                                      |-> validation, evaluation, previews, when due    (monitors.py)
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial

import jax
from jax.sharding import Mesh

from ddpm_jax.builders import build_learner, build_loader, state_extras
from ddpm_jax.commands.cost import StepCost, matrix_rate, step_cost
from ddpm_jax.commands.light_evaluation import light_config
from ddpm_jax.commands.monitors import Monitors, build_monitors, comparison_configs
from ddpm_jax.commands.reports import Reports, begin_segment, describe, describe_step, open_writer, summarise
from ddpm_jax.commands.start_from import first_params, open_source, with_params
from ddpm_jax.config import Config, to_tree
from ddpm_jax.config.advice import after_divergence
from ddpm_jax.data.batches import Batch, prefetch
from ddpm_jax.data.dataset import hold_out
from ddpm_jax.data.open import open_dataset
from ddpm_jax.errors import TrainingDiverged, UserError
from ddpm_jax.reporting.profile import Profile
from ddpm_jax.reporting.throughput import Throughput
from ddpm_jax.reporting.writer import BestSoFar, import_wandb
from ddpm_jax.runtime.compilation import RUN_ONCE, jit, lower, own_settings
from ddpm_jax.runtime.cpu import release_memory
from ddpm_jax.runtime.devices import agreed_by_all, check_divisible, data_mesh, placed_shapes
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped, stop_requested
from ddpm_jax.runtime.urls import AnyPath, local_folder
from ddpm_jax.shapes import AnyArray
from ddpm_jax.training.cadence import due, due_or_last
from ddpm_jax.training.checkpoint import Checkpoints, checkpoint_steps
from ddpm_jax.training.ema import start_ema
from ddpm_jax.training.ema_snapshots import EmaSnapshots
from ddpm_jax.training.preemption import Preemption
from ddpm_jax.training.state import TrainState, init_state, is_finite
from ddpm_jax.training.step import Learner, Metrics, TrainStep, metrics_from_json, metrics_to_json, trace_step
from ddpm_jax.workdir import (
    Progress,
    acquired,
    checkpoint_folder,
    read_progress,
    refuse_another_run,
    snapshot_folder,
    write_progress,
)

logger = logging.getLogger(__name__)


def train(config: Config, workdir: AnyPath) -> None:
    """Trains until train.steps, from the newest checkpoint in the workdir if it has one."""
    mesh, rules = data_mesh(), config.checkpoint
    check_before_start(config, workdir, mesh)
    dataset = open_dataset(config)
    rows, held = hold_out(dataset, config.data.holdout)
    taken = first_params(config, workdir, dataset.names, mesh)  # Refused before anything is written.
    learner, load = build_learner(config, mesh), build_loader(config, dataset, rows, mesh)
    folder, power = checkpoint_folder(workdir), config.optimizer
    with (
        acquired(workdir, config, dataset) as confirm,
        local_folder(workdir) as curves,
        Checkpoints(
            folder, keep=rules.keep, keep_every=rules.keep_every, confirm=confirm, before_seal=curves.upload
        ) as checkpoints,
        EmaSnapshots(snapshot_folder(workdir), power.power_widths, power.ema_snapshots, confirm) as snapshots,
    ):
        state = start_state(config, learner, checkpoints, taken)
        start, skipped = int(state.step), int(state.skipped)
        snapshots.delete_after(start)
        before = read_progress(workdir, start)
        monitored, best = agreed_by_all(before.monitored), BestSoFar(before.lows, until=start)
        if start == monitored == config.train.steps:
            logger.info("Already at step %d; set a larger --config.train.steps to continue.", start)
            return
        segment = begin_segment(start)
        metrics = metrics_from_json(checkpoints.restore_metrics(start))
        describe(config, workdir, state, len(rows), len(held), start)
        step, cost = compile_step(learner, state, load(start))
        describe_step(cost)
        with closing(open_writer(config, workdir, curves.path, start, best)) as writer:
            monitors = Monitors(
                build_monitors(config, learner, dataset, held, writer, workdir),
                last=config.train.steps,
                done=monitored,
                remember=lambda step, done: write_progress(
                    workdir, Progress(done, best.lows, (*before.segments, segment(step))), confirm
                ),
            )
            throughput = Throughput(config.data.batch_size, start, ideal_rate(config, mesh, cost))
            profile = Profile(curves.path, config.log.profile)
            reports = Reports(
                config, writer, throughput, profile, metrics, skipped, partial(diverged, config, checkpoints)
            )
            signal_number = run_steps(config, state, step, load, reports, monitors, checkpoints, snapshots)
        if signal_number:
            raise Stopped(signal_number)
        summarise(config, workdir, best, checkpoint_steps(folder))


def run_steps(
    config: Config,
    state: TrainState,
    step: TrainStep,
    load: Callable[[int], Batch],
    reports: Reports,
    monitors: Monitors,
    checkpoints: Checkpoints,
    snapshots: EmaSnapshots,
) -> int | None:
    """The training loop; returns the number of the signal that stopped it, or None at the last step.

    The host runs a few steps ahead of an accelerator and waits only if something is due. A stop does not wait for
    monitors, which may take minutes: those due at its step run first when training resumes.
    """
    start, last, stopping = int(state.step), config.train.steps, False
    with Preemption() as preemption:
        with reports.throughput.paused():
            if not monitors.run(start, state):
                return stop_requested()
        batches = reports.throughput.timed(prefetch(load, range(start, last)))
        batches = progress(batches, "Training", "steps", total=last, done=start, note=reports.note)
        for done, batch in enumerate(batches, start + 1):
            if done <= start + 2:  # What compiling took; what the first step took.
                release_memory()
            with reports.profile.step(done):
                state, reports.metrics, streak = step(state, reports.metrics, batch)
            reports.push(done, streak)
            if due_or_last(done, config.optimizer.ema_snapshots, last):
                reports.drain()
                save_snapshot(config, checkpoints, snapshots, state)
            stopping = preemption.agreed(done)
            if saved := stopping or due(done, config.checkpoint.every, last):
                reports.drain()
                save(config, checkpoints, snapshots, state, reports.metrics, monitors)
            if not stopping:
                if monitors.due(done):
                    reports.drain()  # The steps in flight are training, not part of the pause.
                with reports.throughput.paused():
                    stopping = not monitors.run(done, state) and preemption.agreed(done)
            if stopping and not saved:
                save(config, checkpoints, snapshots, state, reports.metrics, monitors)
            if stopping:
                logger.info("Stopping: step %d is saved, from which the same command resumes.", done)
                break
        reports.profile.stop(state)
        reports.drain()
        snapshots.wait()
        checkpoints.wait()
    return preemption.requested if stopping else None


def check_before_start(config: Config, workdir: AnyPath, mesh: Mesh) -> None:
    """Raises UserError for mistakes that would otherwise show only after training has begun."""
    refuse_another_run(workdir, config)
    reached = max(checkpoint_steps(checkpoint_folder(workdir)), default=0)
    if reached > config.train.steps:
        raise UserError(
            f"train.steps={config.train.steps} is below step {reached}, which {workdir} has reached; raise it."
        )
    if not checkpoint_steps(checkpoint_folder(workdir)):
        open_source(config)
    elif config.train.start_from and not reached:
        raise UserError(
            f"train.start_from={config.train.start_from} has no effect: {workdir} holds imported parameters; leave it "
            "out, or choose another --workdir."
        )
    check_divisible(mesh, config.data.batch_size, config.train.accumulate, "data.batch_size")
    if config.evaluate.every:
        light_config(config)
    if config.log.preview_every and config.log.preview_samplers:
        comparison_configs(config)
    if config.log.wandb and jax.process_index() == 0:
        import_wandb()


def start_state(
    config: Config, learner: Learner, checkpoints: Checkpoints, taken: Mapping[str, AnyArray]
) -> TrainState:
    """The newest sound checkpoint, or a fresh state, laid out over the devices; taken: its `first_params`."""

    @jit  # Traced once for the shapes and for the values.
    def fresh(taken: Mapping[str, AnyArray]) -> TrainState:
        state = init_state(learner.unet, learner.optimizer, config.seed, config.image_shape, **state_extras(config))
        params = with_params(state.params, taken)
        return dataclasses.replace(state, params=params, ema=start_ema(params))

    like = placed_shapes(learner.mesh, jax.eval_shape(fresh, {}), config.train.sharding)
    restored = checkpoints.restore(like)
    if restored is not None:
        logger.info("Resuming from step %d", int(restored.step))
        checkpoints.set_aside_after(int(restored.step))
        return restored
    shardings = jax.tree.map(lambda shape: shape.sharding, like)
    return jit(fresh, out_shardings=shardings, compiler_options=RUN_ONCE)(taken)


def compile_step(learner: Learner, state: TrainState, batch: Batch) -> tuple[TrainStep, StepCost]:
    """The compiled training step and its cost."""
    logger.info("Compiling the training step …")
    traced = trace_step(learner, state, batch)
    compiled = lower(traced).compile()
    return own_settings()(compiled), step_cost(traced, compiled)


def ideal_rate(config: Config, mesh: Mesh, cost: StepCost) -> float:
    """Images per second at the peak rate of all devices."""
    peak = matrix_rate(config.model.dtype) * mesh.size
    return peak * config.data.batch_size / cost.flops


def save(
    config: Config,
    checkpoints: Checkpoints,
    snapshots: EmaSnapshots,
    state: TrainState,
    metrics: Metrics,
    monitors: Monitors,
) -> None:
    """Starts to save a state and its metrics; raises TrainingDiverged if the state is not finite."""
    refuse_non_finite(config, checkpoints, state)
    monitors.remember(int(state.step))
    snapshots.wait()  # A run that resumes from this checkpoint writes no snapshot again.
    checkpoints.save(state, to_tree(config), metrics_to_json(metrics))


def save_snapshot(config: Config, checkpoints: Checkpoints, snapshots: EmaSnapshots, state: TrainState) -> None:
    """Starts to save the power-function EMAs; raises TrainingDiverged if the state is not finite."""
    refuse_non_finite(config, checkpoints, state)
    checkpoints.wait()  # One save at a time, since both meet the other processes.
    snapshots.save(state, to_tree(config))


def refuse_non_finite(config: Config, checkpoints: Checkpoints, state: TrainState) -> None:
    """Raises TrainingDiverged if the state is not finite."""
    if not is_finite(state):
        raise diverged(config, checkpoints, int(state.step), "a parameter, its EMA or a moment is no longer finite")


def diverged(config: Config, checkpoints: Checkpoints, step: int, reason: str) -> TrainingDiverged:
    """The error that ends a run whose numbers are no longer finite."""
    checkpoints.wait()
    good = checkpoint_steps(checkpoints.folder)
    last = f"the last good checkpoint is step {good[-1]}" if good else "no checkpoint was saved yet"
    return TrainingDiverged(
        f"Training stopped at step {step}: {reason}; {last}. Try a new --workdir with {after_divergence(config)}."
    )
