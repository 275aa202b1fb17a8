"""Measurements of the training step on one device here: its operations, its memory, and its time.

a few images, twice as many -> compiled steps -> FLOPs per image, memory as a line -> one step that is timed
"""

import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
from jax.stages import Compiled

from ddpm_jax.builders import build_learner, state_extras, state_shapes
from ddpm_jax.commands.cost import USABLE, LinearModel, StepCost, step_cost
from ddpm_jax.config import Config
from ddpm_jax.data.batches import Batch, random_batch
from ddpm_jax.reporting.memory import device_limit, peak_resident, resident
from ddpm_jax.runtime.compilation import RUN_ONCE, jit, lower, own_settings
from ddpm_jax.runtime.cpu import release_memory
from ddpm_jax.runtime.devices import data_mesh, placed_shapes, to_devices
from ddpm_jax.training.state import init_state
from ddpm_jax.training.step import empty_metrics, trace_step

SMALL_BATCH = 8
"""Images of a step that fits on nearly every device. Fewer can take another path on a CPU (network/winograd.py)."""
QUICK_S = 1.0
"""Approximate limit of a timed step in seconds, and the minimum for all timed steps together."""
TIMED_STEPS = 3
"""Minimum number of timed steps."""

logger = logging.getLogger(__name__)


class ProcessMemory(NamedTuple):
    """Resident bytes of a process on a CPU that has compiled a step."""

    peak: int
    """While it compiled."""
    kept: int
    """Besides the arrays of a step."""

    def with_arrays(self, arrays: int | float) -> int | float:
        """The peak of training with a step that takes so many bytes."""
        return max(self.peak, self.kept + arrays)


class OneDevice:
    """The training step on one device here, for any number of images."""

    def __init__(self, config: Config) -> None:
        self.process = ProcessMemory(0, 0)
        """The memory of this process once it has compiled its first step."""
        self.config = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=1))
        self.mesh = data_mesh(jax.local_devices()[:1])
        self.learner = build_learner(self.config, self.mesh)
        unet, optimizer = self.learner.unet, self.learner.optimizer
        self.fresh = partial(init_state, unet, optimizer, config.seed, config.image_shape, **state_extras(config))
        self.shapes = placed_shapes(self.mesh, state_shapes(config), "replicated")

    def compile(self, images: int) -> tuple[Compiled, StepCost]:
        """The compiled step of this many images, and its cost."""
        logger.info("Compiling a step of %d images …", images)
        traced = trace_step(self.learner, self.shapes, self.batch(images))
        compiled = lower(traced).compile()
        if not self.process.peak:
            release_memory()  # As before training.
            self.process = ProcessMemory(peak_resident() or 0, resident() or 0)
        return compiled, step_cost(traced, compiled)

    def batch(self, images: int) -> Batch:
        """Random images."""
        return to_devices(self.mesh, random_batch(self.config, images), axis=1)

    def seconds(self, step: Compiled, images: int) -> float:
        """Duration of a step: the median of a few steps after the first."""
        state = jit(self.fresh, compiler_options=RUN_ONCE)()
        batch, run, seconds = self.batch(images), own_settings()(step), []
        while len(seconds) <= TIMED_STEPS or sum(seconds[1:]) < QUICK_S:
            start = time.perf_counter()
            state, *_ = run(state, empty_metrics(), batch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])


class Measured(NamedTuple):
    """Measurements of a step on one device here."""

    flops: float
    """Operations for each image."""
    memory: LinearModel | None
    """None if the backend does not report it."""
    timed: int
    """Images at once in the timed step; 0 if none was timed, as not one image fits or --plan.teraflops is set."""
    seconds: float


def measure(one: OneDevice, images: int, rate: float, *, timed: bool = True) -> Measured:
    """Compiles steps of few images, and times one of as many as fit and are quick, but at most `images`.

    rate: FLOP/s of the device in matrix products; timed: False if operation counts suffice.
    """
    few = min(images, SMALL_BATCH)
    steps = {some: one.compile(some) for some in (few, max(SMALL_BATCH, 2 * few))}
    flops, memory = steps[few][1].flops / few, memory_model(steps)
    if not timed:
        return Measured(flops, memory, 0, 0.0)
    quick = int(QUICK_S * rate / flops)
    limit = device_limit()
    fitting = images if memory is None or limit is None else memory.most_images(USABLE * limit)
    if not fitting:
        return Measured(flops, memory, 0, 0.0)
    at_once = min(images, quick, fitting)
    if at_once < images:
        at_once = 2 ** int(math.log2(at_once)) if at_once >= SMALL_BATCH else 1
    if at_once not in steps:
        steps = {few: steps[few], at_once: one.compile(at_once)}
        memory = memory_model(steps)
    return Measured(flops, memory, at_once, one.seconds(steps[at_once][0], at_once))


def memory_model(steps: Mapping[int, tuple[Compiled, StepCost]]) -> LinearModel | None:
    """The line through the memory of two steps by their numbers of images; None if it is unknown."""
    (few, low), (many, high) = ((images, cost.memory) for images, (_, cost) in sorted(steps.items()))
    if low is None or high is None:
        return None
    slope = max((high - low) / (many - few), 1.0)
    return LinearModel(low - slope * few, slope)
