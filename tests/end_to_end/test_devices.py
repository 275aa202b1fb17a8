"""Losses, images and checkpoints do not depend on the number of devices and processes or on the sharding."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax import load_run
from ddpm_jax.commands import cli
from ddpm_jax.runtime.devices import along_batch, data_mesh
from ddpm_jax.sampling.noise import draw_noise, image_keys
from tests.data.pictures import write_digits
from tests.end_to_end.commands import (
    RECIPE,
    ROOT,
    final_state,
    finish,
    scalars,
    start,
    start_job,
)

TWO_STAGES = f"--config={ROOT}/configs/digits.py:smoke"  # With attention.
SAMPLERS = ("ddpm", "ddim", "dpm_solver", "unipc", "heun")
BATCHES = {1: 1, 4: 7}
"""The batch size on each number of devices; the last batch of seven is filled up."""
COUNT = 16
SHAPE = (8, 4, 1)
SIZE = f"--config.data.image_size={SHAPE[:2]}"
CONDITION = ("--config.model.condition=mask", "--config.train.condition_dropout=0.2")
LENGTH = ("--config.train.steps=6", "--config.model.channels=64", "--config.data.source=synthetic", SIZE)
LENGTH += ("--config.optimizer.ema_snapshots=2",)


def run_job(*argv: str, processes: int = 1, devices: int = 1) -> None:
    """Runs a command to its end; only the first process may log messages."""
    single = processes == 1
    jobs = [start(*argv, devices=devices)] if single else start_job(*argv, processes=processes, devices=devices)
    ends = [finish(job) for job in jobs]
    assert [code for code, _ in ends] == [0] * processes, ends
    assert not any("INFO" in printed or "Steps" in printed for _, printed in ends[1:])
    assert "--mode=sample" in argv or f"{processes * devices} x cpu" in ends[0][1]


@pytest.mark.slow
def test_devices_and_processes_do_not_change_the_result(tmp_path):
    kinds = {"one": (1, 1, "replicated"), "two processes": (2, 2, "fsdp")}
    losses, images, states = {}, {}, {}
    digits = write_digits(tmp_path / "digits", 3)
    sampling = ("--config.sample.task=condition", f"--config.sample.originals={digits}", "--config.sample.count=8")
    sampling += ("--config.sample.ema_width=0.06", "--config.sample.guide=checkpoint:4", "--config.sample.guidance=2.0")
    for name, (processes, devices, sharding) in kinds.items():
        workdir = tmp_path / name
        job = {"processes": processes, "devices": devices}
        run_job(TWO_STAGES, f"--workdir={workdir}", *LENGTH, *CONDITION, f"--config.train.sharding={sharding}", **job)
        losses[name] = scalars(workdir, "train/loss") | scalars(workdir, "validation/loss_ema")
        states[name] = final_state(workdir)
        assert losses[name] == pytest.approx(losses["one"], rel=1e-4)
        assert_nearly_same(states[name], states["one"])
        assert len(list(workdir.glob("events.*"))) == 1
        run_job("--mode=sample", f"--workdir={workdir}", *sampling, **job)
        (folder,) = (workdir / "samples").iterdir()
        images[name] = np.load(folder / "samples.npz")["arr_0"].astype(int)
        assert np.abs(images[name] - images["one"]).max() <= 1

    # An earlier checkpoint of two processes resumes in one, on other devices and with another sharding.
    resumed = tmp_path / "two processes"
    for step in (4, 6):
        shutil.rmtree(resumed / "checkpoints" / str(step))
    run_job(TWO_STAGES, f"--workdir={resumed}", *LENGTH, *CONDITION, "--config.train.sharding=replicated", devices=8)
    assert scalars(resumed, "train/loss") == pytest.approx(scalars(tmp_path / "one", "train/loss"), rel=1e-4)
    assert_nearly_same(final_state(resumed), states["one"])


def assert_nearly_same(a, b) -> None:
    """Asserts that two states differ only by the order of sums over devices, which Adam's first steps magnify."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-6), a.opt_state, b.opt_state)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-3), trees(a), trees(b))


def trees(state):
    return state.params, state.ema, state.power_emas


def sample_everything(workdir: str, target: str) -> None:
    """Saves the images of each sampler, and the noise of a step, on the devices of this process."""
    run, mesh = load_run(workdir), data_mesh()
    keys = jax.jit(image_keys, static_argnums=0, out_shardings=along_batch(mesh))(5, np.arange(COUNT))
    sampled = {"devices": np.array(mesh.size), "x_T": run.noise(COUNT, seed=5)}
    sampled["noise"] = np.asarray(jax.jit(draw_noise, static_argnums=2)(keys, 3, SHAPE))
    for sampler in SAMPLERS:
        options = {"eta": 1.0} if sampler == "ddim" else {}
        images = run.sample(COUNT, sampler=sampler, steps=4, seed=5, batch_size=BATCHES[mesh.size], **options)
        sampled[sampler] = images.astype(int)
    *_, last = run.iter_steps(COUNT, sampler="ddpm", steps=4, seed=5)
    mask = np.arange(32).reshape(SHAPE[:2]) % 3 == 0
    *_, inpainted = run.inpaint(np.full((1, *SHAPE), 90, np.uint8), mask, count=6, steps=4, resamples=1)
    sampled |= {"steps": last.x_t.astype(int), "inpaint": inpainted.x_t.astype(int)}
    flags = ["--mode=sample", f"--workdir={workdir}", "--config.sample.task=vary", "--config.sample.count=6"]
    assert cli.main(["main.py", *flags, f"--config.sample.images={Path(workdir).parent / 'digits'}"]) == 0
    (folder,) = (Path(workdir) / "samples").iterdir()
    sampled["vary"] = np.load(folder / "samples.npz")["arr_0"].astype(int)
    np.savez(target, **sampled)


@pytest.mark.slow
def test_images_do_not_depend_on_batch_size_and_devices_for_any_sampler(tmp_path):
    code, printed = finish(start(RECIPE, f"--workdir={tmp_path}/run", *LENGTH))
    assert code == 0, printed
    write_digits(tmp_path / "digits", 3)
    sampled = {}
    for devices in (1, 4):
        target = tmp_path / f"{devices}.npz"
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        call = (
            f"from {__name__} import sample_everything; sample_everything({str(tmp_path / 'run')!r}, {str(target)!r})"
        )
        subprocess.run([sys.executable, "-c", call], cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, check=True)
        sampled[devices] = dict(np.load(target))
        assert sampled[devices]["devices"] == devices
    for name in ("x_T", "noise"):
        np.testing.assert_array_equal(sampled[4][name], sampled[1][name])
    for name in ("vary", "inpaint"):
        assert np.abs(sampled[4][name] - sampled[1][name]).max() <= 1
    for devices in (1, 4):
        assert np.abs(sampled[devices]["steps"] - sampled[1]["ddpm"]).max() <= 1
    for sampler in SAMPLERS:
        assert sampled[1][sampler].std() > 1
        assert np.abs(sampled[4][sampler] - sampled[1][sampler]).max() <= 1, sampler
