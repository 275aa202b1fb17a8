"""Workdirs and caches at an address: nothing is lost on the way, and what is there is complete. Files stand in for a
store, whose library differs only in how bytes travel.
"""

import logging
import time
from contextlib import ExitStack

import fsspec.core
import numpy as np
import pytest

from ddpm_jax import locks, mirror
from ddpm_jax.data.cache import cached, open_cache
from ddpm_jax.errors import UserError
from ddpm_jax.mirror import Mirror, copy_of
from ddpm_jax.workdir import at_hand


def put(folder, **files: str) -> None:
    """Files by name, with __ for a slash and _ for a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(folder) -> dict[str, str]:
    """What lies in a folder, but for what is of a machine alone."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".mirror"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


@pytest.fixture
def there(tmp_path):
    return tmp_path / "store" / "run"


@pytest.fixture
def on(there, tmp_path):
    """The mirror of the address on a machine, as a job that begins finds it."""

    def begin(machine: str, **options) -> Mirror:
        return Mirror(f"file://{there}", tmp_path / machine, seal="SEAL", **{"mine": ("steps",), **options})

    return begin


def test_what_one_machine_brings_there_another_fetches(on, there):
    a = on("a")
    put(a.folder, config_json="{}", steps__1__SEAL="sums", steps__1__params__data="1")
    a.push()
    assert tree(there) == tree(a.folder)
    b = on("b")
    b.fetch()
    assert tree(b.folder) == tree(a.folder)


def test_only_what_changed_travels(on, monkeypatch):
    a = on("a")
    put(a.folder, one="1", two="2")
    a.push()
    put(a.folder, two="other")
    again, sent, fetched = on("a"), [], []
    for name, names in ("put_file", sent), ("get_file", fetched):
        does = getattr(again._store, name)
        monkeypatch.setattr(
            again._store, name, lambda *paths, does=does, names=names: [names.append(paths), does(*paths)]
        )
    again.fetch()
    again.push()
    again.push()
    assert [path.rpartition("/")[2] for path, _ in sent] == ["two"] and fetched == []


def test_what_vouches_for_files_comes_last_and_goes_first(on, there, monkeypatch):
    a, seen = on("a"), []

    def looking(does):
        def look(*paths):
            does(*paths)
            seen.append(set(tree(there)))

        return look

    names = {"steps__1__SEAL": "s", "steps__1__a": "1", "steps__1__z": "2"}
    put(a.folder, **names)
    for name in ("put_file", "rm_file"):
        monkeypatch.setattr(a._store, name, looking(getattr(a._store, name)))
    a.push()
    for path in (a.folder / "steps" / "1").iterdir():
        path.unlink()
    a.push()
    assert len(seen) == 6 and seen[-1] == set()
    assert all(len(files) == 3 for files in seen if "steps/1/SEAL" in files)


def test_what_is_not_ready_stays_here_and_what_is_being_built_until_the_end(on, there):
    a = on("a", ready=lambda name: "steps/2/" not in name)
    put(a.folder, steps__2__a="half", one="1", x_lock="me")
    (a.folder / ".building").mkdir()
    (a.folder / ".building" / "pixels").write_text("few")
    a.push()
    assert set(tree(there)) == {"one"}
    a.push(all_of_it=True)
    assert set(tree(there)) == {"one", ".building/pixels"}


def test_what_was_not_brought_there_yet_goes_on_where_nobody_else_was(on, there):
    a = on("a")
    put(a.folder, steps__1__SEAL="1", log="begun")
    a.push()
    put(a.folder, steps__2__SEAL="2", log="begun and more")  # And killed.
    again = on("a")
    again.fetch()
    again.push()
    assert tree(there) == {"steps/1/SEAL": "1", "steps/2/SEAL": "2", "log": "begun and more"}


def test_where_two_machines_went_apart_the_address_counts(on, there):
    a, b = on("a"), on("b")
    put(a.folder, steps__1__SEAL="1", log="begun")
    a.push()
    put(a.folder, steps__2__SEAL="of a, never seen")
    b.fetch()
    put(b.folder, steps__3__SEAL="3", log="gone on")
    (b.folder / "steps" / "1" / "SEAL").unlink()
    b.push()
    assert tree(there) == {"steps/3/SEAL": "3", "log": "gone on"}
    again = on("a")
    again.fetch()
    assert tree(again.folder) == tree(there)
    again.push()
    assert tree(again.folder) == tree(there)


def test_a_job_deletes_only_what_is_its_own(on, there):
    a, drawing = on("a"), on("b", mine=("samples",))
    put(a.folder, steps__1__SEAL="1", config="c")
    a.push()
    drawing.fetch()
    put(drawing.folder, samples__x="drawn")
    (drawing.folder / "config").unlink()
    (drawing.folder / "steps" / "1" / "SEAL").unlink()
    drawing.push()
    assert tree(there) == {"steps/1/SEAL": "1", "config": "c", "samples/x": "drawn"}
    (a.folder / "steps" / "1" / "SEAL").unlink()
    a.push()
    drawing.fetch()
    assert tree(drawing.folder) == {"config": "c", "samples/x": "drawn"} == tree(there)


class Down(Exception):
    """What a store's own library raises."""


@pytest.fixture
def failing(monkeypatch):
    """Lets the next few calls of a mirror's store fail."""

    def fail(of: Mirror, name: str, times: int) -> list[int]:
        does, left = getattr(of._store, name), [times]

        def call(*args, **options):
            left[0] -= 1
            if left[0] >= 0:
                raise Down("503:\nbackend error")
            return does(*args, **options)

        monkeypatch.setattr(of._store, name, call)
        return left

    monkeypatch.setattr(mirror, "EVERY", 0.02)
    monkeypatch.setattr(mirror, "PAUSE", 0.02)
    return fail


def test_a_store_that_is_down_for_a_while_is_tried_again(on, there, failing, package_log):
    a = on("a")
    left = failing(a, "put_file", 3)
    with a.kept_up():
        put(a.folder, one="1")
        while left[0] >= 0:
            time.sleep(0.01)
    assert tree(there) == {"one": "1"}
    assert package_log.text.count("cannot be written (503: backend error); trying again") == 1


def test_a_file_that_arrives_cut_off_is_noticed(on, monkeypatch):
    a = on("a")
    put(a.folder, one="123")
    monkeypatch.setattr(a._store, "put_file", lambda here, there: a._store.pipe_file(there, b"12"))
    with pytest.raises(OSError, match="of 3 bytes 2 arrived"):
        a.push()


def test_a_store_that_stays_down_is_told_with_where_the_work_lies(on, failing, package_log):
    a = on("a")
    failing(a, "put_file", 1000)
    with pytest.raises(OSError, match="503: backend error"), a.kept_up():
        put(a.folder, one="1")
    assert f"lies in {a.folder}" in package_log.text and tree(a.folder) == {"one": "1"}


def test_a_store_that_cannot_be_used_at_all_is_told_at_once(on, monkeypatch):
    def refuse(*args, **options):
        raise Down("403: you may not")

    a = on("a")
    monkeypatch.setattr(type(a._store), "find", refuse)
    with pytest.raises(UserError, match=r"cannot be opened \(403: you may not\)"):
        on("b")


def test_a_checkpoint_that_goes_while_it_is_fetched_is_passed_over(on, there, monkeypatch):
    a = on("a")
    put(a.folder, steps__1__SEAL="1", steps__2__SEAL="2")
    a.push()
    b = on("b")
    fetch = b._store.get_file

    def retiring(path, target):
        if (there / "steps" / "1" / "SEAL").exists():
            (there / "steps" / "1" / "SEAL").unlink()
        return fetch(path, target)

    monkeypatch.setattr(b._store, "get_file", retiring)
    b.fetch()
    assert tree(b.folder) == {"steps/2/SEAL": "2"}


def test_no_name_there_leads_out_of_the_copy(on, there, tmp_path, monkeypatch):
    a = on("a")
    put(there, good="1")
    found = a._store.find(a._root, detail=True)
    info = next(iter(found.values()))
    monkeypatch.setattr(a._store, "find", lambda *_, **__: found | {f"{a._root}/../../evil": info, "/evil": info})
    a.fetch()
    assert tree(a.folder) == {"good": "1"} and not list(tmp_path.rglob("evil"))


def test_a_damaged_memory_of_what_is_where_costs_only_the_way(on, there):
    a = on("a")
    put(a.folder, one="1")
    a.push()
    (a.folder / mirror.KNOWN).write_text("[1")
    again = on("a")
    again.fetch()
    assert tree(again.folder) == {"one": "1"}


BAD = {
    "no folder": ("gs://", "is no address of a folder"),
    "a way out": ("file:///tmp/../etc", "is no address of a folder"),
    "empty parts": ("gs://bucket//x", "is no address of a folder"),
    "a chain": ("simplecache::gs://bucket/x", "is no address of a folder"),
}


@pytest.mark.parametrize(("address", "message"), BAD.values(), ids=BAD)
def test_addresses_that_are_none(address, message, tmp_path):
    with pytest.raises(UserError, match=message):
        copy_of(address, tmp_path)


def test_the_package_of_a_store_is_named_where_it_is_missing(tmp_path, monkeypatch):
    def missing(*args, **options):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"pip install -r requirements-cloud.txt \(Please install gcsfs"):
        Mirror("gs://x/y", tmp_path, seal="SEAL")


def test_stores_that_are_not_known(tmp_path):
    with pytest.raises(UserError, match="Protocol not known: nowhere"):
        Mirror("nowhere://x/y", tmp_path, seal="SEAL")


@pytest.fixture
def quick_locks(monkeypatch):
    for name, seconds in {"BEAT": 0.05, "STILL": 0.5, "SETTLED": 0.1}.items():
        monkeypatch.setattr(locks, name, seconds)


class Busy(Exception):
    """Another job holds the lock."""


def busy() -> None:
    raise Busy


def test_one_job_at_a_time_holds_an_address(on, there, quick_locks):
    with on("a").leased("lock", busy, "a"):
        with pytest.raises(Busy), on("b").leased("lock", busy, "b"):
            pass
        assert (there / "lock").exists()
    assert not (there / "lock").exists()
    with on("b").leased("lock", busy, "b"):
        pass


def test_what_a_killed_job_signed_is_waited_for_elsewhere_but_not_on_its_own_machine(
    on, there, quick_locks, monkeypatch
):
    with ExitStack() as killed:
        killed.enter_context(on("a").leased("lock", busy, "a"))
        signed = (there / "lock").read_text()
    for beside, least in ("b", 0.5), ("a", 0.0):
        (there / "lock").write_text(signed)
        began = time.monotonic()
        with on(beside).leased("lock", busy, beside):
            assert least <= time.monotonic() - began < least + 0.5


def test_a_cache_at_an_address_spares_another_machine_the_decoding(tmp_path, monkeypatch):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)

    def use(machine: str, decode):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        return cached(open_cache(f"file://{tmp_path}/store/cache"), "key", (2, 2, 3), decode)

    first, _ = use("a", lambda: enumerate(images))
    second, numbers = use("b", lambda: pytest.fail("decoded again"))
    np.testing.assert_array_equal(first, images)
    np.testing.assert_array_equal(second, images)
    assert numbers.tolist() == [0, 1]


def test_the_log_speaks_of_the_address(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/store/runs/x"
    put(tmp_path / "store" / "runs" / "x", config_json="{}")
    from ddpm_jax.reporting.console import Lines

    with at_hand(address, "load") as folder:
        assert (folder / "config.json").read_text() == "{}"
        line = Lines().format(logging.makeLogRecord({"msg": f"{folder}/y, {folder.parent}"}))
    assert line == f"{address}/y, file://{tmp_path}/store/runs"
