"""Devices and processes: one mesh axis, "data", over all devices of all processes.

Batches are divided along it. Parameters are on every device ("replicated"), or each array is divided along its longest
axis that is a multiple of the devices ("fsdp"): then a step gathers the parameters and scatters the gradients.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ddpm_jax.errors import UserError

MIN_DIVIDED = 4096  # Elements; smaller arrays cost more to gather than to keep.
SENT_AT_ONCE = 2**26  # Bytes of an array that one process sends the others.


def join_cluster(environment: Mapping[str, str] = os.environ) -> None:
    """Connects this process with the others of its job, if there are any; must run before JAX touches a device.

    JAX detects Slurm, Open MPI and TPU pods; elsewhere set JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if not is_distributed(environment) or jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # It would replace the SIGTERM handler of signals.py.
    try:
        count, number = (environment.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(number) if number else None,
            local_device_ids=[] if _alone_on_its_node(environment) else None,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes of this job could not be joined ({' '.join(str(error).split())}); see docs/cloud.md."
        ) from error


def is_distributed(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several of its job."""
    return (
        (int(environment.get("SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_NODELIST" in environment)
        or int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "JAX_COORDINATOR_ADDRESS" in environment
    )


def _alone_on_its_node(environment: Mapping[str, str]) -> bool:
    """Whether a scheduler started one process per node, which then needs all devices; JAX would give it only one."""
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or ""
    return "JAX_LOCAL_DEVICE_IDS" not in environment and re.fullmatch(r"1(\(x\d+\))?", per_node) is not None


def wait_for_all(name: str) -> None:
    """Waits until every process of the job has reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed_by_all(value: int) -> int:
    """The first process's value, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_agreed(values: Sequence[int]) -> list[int]:
    """The first process's values, on every process; each may have others, and of another number."""
    return [agreed_by_all(values[i] if i < len(values) else 0) for i in range(agreed_by_all(len(values)))]


def from_first_process(array: np.ndarray) -> np.ndarray:
    """The first process's array on every process, which each give one of its shape and type; sent in pieces."""
    if jax.process_count() == 1:
        return array
    received = np.empty_like(array)
    rows = max(1, SENT_AT_ONCE // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        piece = np.asarray(array[start : start + rows])
        received[start : start + rows] = multihost_utils.broadcast_one_to_all(piece)
    return received


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of these devices, or of all."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def abstract_mesh(devices: int) -> AbstractMesh:
    """A mesh of this many devices, none of which need exist."""
    return AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def platform_of(mesh: Mesh | AbstractMesh) -> str:
    """The platform of a mesh's devices: "cpu", "gpu" or "tpu"; an abstract mesh has none, unless it names a device."""
    return mesh.abstract_mesh.abstract_device.platform


def check_divisible(mesh: Mesh | AbstractMesh, batch_size: int, microbatches: int, name: str) -> None:
    """Raises UserError for a batch that cannot be divided evenly among the devices."""
    multiple = microbatches * mesh.size
    if batch_size % multiple:
        by = f"{mesh.size} devices" + (f" x train.accumulate={microbatches}" if microbatches > 1 else "")
        larger = (batch_size // multiple + 1) * multiple
        raise UserError(f"{name}={batch_size} cannot be divided among {by}; try {larger}.")


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array that is the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh | AbstractMesh, axis: int = 0) -> NamedSharding:
    """The sharding of an array whose images, along `axis`, are divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def state_sharding(mesh: Mesh | AbstractMesh, state: PyTree, mode: str) -> PyTree:
    """The sharding of each array (or shape) of a state; mode: "replicated" or "fsdp"."""

    def place(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, length in enumerate(leaf.shape) if length % mesh.size == 0]
        if mode == "replicated" or mesh.size == 1 or leaf.size < MIN_DIVIDED or not divisible:
            return replicated(mesh)
        return along_batch(mesh, max(divisible, key=lambda axis: leaf.shape[axis]))

    return jax.tree.map(place, state)


def placed_shapes(mesh: Mesh, shapes: PyTree, mode: str) -> PyTree:
    """The shapes of a state with the sharding of each array; mode: "replicated" or "fsdp"."""
    layout = state_sharding(mesh, shapes, mode)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)


def to_devices(mesh: Mesh, rows: PyTree, axis: int = 0) -> PyTree:
    """Global arrays, divided along `axis`, from arrays that hold this process's rows."""
    sharding = along_batch(mesh, axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(x)), rows)
