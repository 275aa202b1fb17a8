"""Cache entries are complete or absent, damage is detected, and concurrent jobs share one preparation."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data.cache import Cache, cached, key_of
from ddpm_jax.data.fingerprints import PIXELS, fingerprints_of
from ddpm_jax.errors import UserError

IMAGES = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)


def rows(numbers=(0, 2, 5)):
    return iter(zip(numbers, IMAGES, strict=True))


def fill(folder: Path, key: str = "key", decode=rows):
    return cached(Cache(folder), key, (2, 2, 1), decode)[:2]


def not_called():
    raise AssertionError("the cache was not used")


def test_images_are_decoded_once_and_then_read_from_the_cache(tmp_path):
    for decode in (rows, not_called):
        images, numbers = fill(tmp_path, decode=decode)
        np.testing.assert_array_equal(images, IMAGES)
        assert numbers.tolist() == [0, 2, 5] and isinstance(images, np.memmap)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["about.json", "images.u8", "key-v2", "numbers.npy"]


def test_images_of_16_bits_have_a_file_of_their_own_kind(tmp_path):
    for decode in (lambda: ((number, image.astype(np.uint16) * 257) for number, image in rows()), not_called):
        images = cached(Cache(tmp_path), "key", (2, 2, 1), decode, "uint16").images
        assert images.dtype == np.uint16
        np.testing.assert_array_equal(images, IMAGES.astype(np.uint16) * 257)
    assert (tmp_path / "key-v2" / "images.u16").stat().st_size == 2 * IMAGES.nbytes


def test_keys_depend_on_every_string_and_their_order():
    assert key_of(["ab", "c"]) == key_of(["ab", "c"])
    assert len({key_of(parts) for parts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab\udcff", "c"])}) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, UserError])
def test_an_interrupted_preparation_leaves_nothing(tmp_path, error):
    def interrupted():
        yield 0, IMAGES[0]
        raise error("in the middle")

    with pytest.raises(error):
        fill(tmp_path, decode=interrupted)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(fill(tmp_path)[0], IMAGES)


def test_leftovers_of_a_killed_preparation_are_never_used_and_are_removed(tmp_path):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from ddpm_jax.data.cache import Cache, cached
import numpy as np
def decode():
    yield 0, np.zeros((2, 2, 1), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)
from pathlib import Path
cached(Cache(Path({str(tmp_path)!r})), "key", (2, 2, 1), decode)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".key-v2.partial", "key.holder.lock", "key.lock"]
    np.testing.assert_array_equal(fill(tmp_path)[0], IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["key-v2"]


def test_of_two_jobs_one_prepares_and_the_other_waits(tmp_path, package_log):
    started, resume, calls, results = threading.Event(), threading.Event(), [], []

    def decode():
        calls.append(1)
        started.set()
        assert resume.wait(timeout=20)
        yield from rows()

    threads = [threading.Thread(target=lambda: results.append(fill(tmp_path, decode=decode))) for _ in range(2)]
    threads[0].start()
    assert started.wait(timeout=20)
    threads[1].start()
    while "waiting for it" not in package_log.text:
        time.sleep(0.01)
    resume.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(results) == 2
    for images, numbers in results:
        np.testing.assert_array_equal(images, IMAGES)
        assert numbers.tolist() == [0, 2, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["key-v2"]


def test_entries_have_the_permissions_of_the_umask(tmp_path):
    fill(tmp_path)
    allowed = 0o777 & ~os.umask(0o022)
    os.umask(0o777 & ~allowed)
    assert stat.S_IMODE((tmp_path / "key-v2").stat().st_mode) == allowed
    assert all(stat.S_IMODE(path.stat().st_mode) == allowed & 0o666 for path in (tmp_path / "key-v2").iterdir())


def test_an_error_while_decoding_is_not_reported_as_an_error_of_the_cache(tmp_path):
    def decode():
        yield 0, IMAGES[0]
        raise OSError(24, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"):
        fill(tmp_path, decode=decode)


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "deleted":
        file.unlink()
    elif how == "emptied":
        file.write_bytes(b"")
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "a byte changed":
        place = content.rindex(b'"') if file.suffix == ".json" else len(content) - 1
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize("how", ["deleted", "emptied", "truncated", "a byte changed"])
@pytest.mark.parametrize("name", ["images.u8", "numbers.npy", "about.json"])
def test_a_damaged_entry_is_named_and_prepared_again(tmp_path, package_log, name, how):
    fill(tmp_path)
    damage(tmp_path / "key-v2" / name, how)
    images, numbers = fill(tmp_path)
    np.testing.assert_array_equal(images, IMAGES)
    assert numbers.tolist() == [0, 2, 5]
    assert f"The cached images in {tmp_path / 'key-v2'} are damaged and will be prepared again" in package_log.text
    assert [path.name for path in tmp_path.iterdir()] == ["key-v2"]


def test_a_copy_with_another_modification_time_is_used(tmp_path):
    fill(tmp_path)
    os.utime(tmp_path / "key-v2" / "images.u8")
    np.testing.assert_array_equal(fill(tmp_path, decode=not_called)[0], IMAGES)


def test_an_entry_of_another_version_is_prepared_again(tmp_path, package_log):
    fill(tmp_path)
    about = tmp_path / "key-v2" / "about.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"version": 1}))
    np.testing.assert_array_equal(fill(tmp_path)[0], IMAGES)
    assert "written by version 1 of the cache, this is 2" in package_log.text
    shutil.move(tmp_path / "key-v2", tmp_path / "key-v1")
    np.testing.assert_array_equal(fill(tmp_path)[0], IMAGES)
    assert "key-v1 was prepared by another version of the cache; preparing it again" in package_log.text
    assert (tmp_path / "key-v1").is_dir()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"data.cache=.*/file/below cannot be written .*; set data.cache"):
        fill(tmp_path / "file" / "below")


def test_a_limit_on_the_size_of_files_names_it(tmp_path, monkeypatch):
    def limited(path, array):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("ddpm_jax.data.cache.save_array", limited)
    with pytest.raises(UserError, match=r"data.cache=.* \(File too large\); .*ulimit -f"):
        fill(tmp_path)


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="mounting needs root and unshare")
@pytest.mark.parametrize(
    ("options", "words"),
    [("ro,size=1m", "cannot be written (Read-only file system)"), ("size=64k", "cannot be filled (No space left")],
)
def test_read_only_and_full_disks_are_reported_and_leave_nothing(tmp_path, options, words):
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
import numpy as np
from ddpm_jax.data.cache import Cache, cached
from ddpm_jax.errors import UserError
def decode():
    return ((i, np.ones((64, 64, 3), np.uint8)) for i in range(99))
try:
    cached(Cache(Path({str(tmp_path)!r})), "key", (64, 64, 3), decode)
except UserError as error:
    print(error, list(Path({str(tmp_path)!r}).iterdir()))
"""
    mount = f'mount -t tmpfs -o {options} none {tmp_path} && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, sys.executable, program], capture_output=True, text=True, check=False
    )
    if "ermission denied" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("mounting a disk is not permitted here")
    assert words in done.stdout and done.stdout.strip().endswith("[]"), done


def test_an_entry_holds_the_fingerprints_of_its_images_and_those_of_older_versions_are_not_read_again(tmp_path):
    expected = fingerprints_of(PIXELS, IMAGES)
    assert cached(Cache(tmp_path), "key", (2, 2, 1), rows).fingerprints == expected
    about = tmp_path / "key-v2" / "about.json"
    whole = about.read_bytes()
    older = {name: value for name, value in json.loads(whole).items() if name not in ("unordered", "dtype")}
    about.write_text(json.dumps(older))
    before = about.read_bytes()
    assert cached(Cache(tmp_path), "key", (2, 2, 1), not_called).fingerprints == expected._replace(unordered=None)
    assert about.read_bytes() == before
