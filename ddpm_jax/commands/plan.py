"""--mode=plan: the cost of a run without training it: arithmetic, memory, time and disk.

shapes -> the step, compiled for one device's images -> FLOPs, bytes -> how many images fit at once
              |-> a few steps on one device here, or --plan.teraflops -> images/s -> hours

The devices need not be there: each of --plan.devices does what one does here, and what they send each other is
counted, not timed.
"""

import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
from jax.sharding import AbstractMesh
from jax.stages import Compiled

from ddpm_jax.builders import build_learner
from ddpm_jax.commands.cost import StepCost, bytes_of, matrix_rate, sent_bytes, state_bytes, step_cost
from ddpm_jax.config import Config
from ddpm_jax.config.fields import Count, Positive, field
from ddpm_jax.data.batches import Batch, random_batch
from ddpm_jax.data.dataset import held_out
from ddpm_jax.data.open import count_images
from ddpm_jax.errors import UserError
from ddpm_jax.reporting.memory import device_limit, size_in_words
from ddpm_jax.runtime.devices import check_divisible, data_mesh, imagined_mesh, replicated, to_devices
from ddpm_jax.training.cadence import due
from ddpm_jax.training.checkpoint import checkpoint_steps, retained_steps
from ddpm_jax.training.state import TrainState, init_state
from ddpm_jax.training.step import empty_metrics, lower_step
from ddpm_jax.workdir import checkpoint_folder

USABLE = 0.9
"""Share of the memory for arrays that a step may plan with; previews and fragments take the rest."""
SOME = 8
"""Images at once in a step that fits nearly everywhere."""
QUICK = 1.0
"""Seconds that a timed step may take, about, and that steps are timed for at least."""
TIMED_STEPS = 3
"""At least so many."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """The devices to plan for, as the flags --plan.* give them."""

    devices: Count | None = field(None, "Number of devices to train on; None for those of this machine.")
    memory: Positive | None = field(
        None,
        "GiB for arrays on each device (JAX leaves a quarter of a GPU's memory free); None for what a device here has.",
    )
    teraflops: Positive | None = field(
        None, "TFLOP/s that each device reaches in a training step; None to time steps on a device here."
    )
    price: Positive | None = field(None, "Price of one device for an hour, in any currency.")


class LinearModel(NamedTuple):
    """What a step takes, over the images that it computes at once: bytes on one device, or operations."""

    fixed: int | float
    per_image: int | float

    def of(self, images: int) -> int | float:
        """With so many images at once."""
        return self.fixed + self.per_image * images

    def room(self, limit: int | float) -> int:
        """How many images at once the limit leaves room for."""
        return max(int((limit - self.fixed) / self.per_image), 0)


class OneDevice:
    """The training step on one device here, for any number of images at once."""

    def __init__(self, config: Config) -> None:
        self.config = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=1))
        self.mesh = data_mesh(jax.local_devices()[:1])
        self.learner = build_learner(self.config, self.mesh)
        size = config.data.image_size, config.data.channels
        self.fresh = partial(init_state, self.learner.unet, self.learner.optimizer, config.seed, *size)
        place = partial(jax.ShapeDtypeStruct, sharding=replicated(self.mesh))
        self.shapes = jax.tree.map(lambda x: place(x.shape, x.dtype), jax.eval_shape(self.fresh))

    def compile(self, images: int) -> tuple[Compiled, StepCost]:
        """The step for so many images, and what it costs."""
        logger.info("Compiling a step of %d images …", images)
        lowered = lower_step(self.learner, self.shapes, self.batch(images))
        compiled = lowered.compile()
        return compiled, step_cost(lowered, compiled, microbatches=1, devices=1)

    def batch(self, images: int) -> Batch:
        """Random images."""
        return to_devices(self.mesh, random_batch(self.config, images), axis=1)

    def seconds(self, step: Compiled, images: int) -> float:
        """What a step takes, the median of a few after the first."""
        state = jax.jit(self.fresh, compiler_options={"xla_backend_optimization_level": 0})()
        batch, seconds = self.batch(images), []
        while len(seconds) <= TIMED_STEPS or sum(seconds[1:]) < QUICK:
            start = time.perf_counter()
            state, *_ = step(state, empty_metrics(), batch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])


def plan(config: Config, options: PlanOptions, workdir: Path | None) -> None:
    """Prints the cost of training by this configuration, without the steps that the workdir's run has done."""
    if jax.process_count() > 1:
        raise UserError("--mode=plan runs in one process; start it on one machine, with --plan.devices=….")
    for name, value in lines_of_plan(config, options, workdir):
        print(f"{name:14} {value}", flush=True)


def lines_of_plan(config: Config, options: PlanOptions, workdir: Path | None) -> Iterator[tuple[str, str]]:
    """The plan, line by line, each as soon as it is found."""
    devices, parts, total = options.devices or jax.device_count(), config.train.accumulate, config.data.batch_size
    mesh, one = imagined_mesh(devices), OneDevice(config)
    check_divisible(mesh, total, parts, "data.batch_size")
    params, images = one.shapes.params, total // devices // parts
    yield "Devices", f"{devices}, planned for on the {jax.default_backend()} here ({jax.devices()[0].device_kind})"
    yield "Parameters", f"{sum(x.size for x in jax.tree.leaves(params)):,}"
    yield "Batch", f"{total:,} images = {images} at once x {parts} (train.accumulate) x {devices} (devices)"
    if devices > 1:
        yield "Communication", f"{size_in_words(sent_bytes(params, devices))} a step, sent by each device"
    rate = matrix_rate(config.model.dtype)
    found = measure(one, images, rate, timed=not options.teraflops)
    if found.flops is not None:
        yield "Arithmetic", f"{rounded(found.flops.of(total) / 1e9)} GFLOP a step"
    if found.memory is not None:
        yield from memory_in_words(config, options, mesh, one.shapes, found.memory)
    speed, how = speed_in_words(config, options, devices, found, rate)
    yield "Speed", how
    if speed is not None:
        start = steps_done(workdir)
        hours = max(config.train.steps - start, 0) * total / speed / 3600
        yield "Time", time_in_words(config, options, devices, start, hours)
    yield "Checkpoints", checkpoints_in_words(config, bytes_of(one.shapes))
    yield "Images", images_in_words(config)


def rounded(number: float) -> str:
    """To three digits."""
    return f"{float(f'{number:.3g}'):,g}"


class Measured(NamedTuple):
    """Of a step on one device here; None where the backend does not tell."""

    flops: LinearModel | None
    memory: LinearModel | None
    timed: int
    """Images at once in the step that was timed; 0 if none was: not one fits, or --plan.teraflops gives the speed."""
    seconds: float


def measure(one: OneDevice, images: int, rate: float, *, timed: bool = True) -> Measured:
    """Compiles steps of few images, and one of as many as fit and are quick (at most `images`), which it times.

    rate: FLOP/s of the device in matrix products; timed: False where the speed is known, if operations are counted.
    """
    few = images if images < SOME else 1
    steps = {few: one.compile(few), SOME: one.compile(SOME)}
    flops, memory = linear_model(steps, "flops"), linear_model(steps, "memory")
    if not timed and flops is not None:
        return Measured(flops, memory, 0, 0.0)
    quick = images if flops is None else int(QUICK * rate / flops.per_image)
    limit = device_limit()
    room = images if memory is None or limit is None else memory.room(USABLE * limit)
    if room < few:
        return Measured(flops, memory, 0, 0.0)
    at_once = min(images, quick, room)
    if at_once < images:
        at_once = power_of_two(at_once) if at_once >= SOME else few
    if at_once not in steps:
        steps = {SOME: steps[SOME], at_once: one.compile(at_once)}
        flops, memory = linear_model(steps, "flops"), linear_model(steps, "memory")
    return Measured(flops, memory, at_once, one.seconds(steps[at_once][0], at_once))


def speed_in_words(
    config: Config, options: PlanOptions, devices: int, found: Measured, rate: float
) -> tuple[float | None, str]:
    """Images/s of all devices, if that can be told, and how it is known."""
    total, flops = config.data.batch_size, found.flops
    if options.teraflops and flops is not None:
        speed = total * devices * options.teraflops * 1e12 / flops.of(total)
        return speed, f"{rounded(speed)} images/s at {options.teraflops:g} TFLOP/s on each device"
    if not found.timed:
        return None, "not timed, since not one image fits on a device here; set --plan.teraflops"
    per_device = found.timed / found.seconds
    share = flops and f", {flops.of(found.timed) / found.seconds / rate:.0%} of what it does in matrix products"
    speed = devices * per_device
    return speed, (
        f"{rounded(speed)} images/s, where one device makes {rounded(per_device)}, {found.timed} at once{share or ''}"
    )


def power_of_two(most: int | float) -> int:
    """The largest power of two up to `most`; 0 below 1."""
    return 2 ** int(math.log2(most)) if most >= 1 else 0


def linear_model(
    steps: Mapping[int, tuple[Compiled, StepCost]], what: Literal["flops", "memory"]
) -> LinearModel | None:
    """The line through what the steps of two numbers of images cost; None where that is unknown."""
    (few, low), (many, high) = ((images, getattr(cost, what)) for images, (_, cost) in sorted(steps.items()))
    if low is None or high is None:
        return None
    slope = max((high - low) / (many - few), 1.0)
    return LinearModel(low - slope * few, slope)


def memory_in_words(
    config: Config, options: PlanOptions, mesh: AbstractMesh, state: TrainState, line: LinearModel
) -> Iterator[tuple[str, str]]:
    """What a step takes on each device of the mesh; how many images fit; what to change where the batch does not."""
    devices, total = mesh.size, config.data.batch_size
    parts = config.train.accumulate
    images = total // devices // parts

    def on_mesh(parts: int) -> LinearModel:
        return LinearModel(line.fixed + extra_bytes(config, state, mesh, parts), line.per_image)

    each = f"{size_in_words(line.per_image)} for each image at once"
    yield "Memory", f"{size_in_words(on_mesh(parts).of(images))} on each device, of it {each}"
    limit = options.memory * 2**30 if options.memory else device_limit()
    if limit is None:
        return
    room, of = on_mesh(parts).room(USABLE * limit), f"nine tenths of the {size_in_words(limit)} for a device"
    if images <= room:
        yield "Fits", f"yes: up to {room:,} images at once in {of}"
        return
    enough = parts_that_fit(total, devices, on_mesh(2).room(USABLE * limit))
    if enough is None:
        remedy = "try model.dtype=bfloat16, model.remat=True, or train.sharding=fsdp on more devices"
        yield "Fits", f"no: not one image in {of}; {remedy}"
    else:
        fewer = f"{total // devices // enough} at once and the sums of their gradients would"
        yield "Fits", f"no: {images:,} images at once do not fit in {of}; {fewer}: set train.accumulate={enough}"


def extra_bytes(config: Config, state: TrainState, mesh: AbstractMesh, parts: int) -> int:
    """What a device of the mesh holds beyond one that is alone and computes its images in one part."""
    params = bytes_of(state.params)
    divided = state_bytes(state, mesh, config.train.sharding) - bytes_of(state)
    gathered = params if config.train.sharding == "fsdp" and mesh.size > 1 else 0
    summed = params if parts > 1 else 0
    return divided + gathered + summed


def parts_that_fit(batch_size: int, devices: int, room: int) -> int | None:
    """The fewest parts of a batch of which each device has room for its share; None if there are none."""
    shares = (share for share in range(min(room, batch_size // devices), 0, -1) if batch_size % (share * devices) == 0)
    return next((batch_size // (share * devices) for share in shares), None)


def steps_done(workdir: Path | None) -> int:
    """The step of the newest checkpoint of the workdir; 0 if there is none."""
    if workdir is None:
        return 0
    return max(checkpoint_steps(checkpoint_folder(workdir)), default=0)


def time_in_words(config: Config, options: PlanOptions, devices: int, start: int, hours: float) -> str:
    """How long the devices are needed, and what they cost; previews, validation and evaluation are not counted."""
    if start >= config.train.steps:
        return f"none: step {start:,} of {config.train.steps:,} is reached"
    if hours < 1 / 30:
        span = f"{3600 * hours:,.1f} seconds"
    elif hours < 2:
        span = f"{60 * hours:,.1f} minutes"
    elif hours < 48:
        span = f"{hours:,.1f} hours"
    else:
        span = f"{hours / 24:,.1f} days"
    price = options.price
    costs = "" if price is None else f", at {price:g} an hour {hours * devices * price:,.2f}"
    return f"{span} from step {start:,} to {config.train.steps:,}, {rounded(hours * devices)} device-hours{costs}"


def checkpoints_in_words(config: Config, size: int) -> str:
    """What a checkpoint takes on disk, and those that are kept in the end."""
    count = len(kept_checkpoints(config))
    return f"{size_in_words(size)} each, {size_in_words(count * size)} for the {count} that are kept in the end"


def kept_checkpoints(config: Config) -> set[int]:
    """The steps whose checkpoints a finished run has."""
    rules, last = config.checkpoint, config.train.steps
    saved = [step for step in range(1, last + 1) if due(step, rules.every, last)]
    return retained_steps(saved, rules.keep, rules.keep_every)


def images_in_words(config: Config) -> str:
    """How many there are, how often training sees each, and what the cache of decoded ones takes."""
    data = config.data
    try:
        count, cached = count_images(config)
    except UserError as error:
        return f"cannot be counted: {error}"
    seen = config.train.steps * data.batch_size / (count - held_out(count, data.holdout))
    size = f", {size_in_words(count * data.image_size**2 * data.channels)} in the cache" if cached else ""
    return f"{count:,}, each of those to train on seen {rounded(seen)} times{size}"
