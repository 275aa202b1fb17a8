"""Bad numbers during training: not finite in a batch, a gradient or a parameter; too large; overflowing bfloat16."""

import argparse
import dataclasses
import io
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.commands.cli import main
from ddpm_jax.reporting.curves import read_curves
from ddpm_jax.reporting.writer import tag
from ddpm_jax.runtime.log import quieten_log
from ddpm_jax.training import step as training_step
from ddpm_jax.training.state import is_finite
from scripts.fault_injection.commands import LENGTH, Outcome, newest_state, same_bits, training

BAD_STEPS = (5, 21, 22, 38, 53)
"""Steps, counted from 0, at which a fault is injected."""
STEP = "ddpm_jax.training.step.train_step"
GRADIENT = "ddpm_jax.training.step._accumulated_gradient"
Fault = Callable[[Any, jax.Array], Any]
"""A function of a tree and of whether the fault is due, a boolean scalar."""


def pixel(value: float) -> Fault:
    """Adds a value to one pixel of a batch."""

    def fault(batch: Any, due: jax.Array) -> Any:
        images = batch.images.astype(jnp.float32)
        return batch._replace(images=images.at[0, 0, 4, 4, 0].add(jnp.where(due, value, 0.0)))

    return fault


def first_number_nan(tree: Any, due: jax.Array) -> Any:
    """Makes the first number of the first array NaN."""
    leaves, structure = jax.tree.flatten(tree)
    leaves[0] = leaves[0].ravel().at[0].add(jnp.where(due, jnp.nan, 0.0)).reshape(leaves[0].shape)
    return jax.tree.unflatten(structure, leaves)


def too_large(tree: Any, due: jax.Array) -> Any:
    """Makes all numbers a thousand times larger."""
    return jax.tree.map(lambda x: x * jnp.where(due, 1000.0, 1.0), tree)


def faulty_step(batch: Fault | None = None, params: Fault | None = None) -> Callable[..., Any]:
    """The training step with faults at BAD_STEPS."""

    def step(learner: Any, state: Any, metrics: Any, rows: Any) -> Any:
        due = jnp.isin(state.step, jnp.array(BAD_STEPS))
        rows = batch(rows, due) if batch else rows
        state = dataclasses.replace(state, params=params(state.params, due)) if params else state
        return training_step.train_step(learner, state, metrics, rows)

    return step


def faulty_gradient(gradient: Fault, loss: Fault = lambda loss, _: loss) -> Callable[..., Any]:
    """The function that computes gradients and losses, with faults in about every tenth batch."""
    compute = training_step._accumulated_gradient

    def faulty(learner: Any, params: Any, batch: Any, step: Any) -> Any:
        gradients, losses, t = compute(learner, params, batch, step)
        due = jnp.sum(batch.images.astype(jnp.int32)) % 10 == 0
        return gradient(gradients, due), loss(losses, due), t

    return faulty


def numbers(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Trains with each kind of bad number and checks what was skipped, logged and saved."""
    skipped = {
        "NaN in a batch": (STEP, faulty_step(batch=pixel(math.nan)), {}),
        "overflow in bfloat16": (STEP, faulty_step(batch=pixel(1e38)), {"model_dtype": "bfloat16"}),
        "NaN in a gradient": (GRADIENT, faulty_gradient(first_number_nan), {}),
    }
    for name, (target, replacement, fields) in skipped.items():
        folder = flags.folder / name.replace(" ", "-")
        code = train(folder, target, replacement, **fields)
        remark = "Skipped, counted, and shown in TensorBoard."
        yield Outcome(name, logged_skips(folder), skipping_errors(folder, code), remark)
    folder = flags.folder / "spike"
    code = train(folder, GRADIENT, faulty_gradient(too_large, too_large))
    spikes, lost = spike_errors(folder, code)
    yield Outcome("a spike of the loss", spikes, lost, "The gradient is clipped; TensorBoard shows both.")
    yield nan_in_a_parameter(flags.folder)


def nan_in_a_parameter(folder: Path) -> Outcome:
    """A parameter that is NaN ends the training; the next start resumes from the checkpoint before."""
    undisturbed, faulty = folder / "undisturbed", folder / "parameter"
    train(undisturbed)
    code = train(faulty, STEP, faulty_step(params=first_number_nan))
    log = (faulty / "train.log").read_text()
    lost = "" if code == 1 and "the last good checkpoint is step" in log else f"ended with {code}"
    if not lost and not is_finite(newest_state(faulty)):
        lost = "saved a state that is not finite"
    if not lost and (train(faulty) or not same_bits(newest_state(undisturbed), newest_state(faulty))):
        lost = "another final state"
    return Outcome("NaN in a parameter", 1, lost, "Ended with 1; the next start reaches the same bits.")


def train(workdir: Path, target: str = "", replacement: Any = None, **fields: Any) -> int:
    """Trains in this process without output, with one function replaced; returns the exit code."""
    with redirect_stderr(io.StringIO()), mock.patch(target, replacement) if target else nullcontext():
        code = main(training(workdir, log_every=1, checkpoint_every=4, train_max_bad_steps=10, **fields))
    quieten_log()  # Reading the state afterwards would log it.
    return code


def logged_skips(workdir: Path) -> int:
    """The number of skipped steps in the log."""
    return (workdir / "train.log").read_text().count(" was skipped: its loss or gradient is not finite")


def curve(workdir: Path, name: str) -> np.ndarray:
    """A scalar's values in TensorBoard."""
    return np.array([value for _, value in read_curves(workdir)[tag(name)]])


def skipping_errors(workdir: Path, code: int) -> str:
    """The error of a run that should have skipped some steps; empty if there is none."""
    state, counted = newest_state(workdir), curve(workdir, "skipped_steps")
    if code or int(state.step) != LENGTH["train.steps"] or not is_finite(state):
        return f"ended with {code} at step {int(state.step)}"
    logged = logged_skips(workdir)
    if not 0 < logged == int(state.skipped) == counted[-1] or not np.isfinite(curve(workdir, "loss")).all():
        return f"{logged} logged, {int(state.skipped)} counted, {counted[-1]} shown"
    return ""


def spike_errors(workdir: Path, code: int) -> tuple[int, str]:
    """The number of spikes, and the error of a run that should have recovered from them; empty if there is none."""
    spikes = {name: curve(workdir, name) > 100 * np.median(curve(workdir, name)) for name in ("loss", "gradient_norm")}
    count = int(spikes["loss"].sum())
    if code or logged_skips(workdir) or not count or not np.array_equal(spikes["loss"], spikes["gradient_norm"]):
        return count, f"ended with {code}; {count} spikes of the loss, {spikes['gradient_norm'].sum()} of the gradient"
    losses = curve(workdir, "loss")[~spikes["loss"]]
    return count, "" if np.mean(losses[-10:]) < np.mean(losses[:10]) else "the loss no longer falls"
