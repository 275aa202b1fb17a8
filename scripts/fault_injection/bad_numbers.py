"""Numbers that go wrong while training: not finite in a batch, a gradient, a parameter; too large; beyond bfloat16."""

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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_jax.commands.cli import main
from ddpm_jax.reporting.writer import tag
from ddpm_jax.runtime.log import quieten_log
from ddpm_jax.training import step as training_step
from ddpm_jax.training.state import is_finite
from scripts.fault_injection.commands import LENGTH, Outcome, newest_state, same_bits, training

SPOILED = (5, 21, 22, 38, 53)
"""Steps, counted from 0, that meet something bad."""
STEP = "ddpm_jax.training.step.train_step"
Spoil = Callable[[Any, jax.Array], Any]


def pixel(value: float) -> Spoil:
    """Adds to one pixel of a batch."""

    def spoil(batch: Any, now: jax.Array) -> Any:
        images = batch.images.astype(jnp.float32)
        return batch._replace(images=images.at[0, 0, 4, 4, 0].add(jnp.where(now, value, 0.0)))

    return spoil


def one_number(tree: Any, now: jax.Array) -> Any:
    """Makes the first number of the first array NaN."""
    leaves, structure = jax.tree.flatten(tree)
    leaves[0] = leaves[0].ravel().at[0].add(jnp.where(now, jnp.nan, 0.0)).reshape(leaves[0].shape)
    return jax.tree.unflatten(structure, leaves)


def all_numbers(tree: Any, now: jax.Array) -> Any:
    """Makes all numbers a thousand times larger."""
    return jax.tree.map(lambda x: x * jnp.where(now, 1000.0, 1.0), tree)


def spoiled_step(batch: Spoil | None = None, params: Spoil | None = None) -> Callable[..., Any]:
    """The training step, to which something bad is given at some steps."""

    def step(learner: Any, state: Any, metrics: Any, rows: Any) -> Any:
        now = jnp.isin(state.step, jnp.array(SPOILED))
        rows = batch(rows, now) if batch else rows
        state = dataclasses.replace(state, params=params(state.params, now)) if params else state
        return training_step.train_step(learner, state, metrics, rows)

    return step


def spoiled_gradient(gradient: Spoil, loss: Spoil = lambda loss, _: loss) -> Callable[..., Any]:
    """What computes the gradient and the loss, both of which go wrong for every tenth batch or so."""
    compute = training_step._accumulated_gradient

    def spoiled(learner: Any, params: Any, batch: Any, key: Any) -> Any:
        found, losses, t = compute(learner, params, batch, key)
        now = jnp.sum(batch.images.astype(jnp.int32)) % 10 == 0
        return gradient(found, now), loss(losses, now), t

    return spoiled


def numbers(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Trains with each kind of trouble, and looks at what was skipped, told and saved."""
    gradient = "ddpm_jax.training.step._accumulated_gradient"
    skipped = {
        "NaN in a batch": (STEP, spoiled_step(batch=pixel(math.nan)), {}),
        "overflow in bfloat16": (STEP, spoiled_step(batch=pixel(1e38)), {"model_dtype": "bfloat16"}),
        "NaN in a gradient": (gradient, spoiled_gradient(one_number), {}),
    }
    for name, (what, by, fields) in skipped.items():
        folder = flags.folder / name.replace(" ", "-")
        code = train(folder, what, by, **fields)
        yield Outcome(name, told(folder), skipped_well(folder, code), "Skipped, counted, and shown in TensorBoard.")
    folder = flags.folder / "spike"
    code = train(folder, gradient, spoiled_gradient(all_numbers, all_numbers))
    spikes, lost = spiked_well(folder, code)
    yield Outcome("a spike of the loss", spikes, lost, "The gradient is clipped; TensorBoard shows both.")
    yield from of_parameters(flags.folder)


def of_parameters(folder: Path) -> Iterator[Outcome]:
    """A parameter that is NaN ends the training; the next start goes on from what was saved before."""
    undisturbed, spoiled = folder / "alone", folder / "parameter"
    train(undisturbed)
    code = train(spoiled, STEP, spoiled_step(params=one_number))
    log = (spoiled / "train.log").read_text()
    lost = "" if code == 1 and "the last good checkpoint is step" in log else f"ended with {code}"
    if not lost and not is_finite(newest_state(spoiled)):
        lost = "saved what is not finite"
    if not lost and (train(spoiled) or not same_bits(newest_state(undisturbed), newest_state(spoiled))):
        lost = "another final state"
    yield Outcome("NaN in a parameter", 1, lost, "Ended with 1; the next start goes on to the same bits.")


def train(workdir: Path, what: str = "", by: Any = None, **fields: Any) -> int:
    """Trains here and now, quietly, with one function in place of another; returns the exit code."""
    with redirect_stderr(io.StringIO()), mock.patch(what, by) if what else nullcontext():
        code = main(training(workdir, log_every=1, checkpoint_every=4, train_max_bad_steps=10, **fields))
    quieten_log()  # What follows looks at the state, and would tell of it.
    return code


def told(workdir: Path) -> int:
    """How many skipped steps the log names."""
    return (workdir / "train.log").read_text().count(" was skipped: its loss or gradient is not finite")


def curve(workdir: Path, name: str) -> np.ndarray:
    """A scalar as TensorBoard shows it."""
    return np.array([event.value for event in EventAccumulator(str(workdir)).Reload().Scalars(tag(name))])


def skipped_well(workdir: Path, code: int) -> str:
    """What is wrong with a run that was to skip some steps."""
    state, counted = newest_state(workdir), curve(workdir, "skipped_steps")
    if code or int(state.step) != LENGTH["train.steps"] or not is_finite(state):
        return f"ended with {code} at step {int(state.step)}"
    if not 0 < told(workdir) == int(state.skipped) == counted[-1] or not np.isfinite(curve(workdir, "loss")).all():
        return f"{told(workdir)} told, {int(state.skipped)} counted, {counted[-1]} shown"
    return ""


def spiked_well(workdir: Path, code: int) -> tuple[int, str]:
    """How many losses and gradients were far too large, and what is wrong with the run that was to get over them."""
    spikes = {name: curve(workdir, name) > 100 * np.median(curve(workdir, name)) for name in ("loss", "gradient_norm")}
    count = int(spikes["loss"].sum())
    if code or told(workdir) or not count or not np.array_equal(spikes["loss"], spikes["gradient_norm"]):
        return count, f"ended with {code}; {count} spikes of the loss, {spikes['gradient_norm'].sum()} of the gradient"
    losses = curve(workdir, "loss")[~spikes["loss"]]
    return count, "" if np.mean(losses[-10:]) < np.mean(losses[:10]) else "the loss does not fall any more"
