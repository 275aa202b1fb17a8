"""Streamed images equal cached ones, and an unreadable image is an error."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data.dataset import difference, identity
from ddpm_jax.data.open import open_dataset
from ddpm_jax.data.sources.tree import Folder
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.signals import Stopped
from tests.data import shards
from tests.data.pictures import config, encoded, noise, write, zipped


def test_streamed_images_equal_cached_ones(photos):
    cached, streamed = (open_dataset(config(path=str(photos), stream=stream)) for stream in (False, True))
    assert streamed.images.shape == cached.images.shape and len(streamed.images) == 12
    for rows in (np.arange(12), np.array([[3, 3, 0], [11, 5, 7]]), np.array([], int)):
        np.testing.assert_array_equal(streamed.images[rows], cached.images[rows])
    np.testing.assert_array_equal(streamed.labels, cached.labels)


def test_an_unreadable_image_is_an_error_and_never_replaced(photos):
    write(photos / "cats" / "00broken.png", b"not an image")
    streamed = open_dataset(config(path=str(photos), stream=True))
    assert streamed.images[np.array([1, 2])].shape == (2, 8, 8, 3)
    with pytest.raises(UserError, match=r"cats/00broken.png cannot be read \(not a PNG, .*data.stream=False"):
        streamed.images[np.arange(13)]


@pytest.mark.parametrize("stream", [False, True])
def test_for_images_smaller_than_the_crop_the_remedy_is_a_smaller_crop(photos, stream):
    with pytest.raises(UserError) as caught:
        open_dataset(config(path=str(photos), crop=[40], stream=stream)).images[np.arange(2)]
    message = str(caught.value)
    assert (
        "data.crop=(40,) needs images of at least 40x40 (width x height), got 14x10" in message
        and "remove" not in message
    )
    assert message.endswith("set data.crop=(), the largest centred box.")


def identity_of(path, **options):
    return identity(open_dataset(config(path=str(path), stream=True, **options)))


@pytest.mark.parametrize("pack", [lambda folder: folder, zipped])
def test_a_replaced_file_changes_the_identity_and_a_copy_does_not(photos, tmp_path, draw, monkeypatch, pack):
    monkeypatch.setattr("ddpm_jax.data.dataset.SPOT_CHECKS", 2)  # None is at the replaced file.
    shutil.copytree(photos, tmp_path / "copy")
    before = identity_of(pack(photos))
    assert difference(before, identity_of(pack(tmp_path / "copy"))) is None
    write(tmp_path / "copy" / "cats" / "05.png", encoded(noise(draw, 11)))
    assert difference(before, identity_of(pack(tmp_path / "copy"))) == "other images"


def test_an_image_of_the_same_size_is_noticed_if_it_is_among_the_sampled(photos, monkeypatch):
    for pixels, words in ((7, None), (9, "other images")):
        write(photos / "cats" / "00.bmp", encoded(np.full((8, 8, 3), pixels, np.uint8), "BMP"))
        before = identity_of(photos) if words is None else before
        assert difference(before, identity_of(photos)) == words


def test_a_folder_may_become_a_zip(photos, draw):
    before = identity_of(photos)
    assert difference(before, identity_of(zipped(photos))) is None
    write(photos / "cats" / "01.png", encoded(noise(draw)))
    assert difference(before, identity_of(zipped(photos))) == "other images or labels"


def test_the_identity_of_shards_covers_every_record_and_label(tmp_path, draw, monkeypatch):
    pytest.importorskip("array_record")
    monkeypatch.setattr("ddpm_jax.data.dataset.SPOT_CHECKS", 2)
    records, changed, turned = (shards.digits(np.random.default_rng(0), 40) for _ in range(3))
    changed[7]["image"] = [encoded(noise(draw, 8, 8, 1)[..., 0], compress_level=0)]
    turned[6]["label"] = [2]
    digits = {"channels": 1, "cache": str(tmp_path / "cache")}
    found = []
    for name, of in (("a", records), ("b", records), ("c", changed), ("d", turned)):
        place = shards.write_set(tmp_path / name, "tiny", {"train": of}, shards=2)
        dataset = open_dataset(config({"classes": 3}, path=str(place), stream=True, **digits))
        found.append(identity(dataset))
    differences = [difference(found[0], other) for other in found]
    assert differences[:3] == [None, None, "other images"] and "other labels" in str(differences[3])


@pytest.mark.parametrize("stream", [False, True])
def test_many_files_are_asked_for_once_by_several_threads_and_a_signal_stops_that(photos, monkeypatch, stream):
    monkeypatch.setattr("ddpm_jax.data.prepare.FEW", 4)
    monkeypatch.setattr("ddpm_jax.data.prepare.ASKED", 2)
    expected, asked = identity_of(photos), []
    for name in ("stamp", "fingerprint"):
        ask = getattr(Folder, name)
        recorded = lambda self, name, ask=ask: asked.append(threading.current_thread()) or ask(self, name)  # noqa: E731
        monkeypatch.setattr(Folder, name, recorded)
    dataset = open_dataset(config(path=str(photos), stream=stream))
    if stream:
        assert identity(dataset) == identity(dataset) == expected
    assert len(asked) == 12 and threading.current_thread() not in asked

    def stop():
        raise Stopped(15)

    monkeypatch.setattr("ddpm_jax.runtime.progress.raise_if_stopped", stop)
    with pytest.raises(Stopped):
        identity(open_dataset(config(path=str(photos), stream=stream)))


def test_replaced_arrays_of_the_same_size_change_the_identity_of_an_npz(tmp_path, draw, monkeypatch):
    monkeypatch.setattr("ddpm_jax.data.dataset.SPOT_CHECKS", 2)  # None is at the replaced image.
    images, found = np.stack([noise(draw, 8, 8) for _ in range(9)]), []
    for name, changed in (("a", False), ("b", False), ("c", True)):
        images[4] ^= np.uint8(changed)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(9) % 3)
        found.append(identity_of(tmp_path / f"{name}.npz"))
    assert [difference(found[0], other) for other in found[1:]] == [None, "other images"]


def test_the_size_of_an_npy_is_asked_for_once(tmp_path, draw, monkeypatch):
    np.save(tmp_path / "a.npy", np.stack([noise(draw, 8, 8) for _ in range(9)]))
    dataset, stats, stat = open_dataset(config(path=str(tmp_path / "a.npy"), stream=True)), [], Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **options: stats.append(path) or stat(path, **options))
    identity(dataset)
    assert not stats
