"""Faces by attribute: training on a filtered split of a synthetic CelebA, and sampling by names of attributes."""

import json

import numpy as np
import pytest

from ddpm_jax.commands import cli
from tests.data.faces import write_celeba


@pytest.mark.slow
def test_faces_are_sampled_by_the_names_of_their_attributes(tmp_path, capsys):
    faces = write_celeba(tmp_path / "celeba", 200)
    flags = {
        "data.path": faces,
        "data.cache": tmp_path / "cache",
        "data.filter": "Young | ~Bald",
        "data.attributes": "Smiling,Eyeglasses",
        "data.image_size": 16,
        "data.batch_size": 8,
        "model.attributes": 2,
        "model.channels": 8,
        "model.norm_groups": 4,
        "model.blocks": 1,
        "model.multipliers": "(1,2)",
        "diffusion.steps": 50,
        "optimizer.learning_rate": 2e-3,
        "optimizer.warmup": 5,
        "train.steps": 50,
        "log.preview_every": 0,
        "sample.count": 8,
        "sample.gif": 0,
        "sample.strip": 0,
    }
    recipe = f"--config={cli.__file__.rsplit('/', 2)[0]}/configs/celeba64.py"
    command = [recipe, f"--workdir={tmp_path}/run", *(f"--config.{name}={value}" for name, value in flags.items())]
    assert cli.main(["main.py", *command]) == 0
    assert json.loads((tmp_path / "run" / "labels.json").read_text()) == ["Smiling", "Eyeglasses"]

    def sample(label: str) -> int:
        sampling = ["--mode=sample", f"--workdir={tmp_path}/run", "--config.sample.sampler=ddim"]
        return cli.main(["main.py", *sampling, "--config.sample.steps=5", f"--config.sample.label={label}"])

    assert (sample("Smiling"), sample("Eyeglasses"), sample("Smiling,Eyeglasses")) == (0, 0, 0)
    folders = sorted((tmp_path / "run" / "samples").iterdir())
    images = [np.load(folder / "samples.npz")["arr_0"] for folder in folders]
    assert [each.shape for each in images] == [(8, 16, 16, 3)] * 3
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[1], images[2])
    capsys.readouterr()
    assert sample("Smilling") == 2
    assert "sample.label='Smilling' is not a label of this run; did you mean Smiling?" in capsys.readouterr().err
