"""A run that is killed and restarted ends like an undisturbed one, to the last bit."""

import signal
from pathlib import Path

import pytest

from ddpm_jax import load_run
from tests.end_to_end.commands import (
    RECIPE,
    assert_same_bits,
    final_state,
    finish,
    kill_at,
    reported,
    start,
    train_undisturbed,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("resume")]  # They share a run.
LENGTH = (
    *("--config.model.condition=low_resolution", "--config.degradation.factor=2", "--config.degradation.noise=8"),
    *("--config.train.condition_dropout=0.2", "--config.model.dropout=0.1", "--config.train.t_sampling=loss"),
    *("--config.train.steps=60", "--config.checkpoint.every=10", "--config.log.every=7"),
    *("--config.log.validate_every=5", "--config.log.preview_every=20", "--config.log.preview_samplers=ddim:4"),
    "--config.optimizer.ema_snapshots=7",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train_undisturbed(tmp_path_factory.mktemp("runs") / "undisturbed", *LENGTH)


def test_killed_and_restarted_equals_undisturbed(undisturbed, tmp_path):
    command = (RECIPE, f"--workdir={tmp_path}/run", *LENGTH)
    code = kill_at(start(*command), tmp_path / "run", 20, signal.SIGKILL)
    assert code == -signal.SIGKILL
    saved = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()]
    assert 20 <= max(saved) < 60
    code, printed = finish(start(*command))
    assert code == 0 and "Resuming from step" in printed
    assert_same_bits(final_state(tmp_path / "run"), final_state(undisturbed))
    assert reported(tmp_path / "run") == reported(undisturbed)
    assert_same_bits(*(load_run(run, ema_width=0.15).params for run in (tmp_path / "run", undisturbed)))


def test_a_run_stopped_by_sigterm_and_resumed_reports_the_same_as_an_undisturbed_one(undisturbed, tmp_path):
    command = (RECIPE, f"--workdir={tmp_path}/run", *LENGTH)
    assert kill_at(start(*command), tmp_path / "run", 10, signal.SIGTERM) == 128 + signal.SIGTERM
    code, printed = finish(start(*command))
    assert code == 0, printed
    assert_same_bits(final_state(tmp_path / "run"), final_state(undisturbed))
    assert reported(tmp_path / "run") == reported(undisturbed)


def test_a_finished_run_stays_the_same_until_train_steps_is_raised(undisturbed):
    command = (RECIPE, f"--workdir={undisturbed}", *LENGTH)
    before = final_state(undisturbed)
    code, printed = finish(start(*command))
    assert code == 0, printed
    assert_same_bits(final_state(undisturbed), before)
    code, printed = finish(start(*command, "--config.train.steps=62"))
    assert code == 0 and "train.steps was 60 and is now 62" in printed
    assert int(final_state(undisturbed).step) == 62


def test_the_workdir_of_another_run_is_refused_and_unchanged(undisturbed):
    before = modification_times(undisturbed)
    code, printed = finish(start(RECIPE, f"--workdir={undisturbed}", *LENGTH, "--config.model.channels=16"))
    assert code == 2 and "model.channels was 8, now 16" in printed and len(printed.splitlines()) == 1
    assert modification_times(undisturbed) == before


def modification_times(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "train.log"}
