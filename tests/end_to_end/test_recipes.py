"""Every recipe at toy size trains, reports and samples; recipes that run the code of another are only traced."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_jax.commands import cli
from ddpm_jax.commands.one_device import OneDevice
from ddpm_jax.config import config_of, load_recipe
from ddpm_jax.data.batches import random_batch
from ddpm_jax.data.open import open_dataset
from ddpm_jax.reporting.writer import tag
from ddpm_jax.training.step import empty_metrics, train_step
from tests.data.pictures import write_digits
from tests.end_to_end.commands import ROOT, assert_same_bits, final_state, scalars

LIKE_ANOTHER = {
    "celeba32": "cifar10",
    "celeba64": "cifar10",
    "celeba64_small": "cifar10",
    "celebahq128": "cifar10",
    "celebahq256": "cifar10",
    "celebahq_sr": "digits_sr",
    "cifar10_colour": "digits_sr",
    "fashion_mnist": "cifar10",
    "folder": "cifar10",
    "mnist": "cifar10",
}
"""Recipes that run the same code as another with other numbers, or with options that have tests of their own."""
RECIPES = [path for path in sorted((ROOT / "configs").glob("*.py")) if path.stem not in LIKE_ANOTHER]
IN_FULL = {"digits": "ddim,dpm_solver,unipc", "digits_sr": "ddim:2"}
"""Recipes that also test previews, with these samplers, and resuming: without a condition and with one."""


@pytest.mark.parametrize("name", LIKE_ANOTHER)
def test_the_step_of_a_recipe_keeps_the_shapes_of_its_state(name):
    config = config_of(load_recipe(f"{ROOT}/configs/{name}.py:smoke"))
    dataset, one = open_dataset(config), OneDevice(config)
    batch = random_batch(config, config.data.batch_size)
    assert batch.images.shape[2:] == dataset.images.shape[1:]
    state, _, _ = jax.eval_shape(partial(train_step, one.learner), one.shapes, empty_metrics(), batch)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (state, one.shapes))
    assert shapes[0] == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_samples_and_resumes(recipe, tmp_path):
    command = ["main.py", f"--config={recipe}:smoke", f"--workdir={tmp_path}/run"]
    compared = IN_FULL.get(recipe.stem)
    command.append(f"--config.log.preview_samplers={compared}" if compared else "--config.log.preview_every=0")
    config = config_of(load_recipe(f"{recipe}:smoke"))
    assert cli.main(command) == 0
    curve = scalars(tmp_path / "run", "train/loss")
    assert sorted(curve) == [1, 2, 3] and all(np.isfinite(value) for value in curve.values())
    assert set(scalars(tmp_path / "run", "validation/loss_ema")) == {3}
    for name in ("share_of_peak", "images_per_second", "data_wait_share", "host_memory_mebibytes"):
        curve = scalars(tmp_path / "run", tag(name))
        assert set(curve) == {1, 2, 3} and (min(curve.values()) > 0 or name == "data_wait_share"), name

    seen = scalars(tmp_path / "run" / "by_images_seen", "train_by_images_seen/loss")
    assert set(seen) == {config.data.batch_size * i for i in (1, 2, 3)}
    if compared:
        shown = EventAccumulator(str(tmp_path / "run")).Reload()
        assert set(shown.Tags()["images"]) == {"preview/grid", "preview/strip", "preview/samplers"}
        (last,) = shown.Images("preview/samplers")
        assert last.step == 3 and last.height == len(compared.split(",")) * (64 + 4 + 14)
        (last,) = shown.Images("preview/grid")
        rows, columns = (3, 4) if config.condition_shape else (2, 2)
        assert (last.height, last.width) == (66 * rows + 2, 66 * columns + 2)

    sampling = ["main.py", "--mode=sample", f"--workdir={tmp_path}/run"]
    if config.condition_shape:
        originals = write_digits(tmp_path / "originals", 3)
        sampling += ["--config.sample.task=condition", f"--config.sample.originals={originals}"]
    assert cli.main(sampling) == 0
    (folder,) = (tmp_path / "run" / "samples").iterdir()
    images = np.load(folder / "samples.npz")["arr_0"]
    assert images.shape == (4, *config.image_shape) and images.dtype == np.uint8
    with Image.open(folder / "images" / "000003.png") as image:
        np.testing.assert_array_equal(np.asarray(image).reshape(images[3].shape), images[3])
    assert (folder / "grid.png").exists()
    if config.condition_shape:
        assert json.loads((folder / "metrics.json").read_text())["images"] == 4
    else:
        assert (folder / "strip.png").exists()
        with Image.open(folder / "denoising.gif") as animation:
            assert animation.n_frames >= 2

    if not compared:
        return
    finished = final_state(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")
    assert cli.main(command) == 0
    assert_same_bits(final_state(tmp_path / "run"), finished)
