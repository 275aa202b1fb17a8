"""Measurements while training: when they are taken, and what a stop leaves to be taken."""

import dataclasses
import json
import os
import signal

import numpy as np
from jax.sharding import Mesh

from ddpm_jax.builders import build_learner
from ddpm_jax.commands import monitors
from ddpm_jax.commands.monitors import Monitor, Monitors, build_preview, preview_config
from ddpm_jax.config import Config, config_of
from ddpm_jax.config.sections import Sample
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.generation.draw import compile_sampler
from ddpm_jax.reporting.images import CAPTION_HEIGHT, GAP
from ddpm_jax.reporting.writer import Writer
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.progress import progress
from ddpm_jax.sampling.loop import Samples
from ddpm_jax.training.preemption import Preemption
from ddpm_jax.training.state import TrainState
from tests.commands.sampled import assert_shows_inputs
from tests.interop import toy

STATE = TrainState(step=0, skipped=0, bad_streak=0, params={}, ema={}, opt_state={})
MASKED_GREY = 127
"""The level that shows masked parts; no image below has it."""
DRAW = np.random.default_rng(0)
LEVELS = np.setdiff1d(np.arange(256, dtype=np.uint8), MASKED_GREY)
RANDOM = Dataset(DRAW.choice(LEVELS, (40, 8, 8, 1)), DRAW.integers(0, 2, 40, np.int32), ("a", "b"))
HELD = np.arange(5, 26)


def test_previews_use_plain_ddim_with_the_threshold_of_the_final_sampler():
    sampling = {"sampler": "dpm_solver", "order": 3, "timesteps": [900, 1], "threshold": "dynamic", "percentile": 0.9}
    guiding = {"guidance": 2.0, "guidance_interval": [5, 9], "guidance_rescale": 0.5, "label": "1"}
    config = config_of({"model": {"classes": 3}, "sample": sampling | guiding, "log": {"preview_steps": 7}})
    assert preview_config(config).sample == Sample(sampler="ddim", steps=7, threshold="dynamic", percentile=0.9)


def test_measurements_are_taken_when_due_and_once():
    found, taken, noted = [], [], []
    every = {"a": 4, "b": 6}
    each = [Monitor(n, lambda step, state, name=name: taken.append((name, step))) for name, n in every.items()]
    monitors = Monitors(each, 13, 4, lambda *steps: noted.append(steps))
    for step in range(4, 14):  # A run that resumes at step 4, whose measurements are done.
        found += [(step, monitor.every) for monitor in monitors.due(step)]
        monitors.run(step, STATE)
        assert not monitors.due(step)
        monitors.run(step, STATE)
    assert found == [(6, 6), (8, 4), (12, 4), (12, 6), (13, 4), (13, 6)]
    assert taken == [("b", 6), ("a", 8), ("a", 12), ("b", 12), ("a", 13), ("b", 13)]
    assert noted == [(6, 6), (8, 8), (12, 12), (13, 13)]


def test_measurements_due_at_the_step_of_a_stop_are_taken_when_the_run_resumes():
    taken = []
    monitors = Monitors([Monitor(4, lambda step, state: taken.append(step))], 13, 7)
    monitors.run(8, STATE)
    assert taken == [8]


def test_the_last_step_is_remembered_though_nothing_was_due():
    noted = []
    monitors = Monitors([], 3, 0, lambda *steps: noted.append(steps))
    assert all(monitors.run(step, STATE) for step in (1, 2, 3)) and noted == [(3, 3)]


def test_a_signal_interrupts_measurements_which_then_count_as_not_taken():
    taken, noted = [], []

    def slow(step: int, state: TrainState) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        list(progress(range(3), "Measuring", "batches", total=3))
        taken.append("slow")

    each = [Monitor(4, slow), Monitor(4, lambda step, state: taken.append("next"))]
    with Preemption() as preemption:
        assert not Monitors(each, 8, 0, lambda *steps: noted.append(steps)).run(4, STATE)
        assert preemption.agreed(4) and (taken, noted) == ([], [])


class Recorder(Writer):
    """The newest picture of each name."""

    def __init__(self):
        self.pictures = {}

    def picture(self, step, name, picture):
        self.pictures[name] = picture


def previewed(workdir, mesh, **log) -> tuple[Config, dict[str, np.ndarray]]:
    """Pictures of a model that inpaints images of two classes, at its last step; its configuration."""
    log = {"preview_steps": 2, "preview_count": 8} | log
    settings = toy.config(model={"classes": 2, "condition": "mask"}, log=log)
    state = dataclasses.replace(STATE, ema=toy.random_params(settings, 2))
    (workdir / "labels.json").write_text(json.dumps(RANDOM.names))
    writer, learner = Recorder(), build_learner(settings, mesh)
    build_preview(settings, learner, RANDOM, HELD, writer, workdir)(settings.train.steps, state)
    return settings, writer.pictures


def tiles(picture: np.ndarray) -> np.ndarray:
    """The images [rows, columns, 8, 8, 1] of a grid, which enlarges them eight times."""
    rows, columns = ((side - GAP) // (64 + GAP) for side in picture.shape[:2])
    cells = picture[GAP:, GAP:].reshape(rows, 64 + GAP, columns, 64 + GAP, 1)
    return cells[:, :64:8, :, :64:8].swapaxes(1, 2)


def test_previews_of_an_image_to_image_model_are_of_held_out_images_with_their_labels_and_known_pixels(tmp_path):
    settings, pictures = previewed(tmp_path, data_mesh(), preview_samplers="ddim:2")
    shown, samples, originals = tiles(pictures["preview/grid"])
    rows = np.concatenate([np.flatnonzero((RANDOM.images == image).all(axis=(1, 2, 3))) for image in originals])
    assert len(set(rows)) == 8 and set(rows) <= set(HELD)
    painted = shown == MASKED_GREY
    assert (shown == originals)[~painted].all() and 0 < painted.mean() < 1
    conditions = np.concatenate([originals, np.where(painted, 255, 0).astype(np.uint8)], axis=-1)

    sampling = preview_config(settings)
    params, labels = toy.random_params(settings, 2), RANDOM.labels[rows]
    assert 0 < labels.sum() < 8
    sampler = compile_sampler(sampling, data_mesh())
    images = sampler(params, sampling.sample.seed, np.arange(8), labels, None, conditions).images
    expected = np.where(painted, to_pixels(images), originals)
    assert_shows_inputs(expected[painted])
    others = sampler(params, sampling.sample.seed, np.arange(8), 1 - labels, None, conditions).images
    assert (to_pixels(others) != expected)[painted].mean() > 0.8
    assert_close(samples, expected)
    (compared,) = tiles(pictures["preview/samplers"][CAPTION_HEIGHT:])
    assert_close(compared, expected)
    assert_close(tiles(pictures["preview/strip"])[:, -1], expected)


def assert_close(a, b) -> None:
    """Asserts that images differ only by the rounding of another compilation."""
    assert np.abs(a.astype(int) - b).max() <= 1


def test_previews_are_of_the_same_originals_on_any_number_of_devices(tmp_path, monkeypatch):
    """Also where the batch of a preview is padded to their number."""

    def sampler(params, seed, indices, *_, **__):
        images = np.zeros((len(indices), 8, 8, 1), np.float32)
        return Samples(images, images[None].repeat(10, axis=0))

    monkeypatch.setattr(monitors, "compile_sampler", lambda *_: sampler)
    device = data_mesh().devices.ravel()
    one, eight = (Mesh(device.repeat(size), ("data",)) for size in (1, 8))
    grids = [
        previewed(tmp_path, mesh, preview_count=3, preview_samplers=None)[1]["preview/grid"] for mesh in (one, eight)
    ]
    np.testing.assert_array_equal(*grids)
    shown, _, originals = tiles(grids[0])
    assert len(np.unique(originals, axis=0)) == 3 and (shown == MASKED_GREY).any()
