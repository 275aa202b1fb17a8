"""Images are decoded once, by threads or processes, with the same result; bad files are reported."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ddpm_jax.data import prepare
from ddpm_jax.data.open import open_dataset
from ddpm_jax.data.sources.folder import open_folder
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped, stoppable
from tests.data.pictures import config, data, encoded, pixels_of, write


def test_the_second_run_reads_the_cache(photos, tmp_path, monkeypatch):
    first = open_dataset(config(path=str(photos)))
    monkeypatch.setattr(prepare, "decode", None)
    again = open_dataset(config(path=str(photos)))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert isinstance(again.images, np.memmap) and len(list((tmp_path / "cache").iterdir())) == 1


def test_each_choice_of_pixels_has_its_own_cache_entry(photos, tmp_path):
    variants = [{}, {"crop": [6]}, {"channels": 1}, {"image_size": 4}, {"resize": "box"}, {"background": [0, 0, 0]}]
    variants += [{"channels": 1, "depth": 16}, {"channels": 2}, {"channels": 4}]
    variants += [{"classes": "cats"}, {"first": 3}, {"fraction": 0.5}, {"fraction": 0.5, "fraction_seed": 1}]
    for count, options in enumerate(variants, start=1):
        open_dataset(config(path=str(photos), **options))
        assert len(list((tmp_path / "cache").iterdir())) == count
    open_dataset(config(path=str(photos), flip=True, holdout=0.5, batch_size=2))
    write(photos / "cats" / "01.png", encoded(np.full((20, 20, 3), 9, np.uint8)))
    assert np.all(open_dataset(config(path=str(photos))).images[0] == 9)
    assert len(list((tmp_path / "cache").iterdir())) == len(variants) + 1


@pytest.mark.parametrize("few", [0, 500])
def test_processes_and_threads_decode_the_same_pixels(photos, tmp_path, monkeypatch, few):
    monkeypatch.setattr(prepare, "FEW", few)
    monkeypatch.setattr(prepare, "CHUNK", 5)
    dataset = open_dataset(config(path=str(photos)))
    np.testing.assert_array_equal(dataset.images, pixels_of(open_folder(data(path=str(photos)))))
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6


def test_results_are_in_order_and_at_most_depth_of_them_computed_ahead():
    submitted = []

    def submit(item):
        submitted.append(item)
        return pool.submit(abs, -item)

    with ThreadPoolExecutor(2) as pool:
        for number, result in enumerate(prepare.map_ahead(submit, range(9), 2)):
            assert result == number and len(submitted) == min(number + 3, 9)


def test_a_killed_worker_is_reported_in_one_line(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "FEW", 0)
    monkeypatch.setattr(prepare, "_decode_in_worker", kill_itself)
    with pytest.raises(UserError, match=r"photos: a process that decodes images was killed"):
        open_dataset(config(path=str(photos)))
    assert list((tmp_path / "cache").iterdir()) == []


def kill_itself(numbers):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_the_images_that_are_not_yet_being_decoded(photos, tmp_path, monkeypatch, number):
    def decode(raw, how):
        started.append(raw)
        if len(started) == 1:
            os.kill(os.getpid(), number)
        else:
            time.sleep(0.3)
        return np.zeros((8, 8, 3), np.uint8)

    started = []
    monkeypatch.setattr(prepare, "decode", decode)
    monkeypatch.setattr(prepare, "CHUNK", 1)
    monkeypatch.setattr(prepare, "usable_cpus", lambda: 1)
    with pytest.raises(Stopped), stoppable():
        open_dataset(config(path=str(photos)))
    assert len(started) <= 3  # Of the five that were submitted.
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_exit_when_their_parent_is_stopped(photos, tmp_path, monkeypatch, number):
    def stopping(items, label, unit, **options):
        for item in progress(items, label, unit, **options):
            yield item
            if label.startswith("Reading"):
                os.kill(os.getpid(), number)
                time.sleep(0.01)

    monkeypatch.setattr(prepare, "FEW", 0)
    monkeypatch.setattr(prepare, "CHUNK", 5)
    monkeypatch.setattr(prepare, "progress", stopping)
    with pytest.raises(Stopped), stoppable():
        open_dataset(config(path=str(photos)))
    assert list((tmp_path / "cache").iterdir()) == [] and not multiprocessing.active_children()


def test_a_few_unreadable_files_are_left_out_and_named_at_every_start(photos, tmp_path, package_log, monkeypatch):
    monkeypatch.setattr(prepare, "MAX_UNREADABLE", 0.2)
    expected = open_dataset(config(path=str(photos)))
    write(photos / "cats" / "00broken.png", b"not an image")
    write(photos / "cats" / "empty.jpg", b"")
    for _ in range(2):
        package_log.clear()
        dataset = open_dataset(config(path=str(photos)))
        np.testing.assert_array_equal(dataset.images, expected.images)
        np.testing.assert_array_equal(dataset.labels, expected.labels)
        assert "2 of 14 images cannot be read and are left out: cats/00broken.png, cats/empty.jpg" in package_log.text


def test_many_unreadable_files_are_an_error(photos, tmp_path):
    path = photos / "cats" / "01.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="at least 1 of 12 images cannot be read, .*; fix or remove .*01.png .*PNG"):
        open_dataset(config(path=str(photos)))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_among_images_that_are_too_small_does_not_hide_the_remedy(photos):
    write(photos / "cats" / "00broken.png", b"not an image")
    with pytest.raises(
        UserError, match=r"at least 40x40 \(width x height\), got 14x10 \(cats/01.png\); set data.crop=\(\)"
    ):
        open_dataset(config(path=str(photos), crop=[40]), list_unreadable=True)


def test_a_transient_error_of_the_disk_is_retried_once(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "RETRY_S", 0.0)
    failures = []

    def read(number):
        if not failures:
            failures.append(number)
            raise OSError(5, "Input/output error")
        return b"content"

    assert prepare.read_with_retry(read, 3) == b"content" and failures == [3]
    with pytest.raises(FileNotFoundError):
        prepare.read_with_retry(lambda number: (tmp_path / "no").read_bytes(), 0)


def test_original_files_are_never_modified(photos, tmp_path):
    def state():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in photos.rglob("*.png")}

    before = state()
    os.chmod(photos, 0o500)
    open_dataset(config(path=str(photos)))
    os.chmod(photos, 0o700)
    assert state() == before
