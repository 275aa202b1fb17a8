"""Checkpoints at a URL: restored to the bit, verified by one listing, copied to disks and back."""

import tempfile
import threading

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.locks import newest_job
from ddpm_jax.runtime.urls import download, files_below, names_in, upload
from ddpm_jax.training import sealed_trees
from ddpm_jax.training.checkpoint import Checkpoints, checkpoint_steps
from ddpm_jax.training.seals import DamagedCheckpoint, seal_of, verify
from tests.training.test_checkpoint import assert_same, restored, state_at
from tests.training.test_ema_snapshots import LIKE, direct, opened, save_walk


@pytest.fixture
def folder(bucket):
    """The checkpoints of steps 1, 2 and 3."""
    with Checkpoints(bucket) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step), {"seed": 0}, {"loss": [0.5, 7]})
    return bucket


def damage(folder, step: int, item: str):
    """Changes a byte of the largest file of an item."""
    sizes = {name: int(about["size"]) for name, about in files_below(folder / str(step) / item).items()}
    path = folder / str(step) / item / max(sizes, key=sizes.__getitem__)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    return path


def test_a_saved_state_is_restored_bit_for_bit(folder):
    assert_same(restored(folder), state_at(3))
    assert_same(restored(folder, step=1), state_at(1))
    with Checkpoints(folder) as checkpoints:
        params, step = checkpoints.restore_params(state_at(0).params, ema=True)
        assert_same(params, state_at(3).ema)
        assert step == 3 and checkpoints.restore_metrics(3) == {"loss": [0.5, 7]}


def test_old_checkpoints_are_deleted_and_what_was_never_completed(folder):
    for name in files_below(folder / "3"):
        if name != "MD5SUMS":
            (folder / "4" / name).write_bytes((folder / "3" / name).read_bytes())  # Killed before it was sealed.
    assert checkpoint_steps(folder) == [1, 2, 3] and names_in(folder) == ["1", "2", "3", "4"]
    with Checkpoints(folder, keep=2, keep_every=5) as checkpoints:
        for step in (4, 5, 6, 7):
            checkpoints.save(state_at(step), {})
    assert names_in(folder) == ["5", "6", "7"]
    assert_same(restored(folder), state_at(7))


@pytest.mark.parametrize("item", ["params", "training"])
def test_a_changed_byte_is_noticed_and_the_checkpoint_before_is_used(folder, item, package_log):
    changed = damage(folder, 3, item)
    with pytest.raises(DamagedCheckpoint, match=f"{changed.name} has changed"):
        verify(folder / "3")
    verify(folder / "3", "ema")
    assert_same(restored(folder), state_at(2))
    assert "CHECKPOINT 3 IS DAMAGED" in package_log.text
    with Checkpoints(folder) as checkpoints:
        checkpoints.set_aside_after(2)
        checkpoints.save(state_at(3), {})
    assert names_in(folder) == ["1", "2", "3", "3.damaged"]
    assert_same(restored(folder), state_at(3))


def test_a_missing_file_is_noticed(folder):
    (folder / "3" / "ema" / "_METADATA").unlink()
    with pytest.raises(DamagedCheckpoint, match="ema/_METADATA is missing"):
        verify(folder / "3")


def test_a_store_that_cannot_be_reached_is_no_damage(folder, monkeypatch):
    def unreachable(_):
        raise OSError("Cannot connect to host")

    monkeypatch.setattr("ddpm_jax.training.seals.md5_sums", unreachable)
    with pytest.raises(OSError, match="Cannot connect"):
        restored(folder)


def test_a_copied_checkpoint_is_verified_on_disk_and_back_in_the_bucket(folder, tmp_path):
    local, again = tmp_path / "checkpoints", folder.with_name(f"{folder.name}_again")
    download(files_below(folder), folder, local)
    assert_same(restored(local), state_at(3))
    with Checkpoints(local) as checkpoints:
        checkpoints.save(state_at(4), {})
    assert seal_of(local / "3").name == "MD5SUMS" and seal_of(local / "4").name == "SHA256SUMS"
    upload([f"{step}/{name}" for step in "34" for name in files_below_disk(local / step)], local, again)
    assert_same(restored(again), state_at(4))
    damage(again, 4, "params")
    assert_same(restored(again), state_at(3))


def files_below_disk(folder) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def test_files_arrive_whatever_their_last_byte_is(bucket, tmp_path):
    """Uploads in parts are easily read wrongly at line ends."""
    contents = {f"{last}": b"\x00" * 3 + bytes([last]) for last in (0, ord("\n"), ord("\r"), ord("-"))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    upload(contents, tmp_path, bucket)
    assert {name: (bucket / name).read_bytes() for name in contents} == contents


def test_where_orbax_supports_no_store_checkpoints_are_copied(bucket, monkeypatch, tmp_path):
    """As at s3://; here the bucket stands in for it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sealed_trees, "_orbax_supports", lambda path: not str(path).startswith("gs://"))
    with Checkpoints(bucket) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), {}, {"loss": [0.5, 7]})
    assert checkpoint_steps(bucket) == [1, 2] and list(tmp_path.iterdir()) == []
    assert_same(restored(bucket), state_at(2))
    with Checkpoints(bucket) as checkpoints:
        assert checkpoints.restore_metrics(2) == {"loss": [0.5, 7]}


def test_snapshots_of_emas_are_written_and_rebuilt_there(bucket):
    save_walk(bucket, last=8)
    with opened(bucket) as snapshots:
        params, step = snapshots.rebuild(LIKE, 0.1)
        snapshots.delete_after(5)
    np.testing.assert_allclose(params["w"], direct(0.1, step - 2), rtol=1e-5, atol=1e-5)
    assert names_in(bucket) == ["5"]


def test_a_job_that_may_not_write_any_more_saves_nothing(folder):
    def refused() -> None:
        raise UserError("another job goes on")

    with Checkpoints(folder, confirm=refused) as checkpoints, pytest.raises(UserError, match="another job goes on"):
        checkpoints.save(state_at(4), {})
    assert names_in(folder) == ["1", "2", "3"]


def test_a_job_that_slept_since_it_confirmed_deletes_nothing(folder):
    record = folder.with_name(f"{folder.name}.holder.json")
    with newest_job(record) as confirm:

        def confirm_and_sleep() -> None:
            confirm()
            with newest_job(record):
                """A newer job starts, completes checkpoint 3, and ends."""

        stopped = pytest.raises(UserError, match="another job has been at work there since")
        with Checkpoints(folder, confirm=confirm_and_sleep) as checkpoints, stopped:
            checkpoints.save(state_at(3), {})
    assert_same(restored(folder), state_at(3))


def test_an_older_job_neither_completes_its_checkpoint_nor_deletes_that_of_a_newer_one(folder, monkeypatch):
    record = folder.with_name(f"{folder.name}.holder.json")
    sealing, begun = threading.Event(), threading.Event()
    with newest_job(record) as older, newest_job(record) as newer:

        def old_job() -> None:
            sealing.set()
            assert begun.wait(60)
            older()

        # The older job had confirmed when it began to save.
        with Checkpoints(folder, confirm=lambda: None) as a, Checkpoints(folder, confirm=newer) as b:
            a._confirm = lambda: None
            a.save(state_at(4), {})
            a._confirm = old_job
            b.save(state_at(5), {})
            b.wait()
            begun.set()
            with pytest.raises(UserError, match="another job is at work there now"):
                a.wait()
    assert_same(restored(folder), state_at(5))
