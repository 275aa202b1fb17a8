"""The training loop at toy size: a run reports the same whether or not it was stopped and resumed."""

import dataclasses
import shutil
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.builders import state_shapes
from ddpm_jax.commands.monitors import Monitor, Monitors
from ddpm_jax.commands.train import save, train
from ddpm_jax.config import Config, config_of
from ddpm_jax.errors import TrainingDiverged, UserError
from ddpm_jax.generation.draw import load_params
from ddpm_jax.reporting.writer import TensorBoard
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.signals import Stopped
from ddpm_jax.training.checkpoint import Checkpoints, checkpoint_steps, training_item
from ddpm_jax.training.ema_snapshots import EmaSnapshots
from ddpm_jax.training.preemption import Preemption
from ddpm_jax.training.seals import sealed_steps
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import empty_metrics
from ddpm_jax.workdir import read_progress
from tests.end_to_end.commands import assert_same_bits, final_state, reported
from tests.training.toy import config_with

LAST = 10
PREVIEWS = {"preview_every": 5, "preview_count": 2, "preview_steps": 2, "preview_samplers": "ddim:2"}
CONFIG = config_with(
    data={"holdout": 0.1},
    model={"multipliers": (1,), "attention_resolutions": ()},
    optimizer={"ema_snapshots": 4},
    train={"steps": LAST},
    log={"every": 4, "validate_every": 5, **PREVIEWS},
    checkpoint={"every": 3},
)


def test_steps_in_flight_are_reported_before_the_training_pauses_for_measurements(tmp_path, monkeypatch):
    order, scalars = [], TensorBoard.scalars

    def written(self: TensorBoard, step: int, values: dict[str, float]) -> None:
        order.extend(("reported", step) for name in values if name == "train/loss")
        scalars(self, step, values)

    monkeypatch.setattr(TensorBoard, "scalars", written)
    measure = Monitor(5, lambda step, state: order.append(("measured", step)))
    monkeypatch.setattr("ddpm_jax.commands.train.build_monitors", lambda *args: [measure])
    train(dataclasses.replace(CONFIG, log=dataclasses.replace(CONFIG.log, every=1)), tmp_path / "run")
    assert [step for what, step in order if what == "measured"] == [5, 10]
    for at in (5, 10):
        assert ("reported", at) in order[: order.index(("measured", at))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(CONFIG, workdir)
    return workdir


def train_and_stop(config: Config, workdir: Path, at: int) -> None:
    """Trains until a SIGTERM arrives in a step."""

    def agreed(self: Preemption, step: int) -> bool:
        self.requested = signal.SIGTERM if step == at else None
        return step == at

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Preemption, "agreed", agreed)
        train(config, workdir)


def test_a_missing_package_of_wandb_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    log = dataclasses.replace(CONFIG.log, wandb=True)
    with pytest.raises(UserError, match="pip install wandb"):
        train(dataclasses.replace(CONFIG, log=log), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_reports_every_metric_at_its_steps(undisturbed):
    points = {tag: list(curve) for tag, curve in reported(undisturbed).items()}
    assert points["train/loss"] == points["optimizer/skipped_steps"] == [4, 8, 10]
    assert points["validation/loss_ema"] == points["preview/grid"] == points["preview/strip"] == [5, 10]
    assert points["preview/samplers"] == [10]


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_reports_the_same(undisturbed, tmp_path, package_log):
    """Stopped where validation and previews are due (5), between two reports (7), and at the last step (10)."""
    workdir = tmp_path / "run"
    for at in (5, 7, LAST):
        train_and_stop(CONFIG, workdir, at)
        assert checkpoint_steps(workdir / "checkpoints")[-1] == at
    assert 10 not in reported(workdir)["validation/loss_ema"]
    package_log.clear()
    train(CONFIG, workdir)
    assert reported(workdir) == reported(undisturbed)
    assert_same_bits(final_state(workdir), final_state(undisturbed))
    lowest = [line for line in package_log.messages if line.startswith("Lowest")]
    assert lowest == [f"{'Lowest':11s} {lowest_points(undisturbed)}"]
    segments = read_progress(workdir, LAST).segments
    # The last one took the measurements that the stop at the last step had put off.
    assert [(part.start, part.end) for part in segments] == [(0, 5), (5, 7), (7, LAST), (LAST, LAST)]
    assert all(part.seconds > 0 and part.devices.startswith("1 x cpu, ") for part in segments)
    train(CONFIG, workdir)
    assert package_log.messages[-1].startswith("Already at step 10")
    assert reported(workdir) == reported(undisturbed)


def lowest_points(workdir: Path) -> str:
    """The lowest losses as the summary should list them."""
    curves = {name: reported(workdir)[name] for name in ("validation/loss_ema", "train/loss")}
    points = {name: min((value, step) for step, value in curve.items()) for name, curve in curves.items()}
    return ", ".join(f"{name.replace('/', ' ')} {value:.4g} at step {step}" for name, (value, step) in points.items())


def test_a_run_that_falls_back_to_an_older_checkpoint_reports_the_same(undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    for step in (step for step in checkpoint_steps(workdir / "checkpoints") if step > 6):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    damaged = next((workdir / "ema_snapshots" / "8" / "ema_0.1").rglob("d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])  # It is written again, as is that of step 10.
    train(CONFIG, workdir)
    assert reported(workdir) == reported(undisturbed)
    found, expected = (read_progress(folder, LAST) for folder in (workdir, undisturbed))
    assert found[:2] == expected[:2] and found.segments[:-1] == expected.segments
    assert (found.segments[-1].start, found.segments[-1].end) == (6, LAST)
    assert sealed_steps(workdir / "ema_snapshots") == [4, 8, LAST]
    assert_same_bits(*(rebuilt_ema(folder, 0.06) for folder in (workdir, undisturbed)))


def rebuilt_ema(workdir: Path, width: float):
    config = dataclasses.replace(CONFIG, sample=dataclasses.replace(CONFIG.sample, ema_width=width))
    params, step = load_params(config, workdir, data_mesh())
    assert step == LAST
    return params


def test_a_stored_width_is_rebuilt_as_the_ema_in_the_checkpoint_of_its_step(undisturbed):
    emas = (rebuilt_ema(undisturbed, 0.1), final_state(undisturbed).power_emas[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), *emas)


def test_without_snapshots_a_checkpoint_holds_no_further_arrays():
    """So that it is that of earlier versions, which are read all the same."""
    plain = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, ema_snapshots=0))
    assert [*training_item(state_shapes(plain))] == ["step", "skipped", "bad_streak", "opt_state"]
    assert [*training_item(state_shapes(CONFIG))][4:] == ["power_emas"]


def test_a_checkpoint_without_metrics_or_progress_is_resumed(undisturbed, tmp_path):
    """Earlier versions saved neither."""
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / str(LAST))
    newest = workdir / "checkpoints" / "9"
    shutil.rmtree(newest / "metrics")
    lines = (newest / "SHA256SUMS").read_text().splitlines(keepends=True)
    (newest / "SHA256SUMS").write_text("".join(line for line in lines if "metrics/" not in line))
    (workdir / "progress.json").unlink()
    train(CONFIG, workdir)
    assert_same_bits(final_state(workdir), final_state(undisturbed))


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    broken = TrainState(
        step=jnp.asarray(9),
        skipped=jnp.asarray(0),
        bad_streak=jnp.asarray(0),
        params={"w": jnp.array([1.0, jnp.inf])},
        ema={"w": jnp.zeros(2)},
        opt_state={"w": jnp.zeros(2)},
    )
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TrainingDiverged, match="at step 9: a parameter, .* no checkpoint was saved yet"):
            save(config_of({}), checkpoints, EmaSnapshots(tmp_path, (), 0), broken, empty_metrics(), Monitors([], 9, 0))
        assert not list(tmp_path.iterdir())


def test_train_steps_below_the_newest_checkpoint_are_refused(undisturbed):
    shorter = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=LAST - 1))
    with pytest.raises(UserError, match=rf"train.steps={LAST - 1} is below step {LAST}, which .* has reached"):
        train(shorter, undisturbed)
