import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.reporting.images import GAP, grid, save_gif, save_png, strip
from ddpm_jax.reporting.throughput import Throughput
from ddpm_jax.reporting.writer import BestSoFar, ByImagesSeen, TensorBoard, WeightsAndBiases, Writers


def test_pixels_undo_the_scaling_of_images_and_clip():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_pixels(levels.astype(np.float32) / 127.5 - 1.0), levels)
    np.testing.assert_array_equal(to_pixels(np.array([-9.0, 9.0, np.nan])), [0, 255, 0])


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 3, 2), (9, 3, 3)])
def test_a_grid_holds_each_image_in_its_place(draw, count, columns, rows):
    images = draw.integers(0, 255, (count, 64, 64, 3), np.uint8)
    picture = grid(images)
    assert picture.shape == (rows * (64 + GAP) + GAP, columns * (64 + GAP) + GAP, 3)
    for i in range(count):
        top, left = GAP + i // columns * (64 + GAP), GAP + i % columns * (64 + GAP)
        np.testing.assert_array_equal(picture[top : top + 64, left : left + 64], images[i])


def test_small_images_are_enlarged_so_that_one_can_see_them():
    assert grid(np.zeros((1, 8, 8, 1), np.uint8)).shape == (64 + 2 * GAP, 64 + 2 * GAP, 1)


def test_a_strip_shows_each_image_from_noise_to_image():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 64, 64, 1), np.uint8)
    picture = strip(frames, columns=5)
    shown = picture[GAP, GAP :: 64 + GAP, 0][:5]
    assert shown.tolist() == [0, 10, 20, 29, 39]
    assert picture.shape[0] == 2 * (64 + GAP) + GAP


def test_files_hold_the_pictures(tmp_path, draw):
    colour, grey = draw.integers(0, 255, (9, 9, 3), np.uint8), draw.integers(0, 255, (9, 9, 1), np.uint8)
    for picture, mode in ((colour, "RGB"), (grey, "L")):
        save_png(picture, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode
            np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)
    save_gif([grey, 255 - grey, grey], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3 and image.info["loop"] == 0


def test_tensorboard_reads_what_was_written_and_a_resumed_run_hides_what_came_after(tmp_path, draw):
    first = Writers([TensorBoard(tmp_path, start=0)])
    for step in range(1, 6):
        first.scalars(step, {"train/loss": step / 10})
    first.picture(4, "preview/grid", draw.integers(0, 255, (8, 8, 1), np.uint8))
    first.text("config", "seed: 0")
    first.close()
    resumed = TensorBoard(tmp_path, start=3)
    resumed.scalars(4, {"train/loss": 9.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    steps = {event.step: event.value for event in events.Scalars("train/loss")}
    assert steps == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3, 4: 9.0})


def test_hyperparameters_and_charts_are_where_tensorboard_looks_for_them(tmp_path):
    values = {"optimizer.learning_rate": 2e-4, "model.multipliers": "(1, 2)", "data.flip": True}
    TensorBoard(tmp_path / "run", 0, values).close()
    plugins = EventAccumulator(str(tmp_path / "run")).Reload().summary_metadata
    content = plugins["_hparams_/session_start_info"].plugin_data.content
    read = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: getattr(read[name], read[name].WhichOneof("kind")) for name in read} == values
    layout = EventAccumulator(str(tmp_path / "run")).Reload().Tensors("custom_scalars__config__")[0].tensor_proto
    for name in ("^train/loss$", "^validation/.*", "^train/loss_t_.*"):
        assert name.encode() in layout.string_val[0]


def test_curves_over_the_images_seen_survive_a_resumption(tmp_path):
    for start in (0, 3):
        curves = ByImagesSeen(TensorBoard(tmp_path, start * 16), 16)
        for step in range(start + 1, start + 6):
            curves.scalars(step, {"train/loss": float(step + start), "speed/images_per_second": 1.0})
        curves.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["train_by_images_seen/loss"]
    seen = {event.step: event.value for event in events.Scalars("train_by_images_seen/loss")}
    assert seen == {16: 1, 32: 2, 48: 3, 64: 7, 80: 8, 96: 9, 112: 10, 128: 11}


def test_throughput_counts_batches_and_leaves_pauses_out(monkeypatch):
    clock = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    throughput = Throughput(batch_size=100, step=7, ideal=1000.0)
    for _ in throughput.timed(pass_time(2.0) for _ in range(3)):
        pass_time(1.0)
        with throughput.paused():
            pass_time(5.0)
    rates = throughput.read(10)
    assert rates == pytest.approx({"images_per_second": 300 / 9, "data_wait_share": 6 / 9, "share_of_peak": 0.3 / 9})
    pass_time(4.0)
    assert throughput.read(11)["images_per_second"] == pytest.approx(25.0)


def test_wandb_missing_gives_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match="pip install -r requirements-wandb.txt"):
        WeightsAndBiases(tmp_path, "project", {})


def test_wandb_gets_the_same_calls(tmp_path, monkeypatch):
    """A stand-in records what the adapter sends; the real service needs an account."""
    calls = []

    class Run:
        summary: dict = {}

        def log(self, values, step):
            calls.append((step, sorted(values)))

        def finish(self):
            calls.append("finish")

    class Wandb:
        @staticmethod
        def init(**options):
            calls.append((options["project"], options["resume"], options["config"]))
            return Run()

        @staticmethod
        def Image(array):
            return array.shape

    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    place = WeightsAndBiases(tmp_path, "faces", {"seed": 1})
    place.scalars(3, {"train/loss": 0.5})
    place.picture(3, "preview/grid", np.zeros((4, 4, 1), np.uint8))
    place.close()
    assert calls == [("faces", "allow", {"seed": 1}), (3, ["train/loss"]), (3, ["preview/grid"]), "finish"]


def test_the_lowest_point_of_a_curve_is_remembered():
    best = BestSoFar()
    for step, value in enumerate([float("nan"), 3.0, 1.0, 1.0, 2.0, float("inf")]):
        best.scalars(step, {"train/loss": value, "other": -value})
    assert best.of(["validation/loss", "train/loss"]) == {"train/loss": (1.0, 2)}
