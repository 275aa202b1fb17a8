"""One device or four, replicated or divided: the same loss curve, the same images."""

import numpy as np
import pytest

from tests.end_to_end.commands import RECIPE, finish, scalars, start

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
