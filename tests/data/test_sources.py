"""Digits, made-up discs, and folders of every kind of image."""

import logging

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import Config, config_of
from ddpm_jax.data.cache import Fingerprint, cached
from ddpm_jax.data.digits import load_digits
from ddpm_jax.data.folder import load_folder, read_image
from ddpm_jax.data.sources import open_dataset
from ddpm_jax.data.synthetic import draw_discs
from ddpm_jax.errors import UserError


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path, draw):
    """Twelve PNG files in two classes, 10x14 pixels."""
    for i in range(12):
        folder = tmp_path / "photos" / ("cats" if i % 2 else "dogs") / "nested"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (10, 14, 3), np.uint8)).save(folder / f"{i:02d}.png")
    return tmp_path / "photos"


def test_digits_are_all_there_with_their_labels():
    digits = load_digits()
    assert digits.images.shape == (1797, 8, 8, 1) and digits.images.dtype == np.uint8
    assert digits.images.min() == 0 and digits.images.max() == 255
    assert np.all(np.bincount(digits.labels) > 170) and digits.names == tuple("0123456789")


def test_discs_differ_by_class_and_repeat_by_seed():
    discs = draw_discs(20, 16, 3, classes=2)
    assert discs.images.shape == (20, 16, 16, 3)
    rows = discs.images.astype(float).mean(axis=(2, 3))
    heights = (rows * np.arange(16)).sum(axis=1) / rows.sum(axis=1)
    assert heights[discs.labels == 0].mean() < heights[discs.labels == 1].mean()
    np.testing.assert_array_equal(discs.images, draw_discs(20, 16, 3, classes=2).images)


def test_a_folder_gives_cropped_images_in_order_with_classes(photos, cache):
    dataset = load_folder(str(photos), 10, 3, cache)
    assert dataset.images.shape == (12, 10, 10, 3) and dataset.names == ("cats", "dogs")
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6
    with Image.open(photos / "cats" / "nested" / "01.png") as image:
        np.testing.assert_array_equal(dataset.images[0], np.asarray(image)[:, 2:12])


def test_the_second_reading_comes_from_the_cache(photos, cache, monkeypatch):
    first = load_folder(str(photos), 8, 1, cache)
    monkeypatch.setattr("ddpm_jax.data.folder.read_image", None)
    again = load_folder(str(photos), 8, 1, cache)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert isinstance(again.images, np.memmap)
    assert len(list(cache.iterdir())) == 1


def test_a_changed_file_or_size_is_read_anew(photos, cache):
    before = load_folder(str(photos), 8, 3, cache)
    Image.new("RGB", (20, 20), (9, 9, 9)).save(photos / "cats" / "nested" / "01.png")
    assert np.all(load_folder(str(photos), 8, 3, cache).images[0] == 9)
    assert not np.all(before.images[0] == 9)
    assert load_folder(str(photos), 4, 3, cache).images.shape == (12, 4, 4, 3)


def test_an_interrupted_preparation_leaves_nothing_behind(cache):
    fingerprint = Fingerprint("folder", (("a", 1, 2),), 2, 1)
    image = np.zeros((2, 2, 1), np.uint8)

    def interrupted():
        yield image, 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(cache, fingerprint, (2, 2, 2, 1), interrupted)
    assert list(cache.iterdir()) == []
    images, labels = cached(cache, fingerprint, (2, 2, 2, 1), lambda: [(image, 5)])
    assert images.shape == (1, 2, 2, 1) and labels.tolist() == [5]


def test_a_truncated_cache_is_made_anew(photos, cache):
    first = load_folder(str(photos), 8, 3, cache)
    expected = np.array(first.images)
    (entry,) = cache.iterdir()
    stored = entry / "images.npy"
    stored.write_bytes(stored.read_bytes()[:300])
    np.testing.assert_array_equal(load_folder(str(photos), 8, 3, cache).images, expected)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "jpg"), ("RGB", "bmp"), ("P", "gif"), ("RGB", "webp"), ("L", "png"), ("CMYK", "jpg")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_file_comes_out_grey(tmp_path, mode, suffix, channels):
    Image.new("RGB", (12, 12), (120, 120, 120)).convert(mode).save(tmp_path / f"grey.{suffix}")
    image = read_image(tmp_path / f"grey.{suffix}", 6, channels)
    assert image.shape == (6, 6, channels)
    np.testing.assert_allclose(image.astype(int), 120, atol=6 if mode == "P" else 3)  # A palette dithers.


def test_transparency_is_white_and_photographs_stand_upright(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.all(read_image(tmp_path / "clear.png", 8, 3) == 255)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4] = 255
    Image.fromarray(halves).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = read_image(tmp_path / "turned.jpg", 8, 1)
    assert turned[:3].mean() < 50 and turned[5:].mean() > 200


def test_few_unreadable_files_are_named_and_passed_over(photos, cache, caplog, monkeypatch):
    monkeypatch.setattr("ddpm_jax.data.folder.MAX_UNREADABLE", 0.2)
    logging.getLogger("ddpm_jax").propagate = True
    (photos / "cats" / "broken.png").write_bytes(b"not an image")
    (photos / "cats" / "empty.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        dataset = load_folder(str(photos), 8, 3, cache)
    assert len(dataset.images) == 12
    assert "2 of 14 images cannot be read" in caplog.text and "cats/broken.png" in caplog.text


@pytest.mark.parametrize("bad", [1, 12])
def test_many_unreadable_files_are_an_error(photos, cache, bad):
    for path in sorted(photos.rglob("*.png"))[:bad]:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{bad} of 12 images cannot be read, more than the 1%"):
        load_folder(str(photos), 8, 3, cache)
    assert list(cache.iterdir()) == []


def test_folders_that_are_missing_empty_or_not_given_are_errors(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    for path, words in (
        (None, "is not set"),
        (str(tmp_path / "no"), "not a folder"),
        (str(tmp_path / "empty"), "no im"),
    ):
        with pytest.raises(UserError, match=f"data.path.*{words}"):
            load_folder(path, 8, 3, cache)


def test_the_model_is_told_as_many_classes_as_there_are(photos, cache):
    tree = {
        "data": {"path": str(photos), "image_size": 8, "cache": str(cache)},
        "model": {"classes": 3, "multipliers": [1, 1], "attention_resolutions": []},
    }
    with pytest.raises(UserError, match=r"model.classes=3, but the data has 2 \(cats, dogs\)"):
        open_dataset(config_of(tree))
    assert len(open_dataset(config_of(tree | {"model": tree["model"] | {"classes": 2}})).images) == 12
    assert Config().data.path is None
