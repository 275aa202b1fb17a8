"""The installed package holds the code, the recipes, the digits, trained models, the licence, and the command."""

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser

import pytest

from ddpm_jax.config.recipes import RECIPES
from tests.end_to_end.commands import ROOT


@pytest.mark.slow
def test_the_wheel_holds_all_that_is_needed(tmp_path):
    # Building leaves things behind.
    source, others = tmp_path / "source", shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=others)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, source]
    built = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution found for setuptools" in built.stderr:
        pytest.skip("building a wheel fetches setuptools, and no index can be reached")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        (points,) = (files.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    parser = ConfigParser()
    parser.read_string(points)
    assert parser["console_scripts"]["ddpm-jax"] == "ddpm_jax.commands.cli:command"
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ddpm_jax").rglob("*.py")}
    others = {"py.typed", "data/sources/digits.npz", "data/sources/digits-LICENSE.md"}
    others |= {f"pretrained/{name}.safetensors" for name in ("digits", "digits-consistency", "mnist")}
    recipes = {f"configs/{path.name}" for path in RECIPES.glob("*.py")}
    assert len(recipes) >= 10
    assert package | {f"ddpm_jax/{name}" for name in others | recipes} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 8e6
    assert not any(name.startswith(("tests", "scripts")) for name in names)
