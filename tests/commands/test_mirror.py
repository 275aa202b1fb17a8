"""Workdirs and caches at an address: nothing is lost on the way, and what is there is complete.

Files stand in for a store, whose library differs in how bytes travel.
"""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec.core
import numpy as np
import pytest

from ddpm_jax.commands import lease as lease_module
from ddpm_jax.commands import mirror
from ddpm_jax.commands.lease import RemoteLockRecord, lease
from ddpm_jax.commands.mirror import ALL, Mirror, local_copy
from ddpm_jax.config import Config, to_json
from ddpm_jax.data.cache import cached, open_cache, remembered
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.log import Lines
from ddpm_jax.runtime.store import Store
from ddpm_jax.training.checkpoint import seal

KEEP = Config().checkpoint.keep


def put(folder, **files: str) -> None:
    """Files by name, with __ for a slash and _ for a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(folder) -> dict[str, str]:
    """What lies in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def checkpoint(folder, step: int, text: str = "numbers") -> None:
    """A sealed checkpoint."""
    put(folder, **{f"checkpoints__{step}__params__data": text, f"checkpoints__{step}__config": "{}"})
    seal(folder / "checkpoints" / str(step))


def steps(folder) -> list[int]:
    """Of the sealed checkpoints."""
    return sorted(int(path.parent.name) for path in folder.glob("checkpoints/*/SHA256SUMS"))


@pytest.fixture
def there(tmp_path):
    return tmp_path / "store" / "run"


@pytest.fixture
def on(there, tmp_path):
    """The mirror of a new job on a machine, which begins with an empty copy."""

    def begin(machine: str, use: str = "train", wanted: int | None = None, holds=lambda: True) -> Mirror:
        folder = tmp_path / machine
        folder.mkdir()
        job = Mirror(Store(f"file://{there}"), folder, holds)
        job.fetch(use, wanted)
        return job

    return begin


def test_what_one_job_brings_there_the_next_fetches(on, there):
    a = on("a")
    put(a.folder, config_json=to_json(Config()), train_log="begun", events="curves")
    checkpoint(a.folder, 1)
    a.push()
    assert tree(there) == tree(a.folder)
    b = on("b")
    assert tree(b.folder) == {name: text for name, text in tree(there).items() if name != "events"}


def test_only_what_changed_travels(on, monkeypatch):
    a, sent = on("a"), []
    put(a.folder, config_json=to_json(Config()), one="1", two="2")
    checkpoint(a.folder, 1)
    a.push()
    does = a._store.put
    monkeypatch.setattr(a._store, "put", lambda names, folder: [sent.extend(names), does(names, folder)])
    put(a.folder, two="other")
    a.push()
    a.push(final=True)
    assert sent == ["two"]


def test_what_vouches_for_files_comes_last_and_goes_first(on, there, monkeypatch):
    a, seen = on("a"), []

    def looking(does):
        def look(*paths, **options):
            done = does(*paths, **options)
            seen.append(set(tree(there)))
            return done

        return look

    for name in ("put_file", "rm_file"):
        monkeypatch.setattr(a._store._files, name, looking(getattr(a._store._files, name)))
    put(a.folder, config_json=to_json(Config()))
    for step in range(KEEP + 2):
        checkpoint(a.folder, step)
        a.push()
    assert len(seen) > 3 * KEEP
    for files in seen:
        for step in range(KEEP + 2):
            own = {name for name in files if name.startswith(f"checkpoints/{step}/")}
            assert f"checkpoints/{step}/SHA256SUMS" not in own or len(own) == 3


def test_the_run_keeps_there_what_it_keeps_whatever_lies_here(on, there):
    a = on("a")
    put(a.folder, config_json=to_json(Config()))
    for step in range(KEEP):
        checkpoint(a.folder, step)
    a.push()
    b = on("b")
    assert steps(b.folder) == [KEEP - 1]  # Only the newest travels.
    checkpoint(b.folder, KEEP)
    put(there, checkpoints__77__params__data="a part of one that never was complete")
    b.push()
    assert steps(there) == list(range(1, KEEP + 1)) and not (there / "checkpoints/77/params").is_file()
    assert "checkpoints/77/params/data" not in tree(there)


def test_a_copy_that_vanishes_takes_nothing_with_it(on, there):
    """Many empty folders of caches."""
    a = on("a")
    put(a.folder, config_json=to_json(Config()), samples__x__grid="drawn")
    checkpoint(a.folder, 1)
    a.push()
    before = tree(there)
    for path in list(a.folder.rglob("*")):
        if path.is_file():
            path.unlink()
    a.push()
    a.push(final=True)
    assert tree(there) == before


def test_a_job_that_lost_its_place_changes_nothing_more(on, there):
    a = on("a", holds=lambda: False)
    put(a.folder, config_json="{}")
    with pytest.raises(OSError, match="another job has taken its place"):
        a.push()
    assert not there.exists()


def test_a_damaged_newest_checkpoint_is_fetched_with_the_one_before(on, there):
    for step in 1, 2, 3:
        checkpoint(there, step)
    put(there, checkpoints__3__params__data="flipped")
    assert steps(on("a").folder) == [2, 3]
    assert steps(on("b", "load", 1).folder) == [1]
    assert steps(on("c", "evaluate", ALL).folder) == [1, 2, 3]
    plan = on("e", "plan").folder
    assert steps(plan) == [1, 2, 3] and len(tree(plan)) == 3  # What tells how far it is, and no more.
    with pytest.raises(UserError, match="keeps no checkpoint of step 9; it keeps 1, 2, 3"):
        on("d", "load", 9)


def test_a_checkpoint_that_is_saved_again_replaces_all_of_the_first(on, there):
    checkpoint(there, 5, "damaged")
    put(there, checkpoints__5__other="of the first", config_json=to_json(Config()))
    a = on("a")
    checkpoint(a.folder, 5, "again")
    (a.folder / "checkpoints/5/other").unlink()
    seal(a.folder / "checkpoints/5")
    a.push()
    assert tree(there) == tree(a.folder)


def test_what_is_half_built_goes_there_at_the_end_and_away_when_it_is_done(on, there):
    put(there, config_json=to_json(Config()), samples__old__grid="drawn before")
    a = on("a", "sample")
    building = a.folder / "samples" / ".new.building"
    building.mkdir(parents=True)
    (building / "pixels").write_text("few")
    put(a.folder, x_lock="me")
    a.push()
    assert "samples/.new.building/pixels" not in tree(there)
    a.push(final=True)  # Stopped by a signal.
    b = on("b", "sample")
    building = b.folder / "samples" / ".new.building"
    assert (building / "pixels").read_text() == "few" and not (b.folder / "samples" / "old").exists()
    building.rename(b.folder / "samples" / "new")
    b.push(final=True)
    assert set(tree(there)) == {"config.json", "samples/old/grid", "samples/new/pixels"}


def test_a_checkpoint_that_is_deleted_here_on_its_way_does_not_count_there(on, there, monkeypatch):
    a = on("a")
    put(a.folder, config_json=to_json(Config()))
    checkpoint(a.folder, 1)
    does = a._store._files.put_file

    def retiring(here, name, **options):
        (a.folder / "checkpoints/1/SHA256SUMS").unlink(missing_ok=True)
        (a.folder / "checkpoints/1/params/data").unlink(missing_ok=True)
        return does(here, name, **options)

    monkeypatch.setattr(a._store._files, "put_file", retiring)
    a.push()
    assert steps(there) == []


def test_a_checkpoint_that_goes_while_it_is_fetched_is_passed_over(there, tmp_path, monkeypatch):
    for step in 1, 2:
        checkpoint(there, step)
    job = Mirror(Store(f"file://{there}"), tmp_path / "b", lambda: True)
    does = job._store._files.get_file

    def retiring(name, target, **options):
        (there / "checkpoints/2/SHA256SUMS").unlink(missing_ok=True)
        (there / "checkpoints/2/params/data").unlink(missing_ok=True)
        return does(name, target, **options)

    monkeypatch.setattr(job._store._files, "get_file", retiring)
    job.fetch("train")
    assert steps(tmp_path / "b") == [1]


class Down(Exception):
    """What a store's own library raises."""


@pytest.fixture
def failing(monkeypatch):
    """Lets the next few calls of a mirror's store fail."""

    def fail(of: Mirror, times: int, words: str = "503:\nbackend error") -> list[int]:
        does, left = of._store._files.put, [times]

        def call(*args, **options):
            left[0] -= 1
            if left[0] >= 0:
                raise Down(words)
            return does(*args, **options)

        monkeypatch.setattr(of._store._files, "put", call)
        return left

    monkeypatch.setattr(mirror, "EVERY", 0.02)
    monkeypatch.setattr(mirror, "PAUSE", 0.02)
    return fail


def test_a_store_that_is_down_for_a_while_is_tried_again(on, there, failing, package_log):
    a = on("a")
    left = failing(a, 3)
    with a.syncing():
        put(a.folder, one="1")
        while left[0] >= 0:
            time.sleep(0.01)
    assert tree(there) == {"one": "1"}
    assert package_log.text.count("cannot be written (503: backend error); trying again") == 1


def test_a_store_that_stays_down_is_told_with_where_the_work_lies(on, failing):
    a = on("a")
    failing(a, 1000)
    with pytest.raises(OSError, match=f"backend error; what is not there yet lies in {a.folder}"), a.syncing():
        put(a.folder, one="1")
    assert tree(a.folder)["one"] == "1"


def test_a_last_push_that_fails_does_not_hide_what_went_wrong_before(on, failing, package_log):
    a = on("a")
    failing(a, 1000)
    with pytest.raises(ZeroDivisionError), a.syncing():
        put(a.folder, one="1")
        raise ZeroDivisionError
    assert "what is not there yet lies in" in package_log.text


def test_who_may_not_write_is_told_so(on, failing):
    a = on("a")
    failing(a, 1, "Forbidden: storage.objects.create")
    put(a.folder, one="1")
    with pytest.raises(UserError, match="see that you may read and write there"):
        a.push()


def test_a_full_disk_of_this_machine_stays_one(there, tmp_path, monkeypatch):
    put(there, one="1")
    store = Store(f"file://{there}")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/here")

    monkeypatch.setattr(store._files, "get", full)
    with pytest.raises(OSError) as caught:
        store.get(["one"], tmp_path / "copy")
    assert caught.value.errno == errno.ENOSPC


def test_a_checkpoint_that_arrives_cut_off_does_not_count(on, there, monkeypatch):
    a = on("a")
    put(a.folder, config_json=to_json(Config()))
    checkpoint(a.folder, 1)
    monkeypatch.setattr(a._store._files, "put_file", lambda _, name, **__: a._store._files.pipe_file(name, b"cut"))
    with pytest.raises(OSError, match="arrived with 3 bytes"):
        a.push()
    assert steps(there) == []


def test_a_store_that_cannot_be_used_at_all_is_told_at_once(there, monkeypatch):
    def refuse(*_, **__):
        raise Down("the name does not resolve")

    monkeypatch.setattr(type(Store(f"file://{there}")._files), "find", refuse)
    with pytest.raises(UserError, match=r"cannot be opened \(the name does not resolve\)"):
        Store(f"file://{there}")


def test_names_there_that_are_none_of_files_are_passed_over(there, tmp_path, monkeypatch):
    """Markers of folders, and names that would lead out of the copy."""
    put(there, good="1")
    store = Store(f"file://{there}")
    (info,) = store._files.find(store._root, detail=True).values()
    odd = ["", "checkpoints/", "a//b", "../../evil", "a/../../evil", "/evil", "./x"]
    found = {f"{store._root}/{name}": info for name in ["good", *odd]}
    monkeypatch.setattr(store._files, "find", lambda *_, **__: found)
    assert store.sizes() == {"good": 1}


BAD = {
    "no folder": ("gs://", "is no address of a folder"),
    "a way out": ("file:///tmp/../etc", "is no address of a folder"),
    "empty parts": ("gs://bucket//x", "is no address of a folder"),
    "one slash": ("gs:/bucket/x", "did you mean gs://bucket/x"),
    "what ends with the job": ("memory://x", "outlives no job"),
    "a folder without its third slash": ("file://x", "outlives no job"),
    "a chain": ("simplecache::gs://bucket/x", "is no address of a folder"),
    "an unknown store": ("nowhere://x/y", "Protocol not known: nowhere"),
}


@pytest.mark.parametrize(("address", "message"), BAD.values(), ids=BAD)
def test_addresses_that_are_none(address, message):
    with pytest.raises(UserError, match=message), local_copy(address, "plan"):
        pass


def test_the_package_of_a_store_is_named_where_it_is_missing(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"pip install -r requirements-cloud.txt \(Please install gcsfs"):
        Store("gs://x/y")


@pytest.fixture
def quick_locks(monkeypatch):
    for name, seconds in {"HEARTBEAT_S": 0.05, "STALE_AFTER_S": 0.5, "SETTLE_S": 0.1}.items():
        monkeypatch.setattr(lease_module, name, seconds)


class Busy(Exception):
    """Another job holds the lock."""


def busy() -> None:
    raise Busy


def test_one_job_at_a_time_holds_an_address(there, quick_locks):
    record = RemoteLockRecord(Store(f"file://{there}"), "lock")
    with lease(record, busy) as holds:
        assert holds()
        locks_of_another = {**json.loads((there / "lock").read_text()), "process": "4026531836 1"}
        assert not lease_module._has_ended(json.loads((there / "lock").read_text()))
        assert lease_module._has_ended(
            {**locks_of_another, "process": lease_module._process(os.getpid()).split()[0] + " 1"}
        )
        with pytest.raises(Busy), lease(record, busy):
            pass
    assert not (there / "lock").exists()
    with lease(record, busy):
        pass


def test_what_a_killed_job_signed_is_waited_for_elsewhere_but_not_on_its_own_machine(there, quick_locks, monkeypatch):
    program = f"""
import os, signal
from ddpm_jax.commands import lease
from ddpm_jax.runtime.store import Store
lease.SETTLE_S = 0.0
with lease.lease(lease.RemoteLockRecord(Store("file://{there}"), "lock"), print):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    record, asked = RemoteLockRecord(Store(f"file://{there}"), "lock"), []
    does = lease_module._lives
    monkeypatch.setattr(lease_module, "_lives", lambda *args: [asked.append(args), does(*args)][1])
    signed = (there / "lock").read_text()
    with lease(record, busy):
        assert asked == []
    put(there, lock=json.dumps({**json.loads(signed), "machine": "another"}))
    with lease(record, busy):
        assert len(asked) == 1


def test_a_job_whose_place_another_took_goes_on_but_writes_nothing_there(there, tmp_path, quick_locks, package_log):
    record = RemoteLockRecord(Store(f"file://{there}"), "lock")
    put(tmp_path / "copy", a_json="{}")
    with lease(record, busy) as holds:
        copy = Mirror(Store(f"file://{there}"), tmp_path / "copy", holds)
        record.write({"host": "another", "machine": "another", "token": "theirs"})
        while "is of another job now, on another" not in package_log.text:
            time.sleep(0.01)
        with pytest.raises(OSError, match="another job has taken its place"):
            copy.push()
    assert list(tree(there)) == ["lock"] and record.read()["token"] == "theirs"


def test_a_job_that_is_stopped_while_it_waits_leaves_nothing(there, quick_locks, monkeypatch):
    def stopped(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(lease_module.time, "sleep", stopped)
    with pytest.raises(KeyboardInterrupt), lease(RemoteLockRecord(Store(f"file://{there}"), "lock"), busy):
        pass
    assert not (there / "lock").exists()


def test_a_cache_at_an_address_spares_another_machine_the_work(tmp_path, monkeypatch):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)

    def use(machine: str, decode, compute):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        cache = open_cache(f"file://{tmp_path}/store/cache")
        return cached(cache, "key", (2, 2, 3), decode), remembered(cache, "table", compute)

    use("a", lambda: enumerate(images), lambda: {"x": np.arange(3)})
    (found, numbers, _), table = use("b", *[lambda: pytest.fail("done again")] * 2)
    np.testing.assert_array_equal(found, images)
    assert numbers.tolist() == [0, 1] and table["x"].tolist() == [0, 1, 2]
    monkeypatch.setattr("ddpm_jax.data.cache._checksum", lambda entry: pytest.fail("summed again"))
    use("b", *[lambda: pytest.fail("done again")] * 2)


def test_jobs_of_one_machine_may_use_a_cache_at_an_address_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def use(_: int) -> None:
        for key in range(5):
            cache = open_cache(f"file://{tmp_path}/store")
            assert remembered(cache, f"k{key}", lambda: {"x": np.ones(1)})["x"] == 1

    with ThreadPoolExecutor(4) as jobs:
        assert list(jobs.map(use, range(4))) == [None] * 4  # Raises what went wrong in any of them.


@pytest.fixture
def address(there, tmp_path, monkeypatch, quick_locks):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put(there, config_json=to_json(Config()))
    return f"file://{there}"


def test_the_log_speaks_of_the_address(address, there):
    with local_copy(address, "load") as folder:
        assert (folder / "config.json").is_file()
        line = Lines().format(logging.makeLogRecord({"msg": f"{folder}/y, {folder.parent}"}))
    assert line == f"{address}/y, file://{there.parent}"


def test_copies_go_with_their_jobs_and_those_of_killed_ones_with_the_next(address, tmp_path, monkeypatch):
    copies = tmp_path / "cache/ddpm_jax/copies"
    put(copies / "killed", x="left")
    monkeypatch.setattr(mirror, "YOUNG", 0.0)
    with local_copy(address, "train") as one, local_copy(address, "sample") as other:
        assert one != other and len(list(copies.iterdir())) == 2
        with pytest.raises(UserError, match=r"Another job \(train\) is at work in"), local_copy(address, "train"):
            pass
        put(one, note="made")
    assert list(copies.iterdir()) == []
    assert (tmp_path / "store/run/note").read_text() == "made"


def test_work_that_cannot_be_brought_there_is_kept(address, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PAUSE", 0.0)
    monkeypatch.setattr(Mirror, "push", lambda self, **_: (_ for _ in ()).throw(OSError(errno.EIO, "down", address)))
    with pytest.raises(OSError, match="lies in"), local_copy(address, "train") as folder:
        put(folder, note="made")
    with local_copy(address, "load"):
        assert (folder / "note").read_text() == "made"
