"""What surrounds the step: feedback, preemption, cadence, sharding."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from ddpm_jax.commands.monitors import preview_config
from ddpm_jax.commands.train import build_feedback, save
from ddpm_jax.config import config_of
from ddpm_jax.config.sections import Sample
from ddpm_jax.errors import TrainingDiverged, UserError
from ddpm_jax.reporting.profile import Profile
from ddpm_jax.reporting.throughput import Throughput
from ddpm_jax.reporting.writer import TensorBoard
from ddpm_jax.runtime import devices as sharding
from ddpm_jax.training.cadence import due
from ddpm_jax.training.checkpoint import SEAL, Checkpoints
from ddpm_jax.training.feedback import STEPS_AHEAD, Feedback
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import METRICS, empty_metrics
from tests.end_to_end.commands import scalars


def test_due_early_then_regularly_and_at_the_end():
    assert [step for step in range(1, 2601) if due(step, 1000, 2600)] == [100, 1000, 2000, 2600]
    assert [step for step in range(1, 11) if due(step, 4, 10)] == [4, 8, 10]
    assert not any(due(step, 0, 10) for step in range(1, 11))


def test_a_preview_is_plain_ddim_whatever_is_sampled_in_the_end():
    sampling = {"sampler": "dpm_solver", "order": 3, "timesteps": [900, 1], "threshold": "dynamic", "percentile": 0.9}
    guiding = {"guidance": 2.0, "guidance_interval": [5, 9], "guidance_rescale": 0.5, "label": "1"}
    config = config_of({"model": {"classes": 3}, "sample": sampling | guiding, "log": {"preview_steps": 7}})
    assert preview_config(config).sample == Sample(sampler="ddim", steps=7, threshold="dynamic", percentile=0.9)


def test_feedback_comes_some_steps_late_and_in_full():
    bad, reports = [], []
    feedback = Feedback(lambda *args: bad.append(args), lambda *args: reports.append(args))
    metrics = empty_metrics()
    metrics["loss"] = type(metrics["loss"])(total=jnp.asarray(6.0), count=jnp.asarray(4))
    feedback.push(1, jnp.asarray(0), metrics)
    feedback.push(2, jnp.asarray(1), None)
    for step in range(3, STEPS_AHEAD + 1):
        feedback.push(step, jnp.asarray(0), None)
    assert not bad and not reports
    feedback.push(STEPS_AHEAD + 1, jnp.asarray(0), None)
    # Means of nothing are left out.
    assert reports == [(1, {"loss": 1.5})]
    feedback.drain()
    assert bad == [(2, 1)] and len(METRICS) == 7


@pytest.mark.parametrize(("steps", "traced"), [((2, 3), [2, 3]), ((4, 9), [4, 5]), ((), []), ((7, 8), [])])
def test_a_profile_is_a_trace_of_the_steps_asked_for(tmp_path, steps, traced):
    profile, seen = Profile(tmp_path, steps), []
    for number in range(1, 6):
        with profile.step(number):
            result = jnp.ones(3) * number
            seen += [number] * profile.running
        profile.stop_after(number, result)
    profile.stop(result)
    assert seen == traced and not profile.running
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == bool(traced)


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


def test_skipped_steps_are_counted_and_many_in_a_row_name_the_last_good_checkpoint(tmp_path, package_log):
    config = config_of({"train": {"max_bad_steps": 3}})
    writer, latest, metrics = TensorBoard(tmp_path / "run", 0), {}, empty_metrics()
    with Checkpoints(tmp_path) as checkpoints:
        throughput = Throughput(8, 0)
        feedback = build_feedback(config, checkpoints, writer, throughput, latest, skipped=4)
        for step, streak in enumerate([0, 1, 2, 0, 1], start=1):
            feedback.push(step, jnp.asarray(streak), metrics)
        feedback.drain()
        writer.close()
        assert scalars(tmp_path / "run", "optimizer/skipped_steps") == {1: 4, 2: 5, 3: 6, 4: 6, 5: 7}
        assert package_log.text.count("was skipped: its loss or gradient is not finite") == 3
        (tmp_path / "40").mkdir()
        (tmp_path / "40" / SEAL).write_text("")
        for step, streak in enumerate([1, 2, 3], start=6):
            feedback.push(step, jnp.asarray(streak), None)
        with pytest.raises(TrainingDiverged, match="at step 8: 3 losses .* last good checkpoint is step 40. Try a new"):
            feedback.drain()


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    broken = TrainState(
        step=jnp.asarray(9),
        skipped=jnp.asarray(0),
        bad_streak=jnp.asarray(0),
        params={"w": jnp.array([1.0, jnp.inf])},
        ema={"w": jnp.zeros(2)},
        opt_state={"w": jnp.zeros(2)},
    )
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TrainingDiverged, match="at step 9: a parameter, .* no checkpoint was saved yet"):
            save(checkpoints, broken, config_of({}))
        assert not list(tmp_path.iterdir())


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
