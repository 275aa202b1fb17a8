"""--plan.target: the training step compiled by libtpu for TPUs that need not exist.

topology -> mesh -> the compiled step of one device's share -> memory, arithmetic, a bound of its time

TPUs run what this compiler makes, so memory is exact. Time is a lower bound: the arithmetic, or the bytes read and
written, at the chip's published rate.
"""

import logging
import os
import re
from collections.abc import Generator
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from jax.stages import Compiled

from ddpm_jax.builders import build_learner, state_shapes
from ddpm_jax.commands.cost import REMEDY, USABLE, LinearModel, rounded
from ddpm_jax.config import Config
from ddpm_jax.data.batches import random_batch
from ddpm_jax.errors import UserError
from ddpm_jax.reporting.memory import size_in_words
from ddpm_jax.runtime.devices import along_batch, data_mesh, placed_shapes
from ddpm_jax.training.step import lower_step

LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Environment in which libtpu does not look for TPUs, and compiles beside other processes that use it."""
LAYOUT = r"[1-9]\d*(x[1-9]\d*){1,2}"
EXHAUSTED = re.compile(r"Used ([\d.]+)([MG]) of [\d.]+[MG] hbm")
"""libtpu's text for a program that needs more memory than a chip has."""
UNITS = {"M": 2**20, "G": 2**30}

logger = logging.getLogger(__name__)


class Chip(NamedTuple):
    """Published rates of a chip (cloud.google.com/tpu/docs, system architecture of each version)."""

    teraflops: float
    """TFLOP/s in bfloat16."""
    memory: float
    """GiB."""
    bandwidth: float
    """GB/s of that memory."""
    kind: str
    """JAX's name."""


CHIPS = {
    "v5e": Chip(197, 16, 819, "TPU v5 lite"),
    "v5p": Chip(459, 95, 2765, "TPU v5"),
    "v6e": Chip(918, 32, 1640, "TPU v6 lite"),
}


class Compilation(NamedTuple):
    """A step of so many images at once on each device."""

    images: int
    memory: float
    """Bytes on each device."""
    compiled: Compiled | None
    """None if it does not fit."""


def prepare_libtpu(target: str) -> None:
    """Keeps libtpu from looking for TPUs; must run before JAX starts. Raises UserError for what is not a slice."""
    _check_slice(target)
    for name, value in LIBTPU.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_enable_compilation_cache", False)  # Programs for other machines cannot be read from it.


def target_mesh(target: str) -> Mesh:
    """The mesh of a slice such as "v5e:4x4"; raises UserError if there is no such slice, or no libtpu."""
    _check_slice(target)
    try:
        topology = topologies.get_topology_desc(target, "tpu")
    except jax.errors.JaxRuntimeError as error:
        reason = re.sub(r"^\w+: ", "", str(error).splitlines()[0])
        raise UserError(f"--plan.target={target}: {reason}; see cloud.google.com/tpu for the slices.") from error
    except RuntimeError as error:
        raise UserError("--plan.target needs libtpu: pip install 'jax[tpu]'") from error
    return data_mesh(topology.devices)


def _check_slice(target: str) -> None:
    name, _, layout = target.partition(":")
    if name not in CHIPS or not re.fullmatch(LAYOUT, layout):
        raise UserError(
            f"--plan.target={target} is not a slice of TPUs; expected the chips ({', '.join(CHIPS)}) and their layout, "
            "such as v5e:4x4, v5p:2x2x2 or v6e:2x2."
        )


class TargetStep:
    """The training step of a configuration on the devices of a mesh, for any number of microbatches."""

    def __init__(self, config: Config, mesh: Mesh) -> None:
        self.config, self.mesh = config, mesh
        self.learner = build_learner(config, mesh)
        self.state = placed_shapes(mesh, state_shapes(config), config.train.sharding)

    def compile(self, images: int, microbatches: int) -> Compilation:
        """The step of `images` at once on each device. Raises JaxRuntimeError unless memory is all that it lacks."""
        logger.info("Compiling a step of %d x %d images for each TPU, which takes minutes …", microbatches, images)
        batch = random_batch(self.config, images * microbatches * self.mesh.size, microbatches)
        divided = along_batch(self.mesh, 1)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=divided), batch)
        try:
            compiled = lower_step(self.learner, self.state, shapes).compile()
        except jax.errors.JaxRuntimeError as error:
            if (used := EXHAUSTED.search(str(error))) is None:
                raise
            return Compilation(images, float(used[1]) * UNITS[used[2]], None)
        return Compilation(images, memory_of(compiled), compiled)


def memory_of(compiled: Compiled) -> float:
    """Bytes on each device: what goes in and comes out, donated arrays once, temporaries, and the program."""
    sizes = compiled.memory_analysis()
    assert sizes is not None  # libtpu always knows.
    arrays = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return arrays + sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes


def measure_target(config: Config, mesh: Mesh) -> list[Compilation]:
    """The step as configured; then one of another size, or if it does not fit, with ever more microbatches."""
    step, total, microbatches = TargetStep(config, mesh), config.data.batch_size // mesh.size, config.train.accumulate
    asked = step.compile(total // microbatches, microbatches)
    if asked.compiled is not None:
        return [asked, step.compile(asked.images // 2 or 2, microbatches)]
    found = [asked]
    while found[-1].compiled is None and (more := _next_divisor(total, microbatches)) is not None:
        microbatches = more
        found.append(step.compile(total // microbatches, microbatches))
    return found


def _next_divisor(total: int, microbatches: int) -> int | None:
    """The smallest number of microbatches that at least halves the images at once; None if that is less than one."""
    return next((count for count in range(2 * microbatches, total + 1) if total % count == 0), None)


def target_lines(config: Config, mesh: Mesh) -> Generator[tuple[str, str], None, float | None]:
    """Memory, arithmetic and speed on TPUs; returns images/s of all of them, None if no step fits."""
    name, chip = chip_of(mesh)
    asked, *others = measure_target(config, mesh)
    share, limit = config.data.batch_size // mesh.size, f"{chip.memory:g} GiB of a {name}"
    yield "Memory", f"{size_in_words(asked.memory)} on each device, with train.sharding={config.train.sharding}"
    fitting = next((step for step in (asked, *others) if step.compiled is not None), None)
    if fitting is None:
        yield "Fits", f"no, not one image in the {limit}; {REMEDY}"
        return None
    if fitting is asked:
        yield "Fits", f"yes: about {most_images(asked, others[0], chip):,} at once in nine tenths of the {limit}"
    else:
        fewer = f"{fitting.images:,} at once take {size_in_words(fitting.memory)}"
        yield "Fits", f"no, in the {limit}; {fewer}: set train.accumulate={share // fitting.images}"
    flops, seconds = estimate(fitting, share // fitting.images, chip)
    yield "Arithmetic", f"{rounded(flops * mesh.size / 1e9)} GFLOP a step"
    speed = config.data.batch_size / seconds
    rates = f"{chip.teraflops:g} TFLOP/s and {chip.bandwidth:g} GB/s on each device"
    yield "Speed", f"at most {rounded(speed)} images/s: {rounded(1e3 * seconds)} ms a step, at {rates}"
    return speed


def chip_of(mesh: Mesh) -> tuple[str, Chip]:
    """The name and the rates of a mesh's chips."""
    kind = mesh.devices.flat[0].device_kind
    return next((name, chip) for name, chip in CHIPS.items() if chip.kind == kind)


def most_images(asked: Compilation, other: Compilation, chip: Chip) -> int:
    """How many images fit at once, by the line through two steps; no fewer than those that were compiled."""
    slope = max((asked.memory - other.memory) / (asked.images - other.images), 1.0)
    line = LinearModel(asked.memory - slope * asked.images, slope)
    return max(line.most_images(USABLE * chip.memory * 2**30), asked.images)


def estimate(step: Compilation, microbatches: int, chip: Chip) -> tuple[float, float]:
    """FLOPs on each device and seconds of a step, as XLA counts its operations and bytes.

    XLA counts the body of the loop over microbatches once. Outside of it the state is read and written, with little
    arithmetic.
    """
    assert step.compiled is not None
    costs, sizes = step.compiled.cost_analysis() or {}, step.compiled.memory_analysis()
    assert sizes is not None  # libtpu always knows.
    outside = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    flops = microbatches * float(costs["flops"])
    moved = outside + microbatches * (float(costs["bytes accessed"]) - outside)
    return flops, max(flops / chip.teraflops / 1e12, moved / chip.bandwidth / 1e9)
