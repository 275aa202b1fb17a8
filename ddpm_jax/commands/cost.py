"""What a step costs: arithmetic, memory and communication; and how much arithmetic a device can do at most."""

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

from ddpm_jax.runtime.devices import state_sharding
from ddpm_jax.training.state import TrainState

PRODUCTS = {"cpu": (1536, 1)}
"""Side of the matrices, and how many products, that tell what a device can do; elsewhere 4096 and 8."""


class StepCost(NamedTuple):
    """Of one training step; None where the backend does not tell."""

    flops: float | None
    """Floating-point operations over all devices, as XLA counts them in this backend's program."""
    memory: int | None
    """Bytes on one device, state and batch included."""


def step_cost(lowered: Lowered, compiled: Compiled, *, microbatches: int, devices: int) -> StepCost:
    """The cost of a step that computes so many microbatches on so many devices.

    On CPU the compiled program of one device is asked, which takes no time; its microbatches are no loop (`step.py`).
    Other compiled programs hide arithmetic in calls of libraries, so there it is the program as it was lowered, of all
    devices, in which a loop's body counts once; what stands outside the loop is negligible.
    """
    on_cpu = jax.default_backend() == "cpu"
    flops = ((compiled if on_cpu else lowered).cost_analysis() or {}).get("flops")
    memory = compiled.memory_analysis()
    total = None if memory is None else memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return StepCost(flops * (devices if on_cpu else microbatches) if flops else None, total)


def matrix_rate(dtype: DTypeLike, rounds: int = 5) -> float:
    """FLOP/s of one device here in a large matrix product of this type, to which a step's can be compared."""
    side, products = PRODUCTS.get(jax.default_backend(), (4096, 8))
    matrix = jnp.full((side, side), 1.0 / side, dtype)

    @jax.jit
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
    shards = jax.tree.map(lambda leaf, s: _bytes(s.shard_shape(leaf.shape), leaf.dtype), state, layout)
    return sum(jax.tree.leaves(shards))


def bytes_of(tree: PyTree) -> int:
    """Of all arrays (or shapes) of a tree."""
    return sum(_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


def _bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return jnp.dtype(dtype).itemsize * math.prod(shape)


def sent_bytes(params: PyTree, devices: int) -> float:
    """What each device sends in a step: gradients summed over all of them (a ring of n passes 2 (n - 1) / n times their
    size), or under FSDP parameters gathered and gradients scattered, which is as much.
    """
    return 2.0 * (devices - 1) / devices * bytes_of(params)
