"""Every recipe at toy size: trains, shows itself, samples, and some go on where they stopped."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import cli
from ddpm_jax.config import config_of
from tests.end_to_end.commands import assert_same_bits, final_state, scalars

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
IN_FULL = ("digits", "fashion_mnist")
"""Previews and going on do not depend on the recipe (test_resume.py kills runs)."""

LIKE_ANOTHER = ("celeba64_small", "celeba32", "folder", "mnist")
"""Samplers of these see nothing that those of celeba64, cifar10 and fashion_mnist do not see."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_samples_and_resumes(recipe, tmp_path):
    command = ["main.py", f"--config={recipe}:smoke", f"--workdir={tmp_path}/run"]
    if recipe.stem not in IN_FULL:
        command.append("--config.log.preview_every=0")
    data = config_of(cli.load_recipe(f"{recipe}:smoke")).data
    assert cli.main(command) == 0
    curve = scalars(tmp_path / "run", "train/loss")
    assert sorted(curve) == [1, 2, 3] and all(np.isfinite(value) for value in curve.values())
    assert set(scalars(tmp_path / "run", "validation/loss_ema")) == {3}
    for name in ("share_of_peak", "images_per_second", "data_wait_share", "host_memory_mebibytes"):
        curve = scalars(tmp_path / "run", f"train/{name}")
        assert set(curve) == {1, 2, 3} and (min(curve.values()) > 0 or name == "data_wait_share"), name

    if recipe.stem in LIKE_ANOTHER:
        return
    assert cli.main(["main.py", "--mode=sample", f"--workdir={tmp_path}/run"]) == 0
    (folder,) = (tmp_path / "run" / "samples").iterdir()
    images = np.load(folder / "samples.npz")["arr_0"]
    assert images.shape == (4, data.image_size, data.image_size, data.channels) and images.dtype == np.uint8
    with Image.open(folder / "images" / "000003.png") as image:
        np.testing.assert_array_equal(np.asarray(image).reshape(images[3].shape), images[3])
    assert (folder / "grid.png").exists() and (folder / "strip.png").exists()
    with Image.open(folder / "denoising.gif") as animation:
        assert animation.n_frames >= 2

    if recipe.stem not in IN_FULL:
        return
    finished = final_state(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")
    assert cli.main(command) == 0
    assert_same_bits(final_state(tmp_path / "run"), finished)
