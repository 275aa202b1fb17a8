"""--mode=plan: what a run will cost, found out without training it: arithmetic, memory, time and disk.

shapes -> the step, compiled for one device's images -> FLOPs, bytes -> how many images fit at once
              |-> a few steps on one device here, or plan.teraflops -> images/s -> hours

A pod of plan.devices need not be there: each of its devices does what one does here, and what they send each other is
counted, not timed.
"""

import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh
from jax.stages import Compiled

from ddpm_jax.config import Config
from ddpm_jax.data.batches import Batch
from ddpm_jax.data.open import count_images
from ddpm_jax.errors import UserError
from ddpm_jax.reporting.memory import device_limit
from ddpm_jax.train import build_learner, lower_step
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.cost import StepCost, bytes_of, matrix_rate, sent_bytes, state_bytes, step_cost
from ddpm_jax.training.sharding import check_divisible, data_mesh, imagined_mesh, replicated, to_devices
from ddpm_jax.training.state import TrainState, init_state
from ddpm_jax.training.step import empty_metrics
from ddpm_jax.workdir import checkpoint_folder

logger = logging.getLogger(__name__)

USABLE = 0.9
"""Share of a device's memory that a step may plan with; the runtime, previews and fragments take the rest."""
QUICK = 1.0
"""Seconds that a timed step may take, about."""
TIMED_STEPS = 5


class Memory(NamedTuple):
    """Bytes that a step takes on one device: a line over the images that it computes at once."""

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
        data = config.data
        self.fresh = partial(
            init_state, self.learner.unet, self.learner.optimizer, config.seed, data.image_size, data.channels
        )
        place = partial(jax.ShapeDtypeStruct, sharding=replicated(self.mesh))
        self.shapes = jax.tree.map(lambda x: place(x.shape, x.dtype), jax.eval_shape(self.fresh))

    def compile(self, images: int) -> tuple[Compiled, StepCost]:
        """The step for so many images, and what it costs."""
        logger.info("Compiling a step of %d images …", images)
        lowered = lower_step(self.learner, self.shapes, self.batch(images))
        compiled = lowered.compile()
        return compiled, step_cost(lowered, compiled, parts=1)

    def batch(self, images: int) -> Batch:
        """Random images."""
        data, model = self.config.data, self.config.model
        shape = (1, images, data.image_size, data.image_size, data.channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        labels = np.zeros((1, images), np.int32)
        if model.attributes:
            labels = np.zeros((1, images, model.attributes), np.uint8)
        return to_devices(self.mesh, Batch(pixels, labels), axis=1)

    def seconds(self, step: Compiled, images: int) -> float:
        """What a step takes, the median of a few after the first."""
        state = jax.jit(self.fresh, compiler_options={"xla_backend_optimization_level": 0})()
        batch, seconds = self.batch(images), []
        for _ in range(1 + TIMED_STEPS):
            start = time.perf_counter()
            state, *_ = step(state, empty_metrics(), batch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])


def plan(config: Config, workdir: Path | None) -> None:
    """Prints what training by this configuration takes; steps that are done in the workdir do not count any more."""
    devices, parts, total = config.plan.devices or jax.device_count(), config.train.accumulate, config.data.batch_size
    mesh = imagined_mesh(devices)
    check_divisible(mesh, total, parts, "data.batch_size")
    images = total // devices // parts
    one = OneDevice(config)
    params = one.shapes.params
    say("Devices", f"{devices}, each like the {jax.default_backend()} here ({jax.devices()[0].device_kind})")
    say("Parameters", f"{sum(x.size for x in jax.tree.leaves(params)):,}")
    say("Batch", f"{total:,} images = {images} at once x {parts} (train.accumulate) x {devices} (devices)")

    step, cost = one.compile(images)
    flops = cost.flops / images
    say("Arithmetic", f"{flops * total / 1e9:,.3f} GFLOP a step")
    if devices > 1:
        say("Communication", f"{in_bytes(sent_bytes(params, devices))} a step, sent by each device")

    rate = matrix_rate(config.model.dtype)
    quick = min(images, power_of_two(QUICK * rate / flops))
    other = second_point(images, quick)
    compiled = {images: (step, cost), other: one.compile(other)}
    line = memory_line({n: cost.memory for n, (_, cost) in compiled.items()})
    limit = config.plan.memory * 2**30 if config.plan.memory else device_limit()
    room = images
    if line is not None:
        here = Memory(line.fixed + extra_bytes(config, one.shapes, mesh), line.per_image)
        each = f"{in_bytes(line.per_image)} for each image at once"
        say("Memory", f"{in_bytes(here.of(images))} on each device, of it {each}")
        if limit is not None:
            room = here.room(USABLE * limit)
            say("Fits", advice(config, devices, room, limit))

    speed = None
    if config.plan.teraflops:
        speed = devices * config.plan.teraflops * 1e12 / flops
        say("Speed", f"{speed:,.1f} images/s at {config.plan.teraflops:g} TFLOP/s on each device")
    elif timed := min(quick, power_of_two(room)):
        alone = timed / one.seconds(compiled[timed][0] if timed in compiled else one.compile(timed)[0], timed)
        speed = devices * alone
        share = f"{alone * flops / rate:.0%} of what it does in matrix products"
        each = f"{devices} devices of " if devices > 1 else ""
        say("Speed", f"{speed:,.1f} images/s: {each}{alone:,.1f}, as one here with {timed} at once ({share})")
    if speed is not None:
        say("Time", duration_and_price(config, devices, remaining_steps(config, workdir) * total / speed / 3600))
    say("Checkpoints", checkpoints_in_words(config, bytes_of(one.shapes)))
    say("Images", images_in_words(config))


def say(name: str, value: str) -> None:
    """A line of the plan."""
    print(f"{name:14} {value}", flush=True)


def in_bytes(count: int | float) -> str:
    """A number of bytes, for people."""
    size, unit = (count / 2**30, "GiB") if count >= 2**30 else (count / 2**20, "MiB")
    return f"{size:,.{0 if size >= 100 else 1}f} {unit}"


def power_of_two(most: int | float) -> int:
    """The largest power of two up to `most`; 0 below 1."""
    return 2 ** int(math.log2(most)) if most >= 1 else 0


def second_point(images: int, quick: int) -> int:
    """Another number of images, for a line through two of them: the one that is timed, if it can be."""
    if 0 < quick < images:
        return quick
    return images // 2 or 2


def memory_line(points: Mapping[int, int | None]) -> Memory | None:
    """The line through two points, {images: bytes}; None where bytes are unknown."""
    (few, low), (many, high) = sorted(points.items())
    if low is None or high is None:
        return None
    slope = max((high - low) / (many - few), 1.0)
    return Memory(low - slope * few, slope)


def extra_bytes(config: Config, state: TrainState, mesh: AbstractMesh) -> int:
    """What a device of the mesh holds beyond one that is alone and computes its images in one part."""
    params = bytes_of(state.params)
    divided = state_bytes(state, mesh, config.train.sharding) - bytes_of(state)
    gathered = params if config.train.sharding == "fsdp" and mesh.size > 1 else 0
    summed = params if config.train.accumulate > 1 else 0
    return divided + gathered + summed


def advice(config: Config, devices: int, room: int, limit: int | float) -> str:
    """How many images fit, and what to change where the batch does not."""
    of = f"of {in_bytes(limit)}"
    if room * devices * config.train.accumulate >= config.data.batch_size:
        return f"yes: up to {room:,} images at once on each device {of}"
    parts = parts_that_fit(config.data.batch_size, devices, room)
    if parts is None:
        more = "" if config.train.sharding == "fsdp" or devices == 1 else "train.sharding=fsdp, "
        return f"no, not one image {of}; try {more}model.dtype=bfloat16, model.remat=True or more devices"
    return f"no: {room:,} images at once on each device {of}; set train.accumulate={parts}"


def parts_that_fit(batch_size: int, devices: int, room: int) -> int | None:
    """The fewest parts of a batch of which each device has room for its share; None if there are none."""
    shares = (share for share in range(min(room, batch_size // devices), 0, -1) if batch_size % (share * devices) == 0)
    return next((batch_size // (share * devices) for share in shares), None)


def remaining_steps(config: Config, workdir: Path | None) -> int:
    """Steps until train.steps, from the newest checkpoint of the workdir."""
    if workdir is None:
        return config.train.steps
    with Checkpoints(checkpoint_folder(workdir)) as checkpoints:
        return max(config.train.steps - max(checkpoints.steps(), default=0), 0)


def duration_and_price(config: Config, devices: int, hours: float) -> str:
    """How long the devices are needed, and what they cost; previews, validation and evaluation are not counted."""
    price = config.plan.price
    costs = "" if price is None else f", at {price:g} an hour {hours * devices * price:,.2f}"
    span = f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
    span = f"{60 * hours:,.1f} minutes" if hours < 2 else span
    return f"{span} to step {config.train.steps:,}, {hours * devices:,.2f} device-hours{costs}"


def checkpoints_in_words(config: Config, size: int) -> str:
    """What a checkpoint takes on disk, and those that are kept at the end (one more while it is written)."""
    rules, steps = config.checkpoint, config.train.steps
    apart = steps // rules.keep_every if rules.keep_every else 0
    kept = min(rules.keep, -(-steps // rules.every)) + apart
    return f"{in_bytes(size)} each, up to {in_bytes(kept * size)} for {kept} in the end"


def images_in_words(config: Config) -> str:
    """How many there are, how often training sees each, and what the cache of decoded ones takes."""
    data = config.data
    try:
        count = count_images(config)
    except UserError as error:
        return f"cannot be counted: {error}"
    cached = "" if data.stream else f", {in_bytes(count * data.image_size**2 * data.channels)} in the cache"
    return f"{count:,}, seen {config.train.steps * data.batch_size / count:,.1f} times each{cached}"
