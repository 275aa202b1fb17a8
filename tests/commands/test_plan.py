"""--mode=plan: its estimates against independent ones, and plans of a toy training."""

import dataclasses

import jax
import pytest

from ddpm_jax.commands.cost import USABLE, LinearModel, StepCost, bytes_of, state_bytes
from ddpm_jax.commands.one_device import OneDevice, memory_model
from ddpm_jax.commands.plan import (
    PlanOptions,
    extra_bytes,
    kept_checkpoints,
    memory_in_words,
    microbatches_that_fit,
    plan,
    snapshots_in_words,
    time_in_words,
)
from ddpm_jax.reporting.memory import peak_resident, size_in_words
from ddpm_jax.runtime.devices import abstract_mesh
from tests.training.toy import CONFIG, config_with

pytestmark = pytest.mark.xdist_group("plan")  # Compiled once, for all tests.
HERE = PlanOptions()


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Steps of the same network and number of images are compiled once for all tests."""
    compile_anew, compiled = OneDevice.compile, {}

    def compile_once(self, images):
        same = {"data": CONFIG.data, "train": CONFIG.train, "checkpoint": CONFIG.checkpoint}
        key = dataclasses.replace(self.config, **same), images
        if key not in compiled:
            compiled[key] = compile_anew(self, images)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OneDevice, "compile", compile_once)
        yield


def lines_of(config, capsys, options=HERE, workdir=None) -> dict[str, str]:
    """The lines that a plan prints, by their names."""
    plan(config, options, workdir)
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_arithmetic_and_memory_grow_with_the_images():
    toy = OneDevice(CONFIG)
    (_, two), (_, eight) = toy.compile(2), toy.compile(8)
    assert eight.flops == 4 * two.flops
    assert two.memory is not None and eight.memory is not None and two.memory > bytes_of(toy.shapes)
    assert 0 < toy.process.kept <= toy.process.peak <= (peak_resident() or 0)
    assert toy.process.with_arrays(toy.process.peak) == toy.process.kept + toy.process.peak
    assert toy.process.with_arrays(0) == toy.process.peak
    # Each image needs at least its input of the last convolution.
    assert eight.memory - two.memory >= 6 * 4 * 8 * 8 * 8
    # Every kernel is applied to at least the 4x4 pixels of the smallest stage, forward and in both gradients.
    kernels = sum(x.size for x in jax.tree.leaves(toy.shapes.params) if x.ndim == 4)
    assert two.flops > 2 * 3 * 2 * kernels * 16


def test_the_most_images_are_the_largest_number_within_the_limit():
    step, _ = OneDevice(CONFIG).compile(2)
    line = memory_model({10: (step, StepCost(7, 1_300)), 2: (step, StepCost(7, 500))})
    assert line == LinearModel(300, 100)
    assert line.most_images(line.at(7)) == 7 and line.most_images(line.at(7) - 1) == 6 and line.most_images(10) == 0
    assert memory_model({10: (step, StepCost(7, None)), 2: (step, StepCost(7, 500))}) is None


def test_the_fewest_microbatches_that_fit_are_found():
    for batch_size, devices, most in [(128, 1, 128), (128, 1, 100), (128, 4, 3), (96, 2, 20), (8, 8, 0), (8, 2, 50)]:
        fitting = [
            microbatches
            for microbatches in range(1, batch_size + 1)
            if batch_size % (microbatches * devices) == 0 and batch_size // (microbatches * devices) <= most
        ]
        assert microbatches_that_fit(batch_size, devices, most) == min(fitting, default=None)


def test_a_batch_fits_after_following_the_advice():
    state = OneDevice(CONFIG).shapes
    line = memory_model({n: OneDevice(CONFIG).compile(n) for n in (2, 8)})
    assert line is not None
    mesh, config = abstract_mesh(2), config_with(data={"batch_size": 64})

    def fits(microbatches: int, gibibytes: float) -> str:
        accumulating = config_with(data={"batch_size": 64}, train={"accumulate": microbatches})
        return dict(memory_in_words(accumulating, PlanOptions(memory=gibibytes), mesh, state, line))["Fits"]

    for images in (13, 9, 4):  # The most images at once, with the sums over microbatches.
        limit = (line.at(images) + extra_bytes(config, state, mesh, 2)) / USABLE / 2**30 * 1.0001
        advice = fits(1, limit)
        assert advice.startswith("no: 32 images at once do not fit")
        microbatches = int(advice.rsplit("=", 1)[1])
        assert fits(microbatches, limit).startswith(f"yes: up to {images:,} images")
        fewer = [n for n in range(2, microbatches) if 32 % n == 0]
        assert not any(fits(n, limit).startswith("yes") for n in fewer)
    assert "train.sharding=fsdp on more devices" in fits(1, line.fixed / 2**31)


def test_sums_over_microbatches_and_gathered_parameters_take_memory():
    replicated = config_with(model={"channels": 64})  # FSDP leaves small arrays whole.
    divided = config_with(model={"channels": 64}, train={"sharding": "fsdp"})
    shapes, mesh = OneDevice(replicated).shapes, abstract_mesh(4)
    params = bytes_of(shapes.params)
    assert extra_bytes(replicated, shapes, mesh, microbatches=1) == 0
    assert extra_bytes(replicated, shapes, mesh, microbatches=2) == params
    saved = bytes_of(shapes) - state_bytes(shapes, mesh, "fsdp")
    assert saved > 0 and extra_bytes(divided, shapes, mesh, microbatches=1) == params - saved


@pytest.mark.parametrize(
    ("steps", "every", "keep", "keep_every", "expected"),
    [
        (1000, 100, 3, 0, {800, 900, 1000}),
        (1000, 1000, 3, 0, {100, 1000}),
        (1050, 100, 1, 500, {500, 1000, 1050}),
        (50, 5000, 3, 0, {50}),
    ],
)
def test_the_plan_counts_the_checkpoints_that_training_keeps(steps, every, keep, keep_every, expected):
    rules = {"every": every, "keep": keep, "keep_every": keep_every}
    assert kept_checkpoints(config_with(train={"steps": steps}, checkpoint=rules)) == expected


@pytest.mark.parametrize(("steps", "expected"), [(3, 1), (40, 4), (45, 5), (325, 33), (330, 17)])
def test_the_plan_counts_the_snapshots_that_training_keeps(steps, expected):
    config = config_with(train={"steps": steps}, optimizer={"ema_snapshots": 10})
    assert snapshots_in_words(config, 2**20).endswith(f" {expected}.0 MiB for the {expected} that remain at the end")


def test_sizes_and_durations_have_fitting_units():
    assert [size_in_words(n) for n in (2**19, 1023 * 2**20, 2**31)] == ["0.5 MiB", "1,023 MiB", "2.0 GiB"]
    config, priced = config_with(train={"steps": 1000}), PlanOptions(price=2.0)
    expected = "30.0 minutes from step 100 to 1,000, 1.5 device-hours"
    assert time_in_words(config, priced, 3, 100, 0.5) == f"{expected}, 3.00 at 2 an hour"
    assert time_in_words(config, HERE, 3, 100, 0.5) == expected
    starts = {0.01: "36.0 seconds", 47.0: "47.0 hours", 60.0: "2.5 days"}
    assert all(time_in_words(config, priced, 1, 0, hours).startswith(words) for hours, words in starts.items())
    assert time_in_words(config, priced, 1, 1000, 0.0) == "none: step 1,000 of 1,000 is reached"


def test_a_plan_of_sixteen_devices_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = PlanOptions(devices=16, teraflops=2.0, memory=1.0)
    config = config_with(data={"batch_size": 32}, train={"steps": 1000}, checkpoint={"every": 100})
    lines = lines_of(config, capsys, options, tmp_path / "nothing")
    assert lines["Batch"] == "32 images = 2 at once x 1 (train.accumulate) x 16 (devices)"
    assert lines["Fits"].startswith("yes: up to ")
    gigaflop, speed = (float(lines[name].split()[0].replace(",", "")) for name in ("Arithmetic", "Speed"))
    assert speed == pytest.approx(16 * 2000 * 32 / gigaflop, rel=0.01)
    assert lines["Checkpoints"].endswith("for the 3 that remain at the end")
    assert lines["Images"] == "64; each training image is seen 525 times"
    assert not list(tmp_path.iterdir())


def test_a_plan_times_a_step_here(capsys):
    lines = lines_of(config_with(data={"path": "/nowhere", "source": "folder", "batch_size": 2}), capsys)
    assert "with 2 at once" in lines["Speed"] and "of its rate in matrix products" in lines["Speed"]
    assert lines["Images"].startswith("cannot be counted: data.path=/nowhere")


def test_a_plan_omits_what_does_not_fit_or_is_not_reported(capsys, monkeypatch):
    for module in ("plan", "one_device"):
        monkeypatch.setattr(f"ddpm_jax.commands.{module}.device_limit", lambda: 1000)
    lines = lines_of(config_with(data={"batch_size": 2}), capsys)
    assert lines["Fits"].startswith("no: not one image") and lines["Speed"].startswith("not timed")
    assert "Time" not in lines
    step, _ = OneDevice(CONFIG).compile(2)
    monkeypatch.setattr(OneDevice, "compile", lambda self, images: (step, StepCost(7, None)))
    lines = lines_of(config_with(data={"batch_size": 2}), capsys)
    assert not {"Memory", "Fits"} & set(lines) and "images/s" in lines["Speed"]
