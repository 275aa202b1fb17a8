"""--mode=plan: the cost of a run without training it: arithmetic, memory, time and disk.

shapes -> the step, compiled for one device's images -> FLOPs, bytes -> how many images fit at once
              |-> a few steps on one device here, or --plan.teraflops -> images/s -> hours

The devices need not exist: each of --plan.devices is assumed to be as fast as one here, and communication is counted,
not timed.
"""

import dataclasses
import math
from collections.abc import Generator, Iterator

import jax
from jax.sharding import AbstractMesh

from ddpm_jax.builders import state_shapes
from ddpm_jax.commands.cost import (
    REMEDY,
    USABLE,
    LinearModel,
    bytes_of,
    matrix_rate,
    rounded,
    sent_bytes,
    state_bytes,
)
from ddpm_jax.commands.one_device import Measured, OneDevice, ProcessMemory, measure
from ddpm_jax.commands.target import target_lines, target_mesh
from ddpm_jax.config import Config
from ddpm_jax.config.fields import Count, Positive, field
from ddpm_jax.data.dataset import held_out
from ddpm_jax.data.open import count_images
from ddpm_jax.errors import UserError
from ddpm_jax.reporting.memory import device_limit, size_in_words
from ddpm_jax.runtime.devices import abstract_mesh, check_divisible
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.training.cadence import due
from ddpm_jax.training.checkpoint import checkpoint_steps, retained_steps
from ddpm_jax.training.ema_snapshots import retained_snapshots
from ddpm_jax.training.state import TrainState
from ddpm_jax.workdir import checkpoint_folder

EXCLUSIVE = ("devices", "memory", "teraflops")
"""Options that --plan.target determines."""
SPANS = ((1 / 30, 3600, "seconds"), (2, 60, "minutes"), (48, 1, "hours"), (math.inf, 1 / 24, "days"))
"""Limits in hours, units per hour, and units in which durations are printed."""


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """The devices to plan for, from the flags --plan.*."""

    devices: Count | None = field(None, "Number of devices to train on; None for those of this machine.")
    memory: Positive | None = field(
        None,
        "GiB for arrays on each device (JAX leaves a quarter of a GPU's memory free); None for that of a device here.",
    )
    teraflops: Positive | None = field(
        None, "TFLOP/s that each device reaches in a training step; None to time steps on a device here."
    )
    target: str | None = field(
        None,
        "A slice of TPUs that need not exist, such as v5e:4x4, for which libtpu compiles; None for no TPUs.",
    )
    price: Positive | None = field(None, "Price of one device for an hour, in any currency.")


def plan(config: Config, options: PlanOptions, workdir: AnyPath | None) -> None:
    """Prints the cost of training with this configuration, from the newest checkpoint of the workdir on."""
    if jax.process_count() > 1:
        raise UserError("--mode=plan runs in one process; start it on one machine, with --plan.devices=….")
    for name, value in lines_of_plan(config, options, workdir):
        print(f"{name:14} {value}", flush=True)


def lines_of_plan(config: Config, options: PlanOptions, workdir: AnyPath | None) -> Iterator[tuple[str, str]]:
    """The lines of the plan, name and text, each as soon as it is known."""
    if options.target and (given := [name for name in EXCLUSIVE if getattr(options, name) is not None]):
        raise UserError(f"--plan.target={options.target} determines --plan.{given[0]}; leave out one of them.")
    target = target_mesh(options.target) if options.target else None
    devices = target.size if target else options.devices or jax.device_count()
    microbatches, total = config.train.accumulate, config.data.batch_size
    check_divisible(abstract_mesh(devices), total, microbatches, "data.batch_size")
    state, images = state_shapes(config), total // devices // microbatches
    local = f"planned on a local {jax.default_backend()} ({jax.devices()[0].device_kind})"
    yield "Devices", f"{devices}, {f'{options.target}, compiled for by libtpu' if target else local}"
    yield "Parameters", f"{sum(x.size for x in jax.tree.leaves(state.params)):,}"
    yield "Batch", f"{total:,} images = {images} at once x {microbatches} (train.accumulate) x {devices} (devices)"
    if devices > 1:
        yield "Communication", f"{size_in_words(sent_bytes(state.params, devices))} a step, sent by each device"
    speed = yield from target_lines(config, target) if target else device_lines(config, options, devices)
    if speed is not None:
        start = 0 if workdir is None else max(checkpoint_steps(checkpoint_folder(workdir)), default=0)
        hours = max(config.train.steps - start, 0) * total / speed / 3600
        yield "Time", time_in_words(config, options, devices, start, hours)
    yield "Checkpoints", checkpoints_in_words(config, bytes_of(state))
    if config.optimizer.ema_snapshots:
        yield "EMA snapshots", snapshots_in_words(config, bytes_of(state.power_emas))
    yield "Images", images_in_words(config)


def device_lines(config: Config, options: PlanOptions, devices: int) -> Generator[tuple[str, str], None, float | None]:
    """Arithmetic, memory and speed, measured on one device here; returns images/s of all, None if unknown."""
    mesh, one, total = abstract_mesh(devices), OneDevice(config), config.data.batch_size
    rate = matrix_rate(config.model.dtype)
    measured = measure(one, total // devices // config.train.accumulate, rate, timed=not options.teraflops)
    yield "Arithmetic", f"{rounded(measured.flops * total / 1e9)} GFLOP a step"
    if measured.memory is not None:
        # A CPU's memory also holds the process.
        local = jax.default_backend() == "cpu" and devices == 1 and not options.memory
        process = one.process if local else None
        yield from memory_in_words(config, options, mesh, one.shapes, measured.memory, process)
    speed, text = speed_in_words(config, options, devices, measured, rate)
    yield "Speed", text
    return speed


def speed_in_words(
    config: Config, options: PlanOptions, devices: int, measured: Measured, rate: float
) -> tuple[float | None, str]:
    """Images/s of all devices, None if unknown, and the text of the line."""
    if options.teraflops:
        speed = devices * options.teraflops * 1e12 / measured.flops
        return speed, f"{rounded(speed)} images/s at {options.teraflops:g} TFLOP/s on each device"
    if not measured.timed:
        return None, "not timed, since not one image fits on a device here; set --plan.teraflops"
    per_device = measured.timed / measured.seconds
    share = f"{measured.flops * per_device / rate:.0%} of its rate in matrix products"
    speed = devices * per_device
    text = f"{rounded(speed)} images/s, {rounded(per_device)} on each device with {measured.timed} at once, {share}"
    return speed, text


def memory_in_words(
    config: Config,
    options: PlanOptions,
    mesh: AbstractMesh,
    state: TrainState,
    line: LinearModel,
    process: ProcessMemory | None = None,
) -> Iterator[tuple[str, str]]:
    """Memory of a step on each device of the mesh, and how many images fit, with a remedy for a batch that does not.

    process: the memory of this process, if the device is its CPU; its bytes are no longer free here.
    """
    devices, total = mesh.size, config.data.batch_size
    microbatches = config.train.accumulate
    images = total // devices // microbatches

    def on_mesh(microbatches: int) -> LinearModel:
        return LinearModel(line.fixed + extra_bytes(config, state, mesh, microbatches), line.per_image)

    each = f"{size_in_words(line.per_image)} for each image at once"
    taken, where = on_mesh(microbatches).at(images), "on each device"
    if process is not None:
        taken, where = process.with_arrays(taken), "of the process (peak resident)"
    yield "Memory", f"{size_in_words(taken)} {where}, including {each}"
    limit = options.memory * 2**30 if options.memory else device_limit()
    if limit is None:
        return
    most, usable = on_mesh(microbatches).most_images(USABLE * limit), f"nine tenths of {size_in_words(limit)}"
    if images <= most:
        yield "Fits", f"yes: up to {most:,} images at once in {usable}"
        return
    enough = microbatches_that_fit(total, devices, on_mesh(2).most_images(USABLE * limit))
    if enough is None:
        yield "Fits", f"no: not one image in {usable}; {REMEDY}"
    else:
        fewer = f"{total // devices // enough} at once and the sums of their gradients would"
        yield "Fits", f"no: {images:,} images at once do not fit in {usable}; {fewer}: set train.accumulate={enough}"


def extra_bytes(config: Config, state: TrainState, mesh: AbstractMesh, microbatches: int) -> int:
    """Bytes on a device of the mesh minus those on a single device with one microbatch; negative if FSDP saves some."""
    params = bytes_of(state.params)
    divided = state_bytes(state, mesh, config.train.sharding) - bytes_of(state)
    gathered = params if config.train.sharding == "fsdp" and mesh.size > 1 else 0
    summed = params if microbatches > 1 else 0
    return divided + gathered + summed


def microbatches_that_fit(batch_size: int, devices: int, most: int) -> int | None:
    """The fewest microbatches that give each device at most `most` images at once; None if not one image fits."""
    shares = (share for share in range(min(most, batch_size // devices), 0, -1) if batch_size % (share * devices) == 0)
    return next((batch_size // (share * devices) for share in shares), None)


def time_in_words(config: Config, options: PlanOptions, devices: int, start: int, hours: float) -> str:
    """Time and price of the remaining steps; previews, validation and evaluation are not counted."""
    if start >= config.train.steps:
        return f"none: step {start:,} of {config.train.steps:,} is reached"
    span = f"{duration_in_words(hours)} from step {start:,} to {config.train.steps:,}"
    price = options.price
    costs = "" if price is None else f", {hours * devices * price:,.2f} at {price:g} an hour"
    return f"{span}, {rounded(hours * devices)} device-hours{costs}"


def duration_in_words(hours: float) -> str:
    """A duration in the unit that suits it, such as "4.4 hours"."""
    per_hour, unit = next((per_hour, unit) for limit, per_hour, unit in SPANS if hours < limit)
    return f"{per_hour * hours:,.1f} {unit}"


def checkpoints_in_words(config: Config, size: int) -> str:
    """Size on disk of one checkpoint, and of those that a finished run keeps."""
    return _disk_in_words(size, len(kept_checkpoints(config)))


def snapshots_in_words(config: Config, size: int) -> str:
    """Size on disk of one snapshot of EMAs, and of those that a finished run keeps."""
    every, last = config.optimizer.ema_snapshots, config.train.steps
    saved = [*range(every, last, every), last]
    return _disk_in_words(size, len(retained_snapshots(saved, every)))


def _disk_in_words(size: int, count: int) -> str:
    return f"{size_in_words(size)} each, {size_in_words(count * size)} for the {count} that remain at the end"


def kept_checkpoints(config: Config) -> set[int]:
    """The steps whose checkpoints a finished run keeps."""
    rules, last = config.checkpoint, config.train.steps
    saved = [step for step in range(1, last + 1) if due(step, rules.every, last)]
    return retained_steps(saved, rules.keep, rules.keep_every)


def images_in_words(config: Config) -> str:
    """The number of images, how often training sees each, and the size of the cache of decoded images."""
    data = config.data
    try:
        count, cached = count_images(config)
    except UserError as error:
        return f"cannot be counted: {error}"
    seen = config.train.steps * data.batch_size / (count - held_out(count, data.holdout))
    bytes_each = math.prod(config.image_shape) * data.depth // 8
    size = f", {size_in_words(count * bytes_each)} in the cache" if cached else ""
    return f"{count:,}; each training image is seen {rounded(seen)} times{size}"
