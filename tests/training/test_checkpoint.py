import errno
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoint
from ddpm_jax.training.checkpoint import Checkpoints, checkpoint_steps
from ddpm_jax.training.seals import DamagedCheckpoint, verify
from ddpm_jax.training.state import TrainState

SEAL = "SHA256SUMS"


def state_at(step: int) -> TrainState:
    params = {"a": {"w": jnp.arange(12.0).reshape(3, 4) + step}, "b": jnp.full(3, step / 7)}
    return TrainState(
        step=jnp.asarray(step),
        skipped=jnp.asarray(2),
        bad_streak=jnp.asarray(0),
        params=params,
        ema=jax.tree.map(lambda x: x / 3, params),
        opt_state=(jax.tree.map(jnp.square, params), jnp.asarray(step)),
    )


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def saved(folder):
    """Checkpoints of steps 1, 2 and 3."""
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step), {"seed": 0})
    return folder


def restored(folder, step=None):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(state_at(0), step)


def test_a_saved_state_is_restored_bit_for_bit(saved):
    assert_same(restored(saved), state_at(3))
    assert_same(restored(saved, step=1), state_at(1))


def test_parameters_or_their_ema_are_restored_alone(saved):
    with Checkpoints(saved) as checkpoints:
        for ema in (True, False):
            params, step = checkpoints.restore_params(state_at(0).params, ema=ema)
            assert step == 3
            assert_same(params, state_at(3).ema if ema else state_at(3).params)


def test_a_missing_folder_has_no_checkpoints(folder):
    assert restored(folder) is None
    with Checkpoints(folder) as checkpoints:
        assert checkpoint_steps(folder) == []
        assert checkpoints.restore_params({}, ema=True) is None
    assert not folder.exists()


def test_the_newest_checkpoints_and_multiples_of_keep_every_are_kept(folder):
    with Checkpoints(folder, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 11):
            checkpoints.save(state_at(step), {})
        checkpoints.wait()
        assert checkpoint_steps(folder) == [4, 8, 9, 10]
    assert sorted(p.name for p in folder.iterdir()) == ["10", "4", "8", "9"]


def test_an_incomplete_checkpoint_is_ignored_and_deleted_with_a_warning(saved, package_log):
    (saved / "3" / SEAL).unlink()
    (saved / "4.orbax-checkpoint-tmp").mkdir()
    assert_same(restored(saved), state_at(2))
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state_at(4), {})
    assert_same(restored(saved), state_at(4))
    assert sorted(p.name for p in saved.iterdir()) == ["1", "2", "4"]
    warnings = [line for line in package_log.messages if "Deleting" in line]
    assert warnings == [f"Deleting {saved / '3'}: a checkpoint that was never completed (it has no manifest)."]


def test_an_incomplete_checkpoint_is_replaced_by_a_new_one(saved, package_log):
    (saved / "3" / SEAL).unlink()
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state_at(3), {})
    assert_same(restored(saved), state_at(3))
    assert f"Deleting {saved / '3'}, where the new checkpoint goes" in package_log.text


def test_a_folder_with_files_of_the_user_is_never_deleted(saved):
    for name in ("7", "8"):
        shutil.copytree(saved / "3", saved / name)
        (saved / name / SEAL).unlink()
        (saved / name / "notes.txt").write_text("mine")
    with Checkpoints(saved, keep=1) as checkpoints:
        checkpoints.save(state_at(4), {})
        checkpoints.wait()
        assert sorted(p.name for p in saved.iterdir()) == ["4", "7", "8"]
        with pytest.raises(UserError, match="8 holds notes.txt, which is not part of a checkpoint; move it"):
            checkpoints.save(state_at(8), {})
    assert (saved / "8" / "notes.txt").read_text() == "mine"


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_any_damage_is_detected_and_the_previous_checkpoint_is_used(saved, how, caplog):
    logging.getLogger("ddpm_jax").propagate = True
    files = [path for path in sorted((saved / "3").rglob("*")) if path.is_file() and path.stat().st_size > 1]
    assert len(files) > 10
    whole = saved.with_name("whole")
    shutil.copytree(saved / "3", whole)
    for path in files:
        damage(path, how)
        if path.name == SEAL and how == "missing":
            assert checkpoint_steps(saved) == [1, 2]
        else:
            with pytest.raises(DamagedCheckpoint):
                verify(saved / "3")
        shutil.rmtree(saved / "3")
        shutil.copytree(whole, saved / "3")
    damage(next(p for p in files if p.parent.name == "d"), how)
    assert_same(restored(saved), state_at(2))
    assert "CHECKPOINT 3 IS DAMAGED" in caplog.text
    with pytest.raises(UserError, match="step 3 is damaged"):
        restored(saved, step=3)


def test_a_damaged_checkpoint_is_replaced_by_a_new_one(saved):
    damage(saved / "3" / "config" / "metadata", "flipped")
    with Checkpoints(saved, keep=2) as checkpoints:
        assert int(checkpoints.restore(state_at(0)).step) == 2
        checkpoints.set_aside_after(2)
        checkpoints.save(state_at(3), {})
        checkpoints.wait()
        assert checkpoint_steps(saved) == [2, 3]
    assert_same(restored(saved), state_at(3))
    assert (saved / "3.damaged").is_dir()


def test_folders_that_are_not_checkpoints_are_kept(saved):
    (saved / "backup" / "1").mkdir(parents=True)
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state_at(4), {})
    assert (saved / "backup" / "1").is_dir()


def test_if_all_checkpoints_are_damaged_restoring_is_refused(saved):
    for step in (1, 2, 3):
        damage(saved / str(step) / "config" / "metadata", "flipped")
    with pytest.raises(UserError, match="All checkpoints .* are damaged"):
        restored(saved)


def test_a_missing_step_is_refused_and_the_existing_ones_are_listed(saved):
    with pytest.raises(UserError, match="keeps no checkpoint of step 7; it keeps 1, 2, 3"):
        restored(saved, step=7)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        # As TensorStore reports it.
        ValueError(f"RESOURCE_EXHAUSTED: Error writing local file [os_error_code='{errno.ENOSPC}']"),
    ],
)
def test_a_full_disk_gives_one_line_and_earlier_checkpoints_remain(saved, monkeypatch, error):
    def full(path):
        raise error

    monkeypatch.setattr("ddpm_jax.training.sealed_trees.seal", full)
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state_at(4), {})
        with pytest.raises(UserError, match=r"could not be written .*(left on device|too large)\)") as caught:
            checkpoints.wait()
    text = str(caught.value)
    assert "\n" not in text and "; free some space" in text and ("ulimit -f" in text) == ("too large" in text)
    assert_same(restored(saved), state_at(3))


def test_the_seal_has_the_format_of_sha256sum(saved):
    lines = (saved / "3" / SEAL).read_text().splitlines()
    assert all(len(line.split("  ")[0]) == 64 for line in lines)
    assert any(line.endswith("config/metadata") for line in lines)


def test_restoring_parameters_verifies_only_their_item(saved):
    damage(next((saved / "3" / "training").rglob("d/*")), "flipped")
    damage(next((saved / "2" / "ema").rglob("d/*")), "flipped")
    with Checkpoints(saved) as checkpoints:
        for ema in (True, False):
            params, step = checkpoints.restore_params(state_at(0).params, ema=ema)
            assert step == 3
            assert_same(params, state_at(3).ema if ema else state_at(3).params)
        with pytest.raises(UserError, match="step 2 is damaged"):
            checkpoints.restore_params(state_at(0).params, ema=True, step=2)
        assert_same(checkpoints.restore_params(state_at(0).params, ema=False, step=2)[0], state_at(2).params)
        assert_same(checkpoints.restore(state_at(0)), state_at(1))


def test_all_processes_restore_the_step_chosen_by_the_first(saved, monkeypatch):
    answers = []
    monkeypatch.setattr(checkpoint, "agreed_by_all", lambda own: answers.append(own) or 2)
    assert_same(restored(saved), state_at(2))
    assert answers == [3]
    monkeypatch.setattr(checkpoint, "agreed_by_all", lambda own: checkpoint.REFUSED)
    with pytest.raises(UserError, match="has no checkpoint that can be read; see the message of the first process"):
        restored(saved)


def test_only_the_first_process_verifies_checksums(saved, monkeypatch):
    sent = []
    monkeypatch.setattr(checkpoint, "verify", lambda *_: pytest.fail("read on another process"))
    monkeypatch.setattr(checkpoint, "agreed_by_all", lambda own: sent.append(own) or 1)
    with Checkpoints(saved) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(jax, "process_index", lambda: 1)
        assert checkpoints._agreed_step(None, None) == 1
    assert sent == [checkpoint.ABSENT]


def test_metrics_are_restored_exactly_and_are_empty_if_none_were_saved(saved):
    metrics = {"loss": [0.1 + 0.2, 7], "gradient_norm": [float(np.float32(1 / 3)), 2]}
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state_at(4), {}, metrics)
        checkpoints.wait()
        assert checkpoints.restore_metrics(4) == metrics
        assert checkpoints.restore_metrics(3) == {}
        shutil.rmtree(saved / "2" / "metrics")  # As earlier versions saved it.
        assert checkpoints.restore_metrics(2) == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_the_seal_is_written_leaves_nothing_in_the_way(folder, saved, when):
    """The kill hits the newest checkpoint, whose seal is missing or only partly there under its hidden name."""
    (folder / "3" / SEAL).rename(folder / "3" / f".{SEAL}.partial")
    if when == "before":
        (folder / "3" / f".{SEAL}.partial").write_text("")
    with Checkpoints(folder) as checkpoints:
        assert int(checkpoints.restore(state_at(0)).step) == 2
        checkpoints.save(state_at(3), {})
        checkpoints.wait()
        assert_same(checkpoints.restore(state_at(0)), state_at(3))
