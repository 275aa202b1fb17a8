"""The cost of a training step in arithmetic, memory and communication, and a device's peak arithmetic rate."""

import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.sharding import AbstractMesh, Mesh
from jax.stages import Compiled, Traced
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
    """The cost of one training step."""

    flops: int
    """Floating-point operations of matrix products and convolutions, over all devices (`count_flops`)."""
    memory: int | None
    """Bytes on one device, state and batch included; None if the backend does not report it."""


class LinearModel(NamedTuple):
    """Bytes of a step on one device as a linear function of its images."""

    fixed: int | float
    per_image: int | float

    def at(self, images: int) -> int | float:
        """Bytes of a step of this many images."""
        return self.fixed + self.per_image * images

    def most_images(self, limit: int | float) -> int:
        """The most images whose step takes at most `limit` bytes."""
        return max(int((limit - self.fixed) / self.per_image), 0)


def step_cost(traced: Traced, compiled: Compiled) -> StepCost:
    """The cost of a traced and compiled step."""
    memory = compiled.memory_analysis()
    total = None if memory is None else memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return StepCost(count_flops(traced.jaxpr), total)


def count_flops(jaxpr: Any) -> int:
    """Operations of a jaxpr's matrix products and convolutions: two for each product of two numbers, padding included.

    jaxpr: open or closed; versions of JAX differ in which of them functions and operations have.
    Counted before XLA compiles, so that the number is the same on every platform, whose programs may hide arithmetic
    in library calls (GPUs) or need less of it (Winograd's convolutions). Other operations are bound by memory.
    """
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: JaxprEqn) -> int:
    name, given = equation.primitive.name, equation.params
    operands: list[Any] = [variable.aval for variable in equation.invars]
    results: list[Any] = [variable.aval for variable in equation.outvars]
    if name == "dot_general":
        (contracted, _), _ = given["dimension_numbers"]
        return 2 * results[0].size * math.prod(operands[0].shape[axis] for axis in contracted)
    if name == "winograd":  # Counted like the convolution, or transpose of one, that it stands for.
        factor = operands[1]
        return 2 * results[0].size * factor.size // factor.shape[2 if given["kind"] == "input_gradient" else 3]
    if name == "conv_general_dilated":
        kernel, out_axis = operands[1], given["dimension_numbers"].rhs_spec[0]
        return 2 * results[0].size * kernel.size // kernel.shape[out_axis]
    parts = jax.tree.leaves(list(given.values()), is_leaf=_is_jaxpr)
    inner = [count_flops(part) for part in parts if _is_jaxpr(part)]
    if name == "cond":
        return max(inner)
    times = given["length"] if name == "scan" else given["mesh"].size if name == "shard_map" else 1
    return times * sum(inner)


def _is_jaxpr(value: object) -> bool:
    return hasattr(value, "eqns")  # True of a closed one, too.


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
