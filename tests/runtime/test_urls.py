"""Folders at URLs: files appear there whole, what grows is uploaded, and errors of stores are one line."""

import errno
import hashlib
import json
import threading
import time

import numpy as np
import pytest
from gcsfs.retry import validate_response

from ddpm_jax.commands import cli
from ddpm_jax.data.cache import cached, open_cache, remembered
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import urls
from ddpm_jax.runtime.files import md5_sums, staged
from ddpm_jax.runtime.locks import newest_job
from ddpm_jax.runtime.urls import (
    as_path,
    as_store_error,
    as_url,
    check_folder,
    files_below,
    local_file,
    local_folder,
    names_in,
    remove_tree,
    store_errors,
)


def contents(folder) -> dict[str, str]:
    """The text of each file below a URL, by name."""
    return {name: (folder / name).read_text() for name in files_below(folder)}


def test_a_staged_file_is_uploaded_when_the_block_succeeds(bucket):
    for text in ("one", "another"):
        with staged(bucket / "a.json") as partial:
            partial.write_text(text)
        assert contents(bucket) == {"a.json": text}
    with pytest.raises(ZeroDivisionError), staged(bucket / "a.json") as partial:
        partial.write_text("never")
        raise ZeroDivisionError
    assert contents(bucket) == {"a.json": "another"}


def test_a_staged_folder_replaces_the_older_one(bucket):
    for names in (("a/x", "b"), ("b", "c")):
        with staged(bucket / "folder", folder=True) as partial:
            for name in names:
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_text(name)
        assert contents(bucket / "folder") == {name: name for name in names}
    assert names_in(bucket / "folder") == ["b", "c"] and names_in(bucket / "nowhere") == []
    remove_tree(bucket / "folder")
    remove_tree(bucket / "folder")
    assert contents(bucket) == {}


def test_a_local_folder_is_the_target_itself_on_this_machine(tmp_path):
    with local_folder(tmp_path, "*") as folder:
        assert folder.path == tmp_path


def test_files_that_grow_are_uploaded_meanwhile_and_at_the_end(bucket):
    (bucket / "train.log").write_text("before\n")
    (bucket / "other").write_text("kept")
    with pytest.raises(ZeroDivisionError), local_folder(bucket, "train.log", every=0.02) as folder:
        assert folder.path.name == bucket.name
        with (folder.path / "train.log").open("a") as log:
            log.write("during\n")
        while contents(bucket)["train.log"] != "before\nduring\n":
            time.sleep(0.01)
        (folder.path / "plugins").mkdir()
        (folder.path / "plugins" / "trace").write_text("at the end")
        raise ZeroDivisionError  # However the block ends.
    assert contents(bucket) == {"train.log": "before\nduring\n", "other": "kept", "plugins/trace": "at the end"}
    assert not folder.path.parent.exists()


def test_what_is_removed_from_a_local_folder_is_deleted_there(bucket):
    with local_folder(bucket, every=9.0) as folder:
        (folder.path / "pixels").write_text("half of them")
    assert contents(bucket) == {"pixels": "half of them"}
    with local_folder(bucket, "*", every=9.0) as folder:
        assert (folder.path / "pixels").read_text() == "half of them"
        (folder.path / "pixels").unlink()
    assert contents(bucket) == {}


@pytest.fixture
def failing(monkeypatch):
    """A function that lets the next uploads fail."""
    left, upload = [0], urls.upload

    def fail(names, folder, target):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EIO, "Cannot connect to host")
        upload(names, folder, target)

    monkeypatch.setattr(urls, "upload", fail)
    return lambda times: left.__setitem__(0, times)


def test_uploads_that_fail_for_a_while_are_tried_again(bucket, failing, package_log):
    failing(3)
    with local_folder(bucket, every=0.01) as folder:
        (folder.path / "log").write_text("x")
        while "can be written again" not in package_log.text:
            time.sleep(0.01)
    assert contents(bucket) == {"log": "x"}
    assert package_log.text.count("cannot be written (Cannot connect to host); trying again") == 1


def test_what_cannot_be_uploaded_at_the_end_stays_on_this_machine(bucket, failing, package_log):
    failing(1)
    lost = pytest.raises(OSError, match="Cannot connect to host; files that were not uploaded are in ")
    with lost as caught, local_folder(bucket, every=9.0) as folder:
        (folder.path / "log").write_text("x")
    assert (folder.path / "log").read_text() == "x" and caught.value.filename == str(bucket)
    failing(1)
    with pytest.raises(ZeroDivisionError), local_folder(bucket, every=9.0):
        raise ZeroDivisionError  # An error of the work matters more.
    assert "files that were not uploaded are in" in package_log.text


def test_the_store_knows_the_md5_of_each_file(bucket):
    (bucket / "a" / "x").parent.mkdir(parents=True, exist_ok=True)
    (bucket / "a" / "x").write_bytes(b"one")
    assert md5_sums(bucket) == {"a/x": hashlib.md5(b"one").hexdigest()}


BAD = {
    "no bucket": ("gs://", "names no folder in a bucket"),
    "a bucket alone": ("gs://bucket", "names no folder in a bucket"),
    "an empty name": ("gs://bucket//x", "names no folder in a bucket"),
    "a way out": ("gs://bucket/../x", "names no folder in a bucket"),
    "one slash": ("gs:/bucket/x", "did you mean gs://bucket/x"),
    "an unknown scheme": ("nowhere://x/y", "unknown scheme; expected a folder, or a URL that begins with gs://, s3://"),
    "a bucket that does not exist": ("gs://missing/x", "gs://missing/x: there is no bucket missing; create it"),
    "a bucket without permission": ("gs://private/x", "Forbidden: .*; see that you are logged in and may read"),
    "a bucket that wants credentials": ("gs://anonymous/x", "Anonymous caller .*; see that you are logged in"),
}


@pytest.mark.parametrize(("url", "message"), BAD.values(), ids=BAD)
def test_urls_that_cannot_be_used(url, message, emulator):
    with pytest.raises(UserError, match=message):
        check_folder(as_path(url, "--workdir"))


def test_a_url_of_a_file_is_no_folder(bucket):
    (bucket / "config.json").write_text("{}")
    with pytest.raises(UserError, match="config.json is a file; give a folder"):
        check_folder(bucket / "config.json")
    check_folder(bucket)


def test_files_that_must_be_on_this_machine_are_refused_at_a_url():
    with pytest.raises(UserError, match="sample.mask=gs://b/mask.png is a URL; copy it to this machine"):
        local_file("gs://b/mask.png", "sample.mask")


@pytest.mark.parametrize("mode", ["train", "sample", "plan"])
@pytest.mark.parametrize("url", ["gs://missing/x", "gs://private/x"])
def test_a_command_with_such_a_workdir_ends_with_one_line(mode, url, emulator, capfd):
    assert cli.main(["main.py", f"--mode={mode}", "--config=configs/digits.py:smoke", f"--workdir={url}"]) == 2
    printed = capfd.readouterr().err.splitlines()
    assert len([line for line in printed if url in line]) == 1 and not any("Traceback" in line for line in printed)


@pytest.mark.parametrize(("url", "remedy"), [("gs://x/y", "gcsfs"), ("s3://x/y", "s3fs"), ("az://x/y", "adlfs")])
def test_the_missing_package_of_a_store_is_named(url, remedy, monkeypatch):
    def missing(url):
        raise ImportError("Please install it")

    monkeypatch.setattr(urls, "url_to_fs", missing)
    with pytest.raises(UserError, match=f"pip install {remedy}"):
        check_folder(as_url(url))


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, UserError), (403, UserError), (400, OSError), (429, OSError), (502, OSError), (503, OSError)],
)
def test_the_answers_of_a_store_are_told_apart(status, expected):
    answer = json.dumps({"error": {"code": status, "message": "No, for checkpoints/403"}}).encode()
    with pytest.raises(expected, match="^gs://b/x: |checkpoints/403|Proxy") as caught, store_errors("gs://b/x"):
        validate_response(status, answer, "b/x")
    assert not isinstance(caught.value, OSError) or (caught.value.errno, caught.value.filename) == (
        errno.EIO,
        "gs://b/x",
    )


def test_errors_of_stores_are_told_from_others():
    assert isinstance(as_store_error(ValueError("UNAVAILABLE: Error writing gs://b/x"), "gs://b/x"), OSError)
    others = (FileNotFoundError("x"), OSError(errno.ENOSPC, "full", "/here"), OSError("cannot identify image"))
    for other in (ValueError("shapes differ"), ValueError("UNAVAILABLE: Error writing /b/x"), *others):
        assert as_store_error(other, "gs://b/x") is None


def test_a_file_that_grows_or_goes_during_an_upload_does_no_harm(bucket, monkeypatch):
    upload = urls.upload

    def meanwhile(names, folder, target):
        with (local.path / "grows").open("a") as file:
            file.write("more")
        upload(names, folder, target)

    with local_folder(bucket) as local:
        (local.path / "grows").write_text("x")
        monkeypatch.setattr(urls, "upload", meanwhile)
        local.upload()
        assert contents(bucket) == {"grows": "x"}
        monkeypatch.setattr(urls.LocalFolder, "_stamps", lambda self: {"grows": (5, 1), "gone": (1, 1)})
        local.upload()
        monkeypatch.undo()
    assert contents(bucket) == {"grows": "xmoremore"}


def test_the_newest_job_at_a_url_goes_on(bucket, package_log):
    record = bucket / ".train.holder.json"
    with newest_job(record) as first:
        first()
        with newest_job(record) as second:
            assert "names a job that did not end there: process" in package_log.text
            second()
            with pytest.raises(UserError, match="another job is at work there now: process .*; this one stops"):
                first()
        with pytest.raises(UserError, match="another job has been at work there since; this one stops"):
            first()
    assert contents(bucket) == {}
    with newest_job(record) as third:
        third()


def test_a_cache_at_a_url_spares_another_machine_the_work(bucket, tmp_path, monkeypatch):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)

    def use(machine: str, decode, compute):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        cache = open_cache(str(bucket))
        return cached(cache, "key", (2, 2, 3), decode), remembered(cache, "table", compute)

    use("a", lambda: enumerate(images), lambda: {"x": np.arange(3)})
    (found, numbers, _), table = use("b", *[lambda: pytest.fail("done again")] * 2)
    np.testing.assert_array_equal(found, images)
    assert numbers.tolist() == [0, 1] and table["x"].tolist() == [0, 1, 2]
    monkeypatch.setattr("ddpm_jax.data.cache._checksum", lambda entry: pytest.fail("summed again"))
    use("b", *[lambda: pytest.fail("done again")] * 2)


def test_jobs_of_one_machine_may_use_a_cache_at_a_url_at_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    failed = []

    def use() -> None:
        try:
            for key in range(3):
                table = remembered(open_cache(str(bucket)), f"k{key}", lambda: {"x": np.ones(1)})
                assert table["x"] == 1
        except BaseException as error:
            failed.append(error)
            raise

    jobs = [threading.Thread(target=use) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert not failed
