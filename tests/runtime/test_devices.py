import jax
import pytest
from jax.sharding import AbstractMesh

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import devices as sharding


def test_a_batch_must_divide_among_devices():
    mesh = AbstractMesh((4,), ("data",))
    sharding.check_divisible(mesh, 16, 2, "data.batch_size")
    with pytest.raises(UserError, match="=20 cannot be divided among 4 devices x train.accumulate=2; try 24"):
        sharding.check_divisible(mesh, 20, 2, "data.batch_size")


@pytest.mark.parametrize(
    ("environment", "joins"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),  # in a batch script, outside srun
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1234"}, True),
    ],
)
def test_a_cluster_is_joined_only_where_there_is_one(environment, joins, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **told: calls.append(told))
    sharding.join_cluster(environment)
    assert bool(calls) == joins
    if "JAX_COORDINATOR_ADDRESS" in environment:
        sharding.join_cluster(environment | {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"})
        assert [(told["num_processes"], told["process_id"]) for told in calls] == [(None, None), (4, 0)]
        assert [told["local_device_ids"] for told in calls] == [None, None]
        with pytest.raises(UserError, match="could not be joined .*'four'"):
            sharding.join_cluster(environment | {"JAX_NUM_PROCESSES": "four"})


@pytest.mark.parametrize(
    ("environment", "all_of_them"),
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
def test_a_process_that_is_alone_on_its_node_takes_all_devices(environment, all_of_them, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **told: calls.append(told["local_device_ids"]))
    sharding.join_cluster({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a,b"} | environment)
    assert calls == [[] if all_of_them else None]
