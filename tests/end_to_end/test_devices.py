"""One device or four, replicated or divided: the same loss curve, the same images."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ddpm_jax import cli, load_run
from ddpm_jax.config.sections import Data
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.sampling.noise import draw_noise, image_keys
from ddpm_jax.training.sharding import along_batch, data_mesh
from tests.end_to_end.commands import RECIPE, ROOT, finish, scalars, start

SAMPLERS = ("ddpm", "ddim", "dpm_solver", "unipc")
BATCHES = (1, 7, 64)
COUNT = 16
LENGTH = ("--config.train.steps=6", "--config.model.channels=64")


@pytest.mark.slow
def test_devices_do_not_change_the_result(tmp_path):
    kinds = {"one": (1, "replicated"), "four": (4, "replicated"), "fsdp": (4, "fsdp")}
    losses, images = {}, {}
    for name, (devices, sharding) in kinds.items():
        workdir = tmp_path / name
        argv = (RECIPE, f"--workdir={workdir}", *LENGTH, f"--config.train.sharding={sharding}")
        code, printed = finish(start(*argv, devices=devices))
        assert code == 0 and f"{devices} x cpu" in printed
        sampling = ("--mode=sample", f"--workdir={workdir}", "--config.sample.count=8")
        code, printed = finish(start(*sampling, devices=devices))
        assert code == 0, printed
        losses[name] = scalars(workdir, "train/loss") | scalars(workdir, "validation/loss_ema")
        (folder,) = (workdir / "samples").iterdir()
        images[name] = np.load(folder / "samples.npz")["arr_0"].astype(int)
    for name in ("four", "fsdp"):
        assert losses[name] == pytest.approx(losses["one"], rel=1e-4)
        assert np.abs(images[name] - images["one"]).max() <= 1


def draw_everything(workdir: str, target: str) -> None:
    """Saves the images of each sampler in each batch size, and the noise of a step, on the devices of this process."""
    run, mesh = load_run(workdir), data_mesh()
    keys = jax.jit(image_keys, static_argnums=0, out_shardings=along_batch(mesh))(5, np.arange(COUNT))
    drawn = {"devices": np.array(mesh.size), "x_T": run.noise(COUNT, seed=5)}
    drawn["noise"] = np.asarray(jax.jit(draw_noise, static_argnums=2)(keys, 3, (8, 8, 1)))
    for sampler in SAMPLERS:
        for batch in BATCHES:
            options = {"eta": 1.0} if sampler == "ddim" else {}
            images = run.sample(COUNT, sampler=sampler, steps=4, seed=5, batch_size=batch, **options)
            drawn[f"{sampler} {batch}"] = images.astype(int)
    flags = ["--mode=sample", f"--workdir={workdir}", "--config.sample.task=vary", "--config.sample.count=6"]
    assert cli.main(["main.py", *flags, f"--config.sample.images={Path(workdir).parent}"]) == 0
    (folder,) = (Path(workdir) / "samples").iterdir()
    drawn["vary"] = np.load(folder / "samples.npz")["arr_0"].astype(int)
    np.savez(target, **drawn)


@pytest.mark.slow
def test_every_sampler_draws_the_same_images_in_any_batch_on_any_device(tmp_path):
    code, printed = finish(start(RECIPE, f"--workdir={tmp_path}/run", *LENGTH))
    assert code == 0, printed
    for i, image in enumerate(load_digits(Data()).decoded[:3]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    drawn = {}
    for devices in (1, 4):
        target = tmp_path / f"{devices}.npz"
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        call = f"from {__name__} import draw_everything; draw_everything({str(tmp_path / 'run')!r}, {str(target)!r})"
        subprocess.run([sys.executable, "-c", call], cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, check=True)
        drawn[devices] = dict(np.load(target))
        assert drawn[devices]["devices"] == devices
    for name in ("x_T", "noise"):
        np.testing.assert_array_equal(drawn[4][name], drawn[1][name])
    assert np.abs(drawn[4]["vary"] - drawn[1]["vary"]).max() <= 1
    for sampler in SAMPLERS:
        expected = drawn[1][f"{sampler} 1"]
        assert expected.std() > 1
        for devices, batch in ((devices, batch) for devices in drawn for batch in BATCHES):
            assert np.abs(drawn[devices][f"{sampler} {batch}"] - expected).max() <= 1, (sampler, devices, batch)
