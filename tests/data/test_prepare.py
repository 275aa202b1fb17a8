"""From a configuration to pixels: decoded once, by threads or processes, or on the fly, and always the same."""

import multiprocessing
import os
import signal
import time
import zipfile

import numpy as np
import pytest

from ddpm_jax.config import config_of
from ddpm_jax.data import prepare
from ddpm_jax.data.open import kind_of, open_dataset
from ddpm_jax.data.sources.folder import open_folder
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped, stoppable
from tests.data.pictures import data, encoded, noise, write

TOY = {"multipliers": [1, 1], "attention_resolutions": []}


@pytest.fixture
def photos(tmp_path, draw):
    """Twelve PNG files in two classes, 10x14 pixels."""
    for i in range(12):
        write(tmp_path / "photos" / ("cats" if i % 2 else "dogs") / f"{i:02d}.png", encoded(noise(draw)))
    return tmp_path / "photos"


def config(tmp_path, path=None, model=None, **options):
    where = {"path": str(path or tmp_path / "photos"), "cache": str(tmp_path / "cache"), "image_size": 8}
    return config_of({"data": where | options, "model": TOY | (model or {})})


def test_the_second_reading_comes_from_the_cache(photos, tmp_path, monkeypatch):
    first = open_dataset(config(tmp_path))
    monkeypatch.setattr(prepare, "decode", None)
    again = open_dataset(config(tmp_path))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert isinstance(again.images, np.memmap) and len(list((tmp_path / "cache").iterdir())) == 1


def test_whatever_shapes_the_pixels_has_a_cache_of_its_own(photos, tmp_path):
    variants = [{}, {"crop": [6]}, {"channels": 1}, {"image_size": 4}, {"resize": "box"}, {"background": [0, 0, 0]}]
    variants += [{"classes": "cats"}, {"first": 3}, {"fraction": 0.5}, {"fraction": 0.5, "fraction_seed": 1}]
    for count, options in enumerate(variants, start=1):
        open_dataset(config(tmp_path, **options))
        assert len(list((tmp_path / "cache").iterdir())) == count
    open_dataset(config(tmp_path, flip=True, holdout=0.5, batch_size=2))
    write(photos / "cats" / "01.png", encoded(np.full((20, 20, 3), 9, np.uint8)))
    assert np.all(open_dataset(config(tmp_path)).images[0] == 9)
    assert len(list((tmp_path / "cache").iterdir())) == len(variants) + 1


@pytest.mark.parametrize("few", [0, 500])
def test_processes_and_threads_decode_the_same(photos, tmp_path, monkeypatch, few):
    monkeypatch.setattr(prepare, "FEW", few)
    monkeypatch.setattr(prepare, "CHUNK", 5)
    dataset = open_dataset(config(tmp_path))
    expected = np.stack([prepare.decode(open_folder(data(path=str(photos))).read(i), decoding(8)) for i in range(12)])
    np.testing.assert_array_equal(dataset.images, expected)
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6 and dataset.names == ("cats", "dogs")


def decoding(size):
    return prepare.Decoding(size, 3)


def test_a_killed_process_is_said_in_one_line(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "FEW", 0)
    monkeypatch.setattr(prepare, "_decode_in_worker", kill_itself)
    with pytest.raises(UserError, match=r"photos: a process that decodes images was killed"):
        open_dataset(config(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


def kill_itself(numbers):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_decoding_that_is_stopped_leaves_what_it_has_not_begun(photos, tmp_path, monkeypatch, number):
    def decode(raw, how):
        begun.append(raw)
        if len(begun) == 1:
            os.kill(os.getpid(), number)
        else:
            time.sleep(0.3)
        return np.zeros((8, 8, 3), np.uint8)

    begun = []
    monkeypatch.setattr(prepare, "decode", decode)
    monkeypatch.setattr(prepare, "CHUNK", 1)
    monkeypatch.setattr(prepare, "usable_cpus", lambda: 1)
    with pytest.raises(Stopped), stoppable():
        open_dataset(config(tmp_path))
    assert len(begun) <= 3  # Of the five that were asked for.
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_processes_that_decode_end_when_their_parent_is_stopped(photos, tmp_path, monkeypatch, number):
    def stopping(items, *args, **options):
        for item in progress(items, *args, **options):
            yield item
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    monkeypatch.setattr(prepare, "FEW", 0)
    monkeypatch.setattr(prepare, "CHUNK", 5)
    monkeypatch.setattr(prepare, "progress", stopping)
    with pytest.raises(Stopped), stoppable():
        open_dataset(config(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == [] and not multiprocessing.active_children()


def test_streamed_images_are_those_of_the_cache(photos, tmp_path):
    cached, streamed = open_dataset(config(tmp_path)), open_dataset(config(tmp_path, stream=True))
    assert streamed.images.shape == cached.images.shape and len(streamed.images) == 12
    for rows in (np.arange(12), np.array([[3, 3, 0], [11, 5, 7]]), np.array([], int)):
        np.testing.assert_array_equal(streamed.images[rows], cached.images[rows])
    np.testing.assert_array_equal(streamed.labels, cached.labels)


def test_few_unreadable_files_are_named_at_every_start_and_left_out(photos, tmp_path, package_log, monkeypatch):
    monkeypatch.setattr(prepare, "MAX_UNREADABLE", 0.2)
    expected = open_dataset(config(tmp_path))
    write(photos / "cats" / "00broken.png", b"not an image")
    write(photos / "cats" / "empty.jpg", b"")
    for _ in range(2):
        package_log.clear()
        dataset = open_dataset(config(tmp_path))
        np.testing.assert_array_equal(dataset.images, expected.images)
        np.testing.assert_array_equal(dataset.labels, expected.labels)
        assert "2 of 14 images cannot be read and are left out: cats/00broken.png, cats/empty.jpg" in package_log.text


def test_an_unreadable_file_is_never_replaced_while_streaming(photos, tmp_path):
    write(photos / "cats" / "00broken.png", b"not an image")
    streamed = open_dataset(config(tmp_path, stream=True))
    assert streamed.images[np.array([1, 2])].shape == (2, 8, 8, 3)
    with pytest.raises(UserError, match=r"cats/00broken.png cannot be read \(it is no PNG, .*data.stream=False"):
        streamed.images[np.arange(13)]


def test_many_unreadable_files_are_an_error(photos, tmp_path):
    path = photos / "cats" / "01.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="more than 1% of its 12 images cannot be read; mend or remove .*01.png .*PNG"):
        open_dataset(config(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("stream", [False, True])
def test_images_smaller_than_the_crop_want_another_crop(photos, tmp_path, stream):
    with pytest.raises(UserError) as caught:
        open_dataset(config(tmp_path, crop=[40], stream=stream)).images[np.arange(2)]
    said = str(caught.value)
    assert "data.crop=(40,) needs images of at least 40x40, got " in said and said.endswith(
        "choose a smaller data.crop."
    )
    assert "remove" not in said


def test_a_disk_that_fails_once_is_asked_again(photos, tmp_path, monkeypatch):
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


def test_the_originals_are_never_touched(photos, tmp_path):
    def state():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in photos.rglob("*.png")}

    before = state()
    os.chmod(photos, 0o500)
    open_dataset(config(tmp_path))
    os.chmod(photos, 0o700)
    assert state() == before


def test_a_source_is_recognised_by_what_lies_at_the_path(photos, tmp_path):
    write(tmp_path / "set.npz", b"")
    write(tmp_path / "shards" / "a.array_record-00000-of-00001", b"")
    zipfile.ZipFile(tmp_path / "photos.zip", "w").close()
    kinds = {"photos": "folder", "photos.zip": "folder", "set.npz": "arrays", "shards": "array_record", "no": "folder"}
    for name, kind in kinds.items():
        assert kind_of(data(path=str(tmp_path / name))) == kind
    assert kind_of(data(name="mnist")) == "tfds"
    with pytest.raises(UserError, match=r"data.path is not set; give a folder or zip"):
        kind_of(data())


def test_the_model_is_told_as_many_classes_as_there_are(photos, tmp_path):
    with pytest.raises(UserError, match=r"model.classes=3, but the data has 2 \(cats, dogs\)"):
        open_dataset(config(tmp_path, model={"classes": 3}))
    assert len(open_dataset(config(tmp_path, model={"classes": 2})).images) == 12


def test_digits_and_discs_can_be_selected_from_as_well():
    ones = open_dataset(
        config_of({"data": {"source": "digits", "classes": "1", "image_size": 8, "channels": 1}, "model": TOY})
    )
    assert 170 < len(ones.images) < 190 and ones.names == ("1",)
    discs = config_of({"data": {"source": "synthetic", "attributes": "a,b"}, "model": {"attributes": 2}})
    assert open_dataset(discs).labels.shape == (64, 2) and open_dataset(discs).names == ("a", "b")


def test_digits_are_all_there_with_their_labels():
    digits = open_dataset(config_of({"data": {"source": "digits", "image_size": 8, "channels": 1}, "model": TOY}))
    assert digits.images.shape == (1797, 8, 8, 1) and digits.images.dtype == np.uint8
    assert digits.images.min() == 0 and digits.images.max() == 255
    assert np.all(np.bincount(digits.labels) > 170) and digits.names == tuple("0123456789")


def test_digits_have_no_splits():
    with pytest.raises(UserError, match=r"data.split='test': data.source='digits' has no splits"):
        open_dataset(
            config_of({"data": {"source": "digits", "split": "test", "image_size": 8, "channels": 1}, "model": TOY})
        )


def test_discs_differ_by_class_and_repeat():
    config = config_of({"data": {"source": "synthetic", "image_size": 16}, "model": {"classes": 2}})
    discs = open_dataset(config)
    assert discs.images.shape == (64, 16, 16, 3)
    rows = discs.images.astype(float).mean(axis=(2, 3))
    heights = (rows * np.arange(16)).sum(axis=1) / rows.sum(axis=1)
    assert heights[discs.labels == 0].mean() < heights[discs.labels == 1].mean()
    np.testing.assert_array_equal(discs.images, open_dataset(config).images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": [1, 2]}, r"data.crop=\(1, 2\) is no crop; expected \(\), \(side,\) or"),
        ({"crop": [5, 0, 5, 9]}, r"is no crop"),
        ({"crop": [0]}, r"is no crop"),
        ({"crop": [0, 0, 20, 10]}, r"is no crop; .* a square"),
        ({"attributes": "a, a"}, r"chooses 1, but model.attributes=0"),
        ({"background": [0, 0, 256]}, r"data.background=\(0, 0, 256\) is no colour"),
        ({"fraction": 0.0}, r"data.fraction=0.0 is out of range; expected more than 0 and at most 1"),
        ({"source": "zip"}, r"data.source='zip' does not exist"),
        ({"source": "digits"}, r"holds 8x8 greyscale images"),
        ({"source": "synthetic", "path": "x"}, r"data.path=x is not read by data.source='synthetic'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        config_of({"data": options})
