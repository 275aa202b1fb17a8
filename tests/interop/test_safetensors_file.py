"""A model in one file of our own: there and back, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ddpm_jax import UserError, load_run
from ddpm_jax.interop.safetensors_file import read_file, write_file
from tests.end_to_end.commands import ROOT, assert_same_bits
from tests.interop.toy import config, random_params, random_run


def script(name: str, *argv: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "scripts" / name, *map(str, argv)], capture_output=True, text=True)


def test_parameters_and_average_leave_and_come_back_to_the_last_bit(tmp_path):
    settings, params, ema = random_run(tmp_path / "run", names=["u", "v"], model={"attributes": 2})
    done = script("export_safetensors.py", tmp_path / "run", tmp_path / "model.safetensors")
    assert done.returncode == 0, done.stderr
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata()["format"] == "ddpm_jax"
        np.testing.assert_array_equal(file.get_tensor("ema.conv_in.kernel"), ema["conv_in"]["kernel"])
    done = script(
        "import_safetensors.py", tmp_path / "model.safetensors", tmp_path / "again", "--config.sample.steps=4"
    )
    assert done.returncode == 0, done.stderr
    again, raw = load_run(tmp_path / "again"), load_run(tmp_path / "again", ema=False)
    assert_same_bits(again.params, ema)
    assert_same_bits(raw.params, params)
    assert again.config.sample.steps == 4 and again.config.model == settings.model
    assert again.sample(2, label="v").shape == (2, 8, 8, 1)
    done = script("export_safetensors.py", tmp_path / "run", tmp_path / "model.safetensors")
    assert done.returncode == 2 and "exists; choose another name" in done.stderr
    flag = "--config.diffusion.steps=9"
    done = script("import_safetensors.py", tmp_path / "model.safetensors", tmp_path / "other", flag)
    assert done.returncode == 2 and "diffusion.steps is 8 in the imported model" in done.stderr


def test_other_files_are_refused(tmp_path):
    settings = config()
    params = random_params(settings)
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_file(path)
    save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(UserError, match="is not of format 'ddpm_jax', got None"):
        read_file(path)
    path.unlink()
    write_file(path, settings, {"conv_in": params["conv_in"]}, params, names=[], step=3)
    with pytest.raises(UserError, match="missing: params.conv_out.bias, params.conv_out.kernel, "):
        read_file(path)
    for metadata, words in (
        ({"config": "{"}, "is not valid JSON"),
        ({"config": '{"model": {"chanels": 3}}'}, "model.chanels is not a field"),
    ):
        save_file({"a": np.zeros(2, np.float32)}, path, {"format": "ddpm_jax", **metadata})
        with pytest.raises(UserError, match=words):
            read_file(path)
    with pytest.raises(UserError, match="is a pickle"):
        read_file(tmp_path / "model.ckpt")
