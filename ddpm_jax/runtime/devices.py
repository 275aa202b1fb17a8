"""Where arrays live: one mesh axis, "data", over all devices of all processes.

Batches are divided along it. Parameters are on every device ("replicated"), or each array is divided along its
longest axis that the devices divide ("fsdp"): then a step gathers the parameters and scatters the gradients.
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


def join_cluster(environment: Mapping[str, str] = os.environ) -> None:
    """Connects this process with the others of its job, if there are any; must run before JAX touches a device.

    Slurm, Open MPI and TPU pods tell JAX who they are; elsewhere JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID do.
    """
    if not is_of_many(environment) or jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # It would take SIGTERM from signals.py.
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


def is_of_many(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several of its job."""
    return (
        (int(environment.get("SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_NODELIST" in environment)
        or int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "JAX_COORDINATOR_ADDRESS" in environment
    )


def _alone_on_its_node(environment: Mapping[str, str]) -> bool:
    """Whether a scheduler started one process on each node, which then takes all devices; JAX would give it one."""
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or ""
    return "JAX_LOCAL_DEVICE_IDS" not in environment and re.fullmatch(r"1(\(x\d+\))?", per_node) is not None


def wait_for_all(what: str) -> None:
    """Until every process of the job has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agreed_by_all(value: int) -> int:
    """The first process's value, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices in one row, or these."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def imagined_mesh(devices: int) -> AbstractMesh:
    """So many devices, none of which need be there."""
    return AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def check_divisible(mesh: Mesh | AbstractMesh, batch_size: int, microbatches: int, name: str) -> None:
    """Refuses a batch that cannot be divided evenly among the devices."""
    devices = mesh.size
    if batch_size % (microbatches * devices):
        by = f"{devices} devices" + (f" x train.accumulate={microbatches}" if microbatches > 1 else "")
        step = microbatches * devices
        raise UserError(f"{name}={batch_size} cannot be divided among {by}; try {(batch_size // step + 1) * step}.")


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh | AbstractMesh, axis: int = 0) -> NamedSharding:
    """Divided along one axis, the images'."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def state_sharding(mesh: Mesh | AbstractMesh, state: PyTree, mode: str) -> PyTree:
    """A sharding for each array (or shape) of a state, "replicated" or "fsdp"."""

    def place(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, length in enumerate(leaf.shape) if length % mesh.size == 0]
        if mode == "replicated" or mesh.size == 1 or leaf.size < MIN_DIVIDED or not divisible:
            return replicated(mesh)
        return along_batch(mesh, max(divisible, key=lambda axis: leaf.shape[axis]))

    return jax.tree.map(place, state)


def to_devices(mesh: Mesh, rows: PyTree, axis: int = 0) -> PyTree:
    """Arrays that hold this process's rows, as global arrays divided along `axis`."""
    sharding = along_batch(mesh, axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(x)), rows)
