import os

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.curves import read_curves
from ddpm_jax.reporting.writer import WANDB_STEP, BestSoFar, ByImagesSeen, TensorBoard, WeightsAndBiases, Writers


def test_tensorboard_reads_the_points_and_a_resumed_run_hides_later_ones(tmp_path, draw):
    first = Writers([TensorBoard(tmp_path, start=0)])
    for step in range(1, 6):
        first.scalars(step, {"train/loss": step / 10})
    first.picture(4, "preview/grid", draw.integers(0, 255, (8, 8, 1), np.uint8))
    first.text("config", "seed: 0")
    first.close()
    resumed = TensorBoard(tmp_path, start=3)
    resumed.scalars(4, {"train/loss": 9.0})
    resumed.close()
    assert dict(read_curves(tmp_path)["train/loss"]) == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3, 4: 9.0})


def test_tensorboard_finds_hyperparameters_and_charts(tmp_path):
    values = {"optimizer.learning_rate": 2e-4, "model.multipliers": "(1, 2)", "data.flip": True}
    TensorBoard(tmp_path / "run", 0, values).close()
    plugins = EventAccumulator(str(tmp_path / "run")).Reload().summary_metadata
    content = plugins["_hparams_/session_start_info"].plugin_data.content
    read = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: getattr(read[name], read[name].WhichOneof("kind")) for name in read} == values
    layout = EventAccumulator(str(tmp_path / "run")).Reload().Tensors("custom_scalars__config__")[0].tensor_proto
    for name in ("^train/loss$", "^validation/.*", "^train/loss_t_.*"):
        assert name.encode() in layout.string_val[0]


def test_curves_over_images_seen_continue_in_a_resumed_run(tmp_path):
    for start in (0, 3):
        curves = ByImagesSeen(TensorBoard(tmp_path, start * 16), 16)
        for step in range(start + 1, start + 6):
            curves.scalars(step, {"train/loss": float(step + start), "speed/images_per_second": 1.0})
        curves.close()
    seen = [(16, 1), (32, 2), (48, 3), (64, 7), (80, 8), (96, 9), (112, 10), (128, 11)]
    assert read_curves(tmp_path) == {"train_by_images_seen/loss": seen}


def test_without_wandb_the_message_gives_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WeightsAndBiases(tmp_path, "project", {}, "0123abcd")


raise_in_wandb = eval("lambda error: (_ for _ in ()).throw(error)", {"__name__": "wandb.errors.errors"})
"""Raises an error from a function of W&B's package."""


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in with the rules of W&B, which needs an account; `points` are those that it accepted."""

    class Run:
        summary: dict = {}

        def __init__(self):
            self.points, self.metrics, self.latest, self.broken = [], {}, 0, False

        def define_metric(self, name, step_metric=None):
            self.metrics[name] = step_metric

        def log(self, values, step=None):
            if self.broken:
                raise ConnectionResetError("Connection lost")
            if step is not None and step < self.latest:
                return  # With a warning that this step is not monotonic.
            self.latest = step or self.latest + 1
            self.points.append(values)

        def finish(self):
            self.log({"finished": True})

    class Wandb:
        run, options, missing = Run(), {}, False

        @classmethod
        def init(cls, **options):
            cls.options = options
            if os.environ.get("WANDB_MODE") == "bad":
                raise_in_wandb(ValueError("1 validation error for Settings\nmode\n  Input should be 'online'"))
            if cls.missing:
                raise_in_wandb(Exception("No API key configured. Use `wandb login` to log in."))
            if set(options["id"]) & set(":;,#?/'") or set(options["project"]) & set("/\\#?%:"):
                raise_in_wandb(Exception("Run ID cannot contain the characters: :;,#?/'"))
            return cls.run

        @staticmethod
        def Image(array):
            return array.shape

    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    return Wandb


def test_wandb_receives_the_same_reports(tmp_path, wandb):
    writer = WeightsAndBiases(tmp_path / "runs" / "x", "faces", {"seed": 1}, "0123abcd")
    writer.scalars(3, {"train/loss": 0.5})
    writer.picture(3, "preview/grid", np.zeros((4, 4, 1), np.uint8))
    writer.close()
    reports = [{"train/loss": 0.5, WANDB_STEP: 3}, {"preview/grid": (4, 4), WANDB_STEP: 3}, {"finished": True}]
    assert wandb.run.points == reports
    options = wandb.options
    assert (options["project"], options["name"], options["id"]) == ("faces", "x", "0123abcd")
    assert (options["resume"], options["config"]) == ("allow", {"seed": 1})


def test_wandb_keeps_metrics_that_arrive_after_those_of_later_steps(tmp_path, wandb):
    writer = WeightsAndBiases(tmp_path, "faces", {}, "0123abcd")
    reports = [(8, "validation/loss_ema"), (5, "train/loss"), (16, "validation/loss_ema"), (10, "train/loss")]
    for step, name in reports:
        writer.scalars(step, {name: 0.5})
    assert [(point[WANDB_STEP], *(point.keys() - {WANDB_STEP})) for point in wandb.run.points] == reports
    assert wandb.run.metrics == {WANDB_STEP: None, "*": WANDB_STEP}


def test_names_are_made_valid_for_wandb(tmp_path, wandb, package_log):
    WeightsAndBiases(tmp_path / "lr: 1e-4", "faces/64", {}, "lr: 1e-4, #2")
    assert (wandb.options["id"], wandb.options["project"]) == ("lr- 1e-4- -2", "faces-64")
    assert not package_log.messages


def test_wandb_never_ends_training(tmp_path, wandb, package_log):
    wandb.missing = True
    writer = WeightsAndBiases(tmp_path, "faces", {}, "0123abcd")
    (message,) = package_log.messages
    assert "No API key configured" in message and "run wandb login" in message and "\n" not in message
    wandb.missing = False
    connected = WeightsAndBiases(tmp_path, "faces", {}, "0123abcd")
    wandb.run.broken = True
    for each in (writer, connected):
        each.scalars(3, {"train/loss": 0.5})
        each.picture(3, "preview/grid", np.zeros((4, 4, 1), np.uint8))
        each.text("config", "seed: 0")
        each.close()
    assert ["Connection lost" in line for line in package_log.messages] == [False, True]


def test_wrong_settings_of_wandb_do_not_end_training(tmp_path, wandb, package_log, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "bad")
    WeightsAndBiases(tmp_path, "faces", {}, "0123abcd").scalars(3, {"train/loss": 0.5})
    (message,) = package_log.messages
    assert "(1 validation error for Settings mode Input should be 'online')" in message


def test_a_bug_is_not_taken_for_an_error_of_wandb(tmp_path, wandb):
    writer = WeightsAndBiases(tmp_path, "faces", {}, "0123abcd")
    wandb.Image = None
    with pytest.raises(TypeError):
        writer.picture(3, "preview/grid", np.zeros((4, 4, 1), np.uint8))


def test_the_lowest_point_of_a_curve_is_kept():
    best = BestSoFar()
    for step, value in enumerate([float("nan"), 3.0, 1.0, 1.0, 2.0, float("inf")]):
        best.scalars(step, {"train/loss": value, "other": -value})
    assert best.lowest() == {"train/loss": (2, 1.0)}


@pytest.mark.parametrize("resumed_at", range(1, 7))
def test_a_resumed_run_keeps_only_lowest_points_up_to_its_step(resumed_at):
    losses = [5.0, 3.0, 4.0, 1.0, 2.0, 0.5]
    first = BestSoFar()
    for step, loss in enumerate(losses, start=1):
        first.scalars(step, {"train/loss": loss})
    resumed, uninterrupted = BestSoFar(first.lows, until=resumed_at), BestSoFar()
    for step, loss in enumerate(losses[:resumed_at], start=1):
        uninterrupted.scalars(step, {"train/loss": loss})
    assert resumed.lowest() == uninterrupted.lowest()
    for best in (resumed, uninterrupted):
        best.scalars(resumed_at + 1, {"train/loss": 2.5})
    assert resumed.lowest() == uninterrupted.lowest()
