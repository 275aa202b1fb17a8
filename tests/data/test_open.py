"""The source that a configuration names or that its path suggests, and its labels."""

import zipfile

import numpy as np
import pytest

from ddpm_jax.data.dataset import identity
from ddpm_jax.data.open import count_images, kind_of, open_dataset
from ddpm_jax.errors import UserError
from tests.data.pictures import config, data, write

DIGITS = {"source": "digits", "image_size": 8, "channels": 1}


def test_the_source_is_recognised_by_the_contents_of_the_path(photos, tmp_path):
    write(tmp_path / "set.npz", b"")
    write(tmp_path / "shards" / "a.array_record-00000-of-00001", b"")
    zipfile.ZipFile(tmp_path / "photos.zip", "w").close()
    kinds = {"photos": "folder", "photos.zip": "folder", "set.npz": "arrays", "shards": "array_record", "no": "folder"}
    for name, kind in kinds.items():
        assert kind_of(data(path=str(tmp_path / name))) == kind
    assert kind_of(data(name="mnist")) == "tfds"
    write(tmp_path / "tars" / "0.tar", b"")
    write(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", b"")
    write(tmp_path / "hub" / "a.parquet", b"")
    for name, kind in {
        "tars": "webdataset",
        "tars/0.tar": "webdataset",
        "hub": "parquet",
        "hub/a.parquet": "parquet",
    }.items():
        assert kind_of(data(path=str(tmp_path / name))) == kind
    with pytest.raises(UserError, match=r"data.path is not set; give a folder or zip"):
        kind_of(data())


def test_a_model_of_another_number_of_classes_is_refused(photos):
    with pytest.raises(UserError, match=r"model.classes=3, but the data has 2 \(cats, dogs\)"):
        open_dataset(config({"classes": 3}, path=str(photos)))
    dataset = open_dataset(config({"classes": 2}, path=str(photos)))
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6 and dataset.names == ("cats", "dogs")


def test_images_are_counted_without_decoding_them(photos):
    write(photos / "cats" / "broken.png", b"not an image")
    assert count_images(config(path=str(photos))) == (13, True)
    assert count_images(config(path=str(photos), classes="dogs", stream=True)) == (6, False)
    assert count_images(config(**DIGITS)) == (1797, False)
    with pytest.raises(UserError, match=r"data.name='mnist' has not been prepared in"):
        count_images(config(source="tfds", name="mnist", path=str(photos)))


def test_the_cache_knows_the_checksums_of_its_images(photos):
    dataset = open_dataset(config(path=str(photos)))
    assert dataset.fingerprints and identity(dataset) == identity(dataset._replace(fingerprints=None))


def test_only_sources_with_columns_of_labels_have_one_chosen():
    with pytest.raises(UserError, match=r"data.label_column='a' is not read by data.source='digits'.*; leave it out"):
        open_dataset(config(**DIGITS, label_column="a"))


def test_shards_too_deep_to_be_recognised_are_named(tmp_path):
    write(tmp_path / "a" / "b" / "c.parquet", b"")
    with pytest.raises(UserError, match=r"contains no images, only 1 .parquet files; .*data.source=parquet reads"):
        open_dataset(config(path=str(tmp_path)))


def test_images_in_memory_can_be_selected():
    ones = open_dataset(config(**DIGITS, classes="1"))
    assert 170 < len(ones.images) < 190 and ones.names == ("1",)
    discs = open_dataset(config({"attributes": 2}, source="synthetic", attributes="a,b", fraction=0.5))
    assert discs.labels.shape == (32, 2) and discs.names == ("a", "b") and discs.images.dtype == np.uint8
