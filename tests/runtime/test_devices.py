import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.devices import abstract_mesh, check_divisible, from_first_process, join_cluster, state_sharding


def test_a_batch_must_divide_among_devices():
    check_divisible(abstract_mesh(4), 16, 2, "data.batch_size")
    with pytest.raises(UserError, match="=20 cannot be divided among 4 devices x train.accumulate=2; try 24"):
        check_divisible(abstract_mesh(4), 20, 2, "data.batch_size")


def test_fsdp_divides_the_longest_divisible_axis_of_large_arrays_only():
    shapes = {"wide": (64, 128), "odd": (65, 127), "small": (4, 8)}
    state = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    found = {name: s.spec for name, s in state_sharding(abstract_mesh(4), state, "fsdp").items()}
    assert found == {"wide": PartitionSpec(None, "data"), "odd": PartitionSpec(), "small": PartitionSpec()}
    assert {s.spec for s in state_sharding(abstract_mesh(4), state, "replicated").values()} == {PartitionSpec()}


@pytest.mark.parametrize(
    ("environment", "joins"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),  # In a batch script, outside srun.
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1234"}, True),
    ],
)
def test_a_process_joins_a_cluster_only_if_its_job_has_several(environment, joins, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    join_cluster(environment)
    assert bool(calls) == joins
    if "JAX_COORDINATOR_ADDRESS" in environment:
        join_cluster(environment | {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"})
        assert [(options["num_processes"], options["process_id"]) for options in calls] == [(None, None), (4, 0)]
        assert [options["local_device_ids"] for options in calls] == [None, None]
        with pytest.raises(UserError, match="could not be joined .*'four'"):
            join_cluster(environment | {"JAX_NUM_PROCESSES": "four"})


@pytest.mark.parametrize(
    ("environment", "takes_all"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "JAX_LOCAL_DEVICE_IDS": "0,1"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, False),
        ({}, False),
    ],
)
def test_the_only_process_of_a_node_takes_all_its_devices(environment, takes_all, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options["local_device_ids"]))
    join_cluster({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a,b"} | environment)
    assert calls == [[] if takes_all else None]


def test_an_array_of_the_first_process_is_sent_in_pieces(monkeypatch):
    images, sent = np.arange(7 * 2, dtype=np.uint16).reshape(7, 2), []
    assert from_first_process(images) is images
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(devices, "SENT_AT_ONCE", 3 * images[:1].nbytes)
    # As on another process, whose own array does not matter; sums over processes may widen the type.
    first = iter([images[:3], images[3:6], images[6:]])
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda own: sent.append(len(own)) or next(first).astype(np.uint32)
    )
    received = from_first_process(np.zeros_like(images))
    np.testing.assert_array_equal(received, images)
    assert sent == [3, 3, 1] and received.dtype == images.dtype
