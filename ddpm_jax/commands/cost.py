"""The cost of a training step in arithmetic, memory and communication, and a device's peak arithmetic rate."""

import math
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jax.stages import Compiled, Lowered
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from ddpm_jax.runtime.compilation import jit
from ddpm_jax.runtime.devices import state_sharding
from ddpm_jax.training.state import TrainState

PRODUCTS = {"cpu": (1536, 1)}
"""Side and number of the matrix products that measure a device, by backend; 4096 and 8 for all others."""
USABLE = 0.9
"""Share of the memory for arrays that a step may use; previews and fragmentation take the rest."""
REMEDY = "try model.dtype=bfloat16, model.remat=True, or train.sharding=fsdp on more devices"
"""The remedy for a step that does not fit with one image on each device."""


class StepCost(NamedTuple):
    """The cost of one training step; None for a number that the backend does not report."""

    flops: float | None
    """Floating-point operations over all devices, as XLA counts them in this backend's program."""
    memory: int | None
    """Bytes on one device, state and batch included."""


class LinearModel(NamedTuple):
    """The cost of a step, in bytes on one device or in operations, as a linear function of its images."""

    fixed: int | float
    per_image: int | float

    def at(self, images: int) -> int | float:
        """The cost of a step of this many images."""
        return self.fixed + self.per_image * images

    def most_images(self, limit: int | float) -> int:
        """The most images whose step costs at most `limit`."""
        return max(int((limit - self.fixed) / self.per_image), 0)


def step_cost(lowered: Lowered, compiled: Compiled, *, microbatches: int, devices: int) -> StepCost:
    """The cost of a step with this many microbatches on this many devices.

    XLA counts what one device computes. On CPU, the compiled program is analysed, whose microbatches are unrolled
    (`step.py`). Elsewhere compiled programs hide arithmetic in library calls, so the lowered program is analysed, in
    which the body of the loop over microbatches counts once; the arithmetic outside of the loop is negligible.
    """
    on_cpu = jax.default_backend() == "cpu"
    flops = ((compiled if on_cpu else lowered).cost_analysis() or {}).get("flops")
    memory = compiled.memory_analysis()
    total = None if memory is None else memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return StepCost(flops * devices * (1 if on_cpu else microbatches) if flops else None, total)


def matrix_rate(dtype: DTypeLike, rounds: int = 5) -> float:
    """FLOP/s of one device here in a large matrix product of this type, to which a step's rate is compared."""
    side, products = PRODUCTS.get(jax.default_backend(), (4096, 8))
    matrix = jnp.full((side, side), 1.0 / side, dtype)

    @jit
    def multiply(a: Array, b: Array) -> Array:
        for _ in range(products):
            a = a @ b
        return a

    jax.block_until_ready(multiply(matrix, matrix))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(multiply(matrix, matrix))
        seconds.append(time.perf_counter() - start)
    return products * 2.0 * side**3 / statistics.median(seconds)


def state_bytes(state: TrainState, mesh: Mesh | AbstractMesh, sharding: str) -> int:
    """Bytes of a state (or of its shapes) on each device of a mesh."""
    layout = state_sharding(mesh, state, sharding)
    return bytes_of(jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(s.shard_shape(x.shape), x.dtype), state, layout))


def bytes_of(tree: PyTree) -> int:
    """Bytes of all arrays (or shapes) of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def sent_bytes(params: PyTree, devices: int) -> float:
    """Bytes that each of n devices sends in a step: 2 (n - 1) / n times the size of the parameters.

    That is a ring all-reduce of the gradients, and as much as gathering parameters and scattering gradients under FSDP.
    """
    return 2.0 * (devices - 1) / devices * bytes_of(params)


def rounded(number: float) -> str:
    """The number with three significant digits."""
    return f"{float(f'{number:.3g}'):,g}"
