"""Snapshots of power-function EMAs on disk: sealed, thinned out, and rebuilt into an EMA of another width."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.training.ema_snapshots import EmaSnapshots, retained_snapshots
from ddpm_jax.training.power_ema import update_power_emas
from ddpm_jax.training.seals import sealed_steps
from ddpm_jax.training.state import TrainState
from tests.training.test_checkpoint import damage

WIDTHS, EVERY, LAST = (0.05, 0.1), 5, 38
LIKE = {"w": jax.ShapeDtypeStruct((2, 3), np.float32)}


def state_at(step: int, emas, skipped: int = 0) -> TrainState:
    counters = (jnp.asarray(step), jnp.asarray(skipped), jnp.asarray(0))
    return TrainState(*counters, params={}, ema={}, opt_state={}, power_emas=emas)


def walk(widths=WIDTHS):
    """The EMAs of a random walk after each update, from 1 on."""
    params = np.random.default_rng(0).normal(size=(LAST, 2, 3)).cumsum(axis=0).astype(np.float32)
    emas = tuple({"w": jnp.zeros((2, 3))} for _ in widths)
    for t, value in enumerate(params, 1):
        emas = update_power_emas(widths, emas, {"w": value}, jnp.asarray(t))
        yield t, emas


def opened(folder, widths=WIDTHS) -> EmaSnapshots:
    return EmaSnapshots(folder, widths, EVERY)


def save_walk(folder, last: int = LAST) -> None:
    with opened(folder) as snapshots:
        for t, emas in walk():
            if (t + 2) % EVERY == 0 and t <= last:
                snapshots.save(state_at(t + 2, emas, skipped=2), {"seed": 0})


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "ema_snapshots"
    save_walk(folder)
    return folder


@pytest.fixture
def saved(walked, tmp_path):
    return shutil.copytree(walked, tmp_path / "ema_snapshots")


def rebuilt(folder, width: float, step: int | None = None):
    with opened(folder) as snapshots:
        return snapshots.rebuild(LIKE, width, step)


def direct(width: float, t: int):
    return next(emas[0]["w"] for at, emas in walk((width,)) if at == t)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("step", [None, 20])
def test_a_stored_width_is_given_back_at_the_step_of_each_snapshot(walked, width, step):
    """Steps are 2 more than updates, since two were skipped."""
    params, at = rebuilt(walked, width, step)
    assert at == (step or LAST + 2) and params["w"].dtype == np.float32
    np.testing.assert_allclose(params["w"], direct(width, at - 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [0.06, 0.08, 0.12])
def test_another_width_is_close_to_the_ema_of_that_width(walked, width):
    """Within a few per cent of how far a random walk moves within the width of the profile."""
    params, at = rebuilt(walked, width)
    np.testing.assert_allclose(params["w"], direct(width, at - 2), atol=0.05 * np.sqrt(width * LAST))


def test_widths_that_the_snapshots_cannot_give_are_refused_with_those_they_can(walked):
    with pytest.raises(UserError, match=r"ema_width=0.01 cannot be rebuilt at step 40 .* they give 0.0\d+ to 0.1\d*, "):
        rebuilt(walked, 0.01)
    with pytest.raises(
        UserError, match=r"ema_width=0.07 cannot be .* they give 0.045 to 0.06, 0.085 to 0.11, and more"
    ):
        rebuilt(walked, 0.07, 5)


def test_a_step_without_a_snapshot_is_refused_and_the_others_are_listed(saved):
    with pytest.raises(UserError, match="of step 8; set sample.checkpoint to .* can be rebuilt: 5, 10, .* 35, 40"):
        rebuilt(saved, 0.07, 8)
    with pytest.raises(UserError, match="no intact snapshot of EMAs.*; the first is written after"):
        rebuilt(saved.with_name("none"), 0.07)


def test_a_damaged_snapshot_is_named_and_left_out(saved, package_log):
    damage(next((saved / "25" / "ema_0.05").rglob("d/*")), "flipped")
    params, _ = rebuilt(saved, 0.08)
    assert re.search(r"Snapshot 25 in .* is damaged \(ema_0.05/.* has changed\)", package_log.text)
    np.testing.assert_allclose(params["w"], direct(0.08, LAST), atol=0.05 * np.sqrt(0.08 * LAST))
    with pytest.raises(UserError, match="no intact snapshot of step 25"):
        rebuilt(saved, 0.08, 25)


def test_a_snapshot_that_was_never_completed_is_ignored(saved):
    (saved / "40" / "SHA256SUMS").unlink()
    assert rebuilt(saved, 0.05)[1] == 35


def test_snapshots_of_other_parameters_are_refused_in_one_line(saved):
    like = {"w": jax.ShapeDtypeStruct((2, 3), np.float32), "b": jax.ShapeDtypeStruct((3,), np.float32)}
    with opened(saved) as snapshots, pytest.raises(UserError, match="does not hold the arrays that .* describes") as e:
        snapshots.rebuild(like, 0.05)
    assert "\n" not in str(e.value)


def test_snapshots_after_the_step_of_a_resume_are_deleted(saved):
    with opened(saved) as snapshots:
        snapshots.delete_after(30)
    assert sealed_steps(saved) == [5, 10, 15, 20, 25, 30]


def test_nothing_is_saved_before_the_first_update(tmp_path):
    with opened(tmp_path / "ema_snapshots") as snapshots:
        snapshots.save(state_at(5, tuple({"w": jnp.zeros(2)} for _ in WIDTHS), skipped=5), {})
    assert not (tmp_path / "ema_snapshots").exists()


def test_at_most_33_snapshots_are_kept_and_the_newest_always():
    assert retained_snapshots(range(100, 3201, 100), 100) == set(range(100, 3201, 100))
    assert retained_snapshots(range(100, 3301, 100), 100) == {*range(200, 3301, 200), 3300}
    assert retained_snapshots([6400, 6800, 6900, 6950], 100) == {6400, 6800, 6950}
    assert retained_snapshots([3], 100) == {3}


@pytest.mark.parametrize("resumed", [1250, 3310])
def test_a_resumed_run_ends_with_the_snapshots_of_an_undisturbed_one(resumed):
    """Wherever it was killed, and whatever was thinned out before."""

    def after(kept: set[int], begin: int, end: int) -> set[int]:
        for step in range(begin + 1, end + 1):
            if step % 100 == 0 or step == 7045:
                kept = retained_snapshots(sorted(kept | {step}), 100)
        return kept

    killed = {step for step in after(set(), 0, resumed + 700) if step <= resumed}
    assert after(killed, resumed, 7045) == after(set(), 0, 7045)
    assert len(after(set(), 0, 7045)) <= 33


def test_a_width_is_checked_without_reading_any_ema_or_verifying_later_snapshots(saved, package_log):
    """A check takes no time before an evaluation of hours, and a later snapshot is none of those that are used."""
    damage(next((saved / "40" / "ema_0.05").rglob("d/*")), "flipped")
    with opened(saved) as snapshots:
        assert snapshots.check(0.08) == 40 and snapshots.check(0.08, 35) == 35
        with pytest.raises(UserError, match="ema_width=0.01 cannot be rebuilt at step 35"):
            snapshots.check(0.01, 35)
        assert "_orbax" not in vars(snapshots)
    assert rebuilt(saved, 0.08, 35)[1] == 35 and "damaged" not in package_log.text


def test_a_snapshot_that_is_deleted_before_it_is_read_is_left_out(saved, monkeypatch):
    """By a job that trains, between the list of all snapshots and the reading of one."""
    listed = sealed_steps(saved)
    shutil.rmtree(saved / "20")
    monkeypatch.setattr("ddpm_jax.training.ema_snapshots.sealed_steps", lambda _: listed)
    monkeypatch.setattr("ddpm_jax.training.ema_snapshots.verify", lambda *_: None)
    assert rebuilt(saved, 0.08)[1] == 40
