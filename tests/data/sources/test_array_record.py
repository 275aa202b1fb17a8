"""ArrayRecord shards as TensorFlow Datasets writes them are read in any order, and damage is reported."""

import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import config_of
from ddpm_jax.data.open import open_dataset
from ddpm_jax.data.sources import array_record
from ddpm_jax.data.sources.array_record import open_array_record
from ddpm_jax.errors import UserError
from tests.data.pictures import data, encoded, noise, pixels_of
from tests.data.shards import digits, write_example, write_set, write_shard

pytest.importorskip("grain", reason="Grain is an extra (requirements-grain.txt)")


def image_of(features) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(features["image"][0])))


@pytest.fixture
def mnist(tmp_path, draw):
    """A prepared set with 11 and 4 records in two shards a split, and its records."""
    splits = {"train": digits(draw, 11), "test": digits(draw, 4)}
    return write_set(tmp_path / "sets", "mnist", splits), splits


def options(tmp_path, **others):
    return data(cache=str(tmp_path / "cache"), channels=1, **others)


def test_splits_labels_and_pixels_equal_the_records(mnist, tmp_path):
    folder, splits = mnist
    for split, expected in (
        (None, splits["train"]),
        ("test", splits["test"]),
        ("all", splits["train"] + splits["test"]),
    ):
        collection = open_array_record(options(tmp_path, path=str(folder), split=split))
        np.testing.assert_array_equal(pixels_of(collection, 8, 1)[..., 0], [image_of(record) for record in expected])
        assert collection.scan().classes.tolist() == [record["label"][0] for record in expected]
        assert collection.scan().class_names == ("0", "1", "2") and len(collection.names) == len(expected)
    assert collection.names[6] == "record 0 of mnist-train.array_record-00001-of-00002"
    assert pickle.loads(pickle.dumps(collection.read))(3) == splits["train"][3]["image"][0]
    with pytest.raises(UserError, match=r"data.split='valid' is not in"):
        open_array_record(options(tmp_path, path=str(folder), split="valid"))


def test_shards_in_a_bucket_are_read_as_those_in_a_folder(mnist, tmp_path, bucket):
    folder, _ = mnist
    for path in folder.iterdir():
        (bucket / path.name).write_bytes(path.read_bytes())
    local, remote = (open_array_record(options(tmp_path, path=str(path))) for path in (folder, bucket))
    assert [remote.read(row) for row in range(11)] == [local.read(row) for row in range(11)]
    assert remote.fingerprint(7) == local.fingerprint(7) and len(remote.names) == 11
    np.testing.assert_array_equal(remote.scan().classes, local.scan().classes)
    (bucket / "mnist-train.array_record-00001-of-00002").unlink()
    with pytest.raises(UserError, match="contains 1 of the 2 shards"):
        open_array_record(options(tmp_path, path=str(bucket)))
    with pytest.raises(UserError, match="there is no bucket missing"):
        open_array_record(options(tmp_path, path="gs://missing/mnist"))


def test_class_names_are_read_from_the_list_beside_the_shards(mnist, tmp_path):
    folder, _ = mnist
    (folder / "label.labels.txt").write_text("zero\none\nmany\n")
    assert open_array_record(options(tmp_path, path=str(folder))).scan().class_names == ("zero", "one", "many")


def test_records_may_have_attributes_and_text_labels(tmp_path, draw):
    records = [
        {
            "image": [encoded(noise(draw, 8, 8))],
            "label": [name.encode()],
            "attributes/Smiling": [i % 2],
            "landmarks/x": [i],
        }
        for i, name in enumerate(["b", "a", "b", "c"])
    ]
    folder = write_set(tmp_path, "faces", {"train": records}, shards=1)
    annotations = open_array_record(options(tmp_path, path=str(folder))).scan()
    assert annotations.class_names == ("a", "b", "c") and annotations.classes.tolist() == [1, 0, 1, 2]
    assert annotations.attribute_names == ("Smiling",) and annotations.attributes[:, 0].tolist() == [0, 1, 0, 1]


def test_the_label_column_chooses_the_feature_of_the_classes(tmp_path, draw):
    features = {"label": [0, 1, 1], "coarse": [2, 0, 2], "name": [b"b", b"a", b"b"], "box": [0.5, 0.5, 0.5]}
    records = [{"image": [encoded(noise(draw, 8, 8))]} | {k: [v[i]] for k, v in features.items()} for i in range(3)]
    folder = write_set(tmp_path, "fine", {"train": records}, shards=1)
    (folder / "coarse.labels.txt").write_text("x\ny\nz\n")

    def annotations(column):
        return open_array_record(options(tmp_path, path=str(folder), label_column=column)).scan()

    for column, names, classes in [
        (None, ("0", "1"), [0, 1, 1]),
        ("coarse", ("x", "y", "z"), [2, 0, 2]),
        ("name", ("a", "b"), [1, 0, 1]),
    ]:
        assert annotations(column).class_names == names and annotations(column).classes.tolist() == classes
    for column in ("box", "image"):
        with pytest.raises(UserError, match=rf"data.label_column='{column}': .*expected one of coarse, label, name"):
            annotations(column)


def test_labels_are_read_once_and_then_cached(mnist, tmp_path, monkeypatch, package_log):
    folder, _ = mnist
    first = open_array_record(options(tmp_path, path=str(folder))).scan()
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(array_record, "_scan", None)
    again = open_array_record(options(tmp_path, path=str(folder))).scan()
    np.testing.assert_array_equal(first.classes, again.classes)
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(first.classes, open_array_record(options(tmp_path, path=str(folder))).scan().classes)
    assert f"{kept} is damaged and will be recomputed" in package_log.text


def test_shards_without_an_info_file_are_read_and_streamed(tmp_path, draw):
    records = digits(draw, 9)
    for i in range(3):
        write_shard(
            tmp_path / "bare" / f"part-{i}.array_record", [write_example(r) for r in records[3 * i : 3 * i + 3]]
        )
    where = {"path": str(tmp_path / "bare"), "cache": str(tmp_path / "cache"), "image_size": 8, "channels": 1}
    model = {"multipliers": [1, 1], "attention_resolutions": [], "classes": 3}
    cached, streamed = (open_dataset(config_of({"data": where | {"stream": s}, "model": model})) for s in (False, True))
    np.testing.assert_array_equal(cached.images[..., 0], [image_of(record) for record in records])
    rows = np.array([[8, 0], [4, 4]])
    np.testing.assert_array_equal(streamed.images[rows], cached.images[rows])
    np.testing.assert_array_equal(streamed.labels, cached.labels)


def test_splits_are_recognised_in_the_names_of_shards(tmp_path, draw):
    for split, count in (("train", 5), ("validation", 2)):
        write_shard(
            tmp_path / f"set-{split}.array_record-00000-of-00001", [write_example(r) for r in digits(draw, count)]
        )
    assert len(open_array_record(options(tmp_path, path=str(tmp_path))).names) == 5
    assert len(open_array_record(options(tmp_path, path=str(tmp_path), split="val")).names) == 2


def test_a_damaged_record_is_an_unreadable_image(mnist, tmp_path, package_log, monkeypatch):
    folder, _ = mnist
    monkeypatch.setattr("ddpm_jax.data.prepare.MAX_UNREADABLE", 0.9)
    shard = folder / "mnist-train.array_record-00001-of-00002"
    content = bytearray(shard.read_bytes())
    place = content.index(b"\x89PNG") + 30
    content[place] ^= 1
    shard.write_bytes(content)
    where = {"path": str(folder), "cache": str(tmp_path / "cache"), "image_size": 8, "channels": 1}
    dataset = open_dataset(config_of({"data": where, "model": {"multipliers": [1, 1], "attention_resolutions": []}}))
    assert len(dataset.images) < 11
    assert "mnist-train.array_record-00001-of-00002 (the shard is damaged" in package_log.text


def test_damaged_and_incomplete_sets_are_refused(mnist, tmp_path):
    folder, _ = mnist
    shard, about = folder / "mnist-train.array_record-00000-of-00002", folder / "dataset_info.json"
    whole, info = shard.read_bytes(), json.loads(about.read_text())

    def refused(words: str) -> None:
        array_record._open.cache_clear()
        with pytest.raises(UserError, match=words):
            open_array_record(options(tmp_path, path=str(folder)))
        shard.write_bytes(whole)
        about.write_text(json.dumps(info))

    shard.write_bytes(whole[: len(whole) // 2])
    refused(r"00000-of-00002 cannot be read .*; prepare or copy it again")
    shard.write_bytes(b"")
    refused(r"00000-of-00002 cannot be read")
    shard.unlink()
    refused(r"contains 1 of the 2 shards of mnist-train.array_record; copy the others too")
    shutil.copy(folder / "mnist-test.array_record-00000-of-00002", shard)
    refused(r"00000-of-00002 contains 2 records, not 6; prepare or copy the set again")
    about.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    refused(r"was prepared as tfrecord, which only TensorFlow reads")
    about.write_text('{"name": "mnist"')
    refused(r"dataset_info.json cannot be read")
    about.write_text(json.dumps({"fileFormat": "array_record"}))
    refused(r"dataset_info.json cannot be read")
    with pytest.raises(UserError, match=r"contains no \*.array_record\* files"):
        open_array_record(options(tmp_path, path=str(tmp_path / "cache")))


@pytest.mark.parametrize(
    ("labels", "words"),
    [([[0], [1], [], [1]], "some records have labels and others do not"), ([[-1]] * 4, None)],
)
def test_either_all_records_have_labels_or_none(tmp_path, draw, labels, words):
    records = [{"image": [encoded(noise(draw, 8, 8))], **({"label": label} if label else {})} for label in labels]
    collection = open_array_record(
        options(tmp_path, path=str(write_set(tmp_path, "odd", {"train": records}, shards=1)))
    )
    if words:
        with pytest.raises(UserError, match=words):
            collection.scan()
    else:
        assert collection.scan().class_names == () and len(collection.scan()) == 4


def test_only_zeros_and_ones_are_attributes(tmp_path, draw):
    features = {"attributes/a": [0, 1, 1], "attributes/b": [1, -1, 0], "attributes/c": [1, 3, 0]}
    records = [{"image": [encoded(noise(draw, 8, 8))]} | {k: [v[i]] for k, v in features.items()} for i in range(3)]
    folder = write_set(tmp_path, "odd", {"train": records}, shards=1)
    annotations = open_array_record(options(tmp_path, path=str(folder))).scan()
    assert annotations.attribute_names == ("a",) and annotations.attributes[:, 0].tolist() == [0, 1, 1]


def test_a_damaged_label_is_an_error(mnist, tmp_path):
    shard = mnist[0] / "mnist-train.array_record-00001-of-00002"
    content = bytearray(shard.read_bytes())
    content[content.index(b"\x89PNG") + 30] ^= 1
    shard.write_bytes(content)
    array_record._open.cache_clear()
    with pytest.raises(
        UserError, match=r"the label of record \d of mnist-train.array_record-00001-of-00002 cannot be read"
    ):
        open_array_record(options(tmp_path, path=str(mnist[0]))).scan()


def test_records_without_images_are_refused(tmp_path):
    folder = write_set(tmp_path, "texts", {"train": [{"text": [b"a"], "label": [0]}]}, shards=1)
    with pytest.raises(UserError, match=r"records have the features label, text; expected an encoded image"):
        open_array_record(options(tmp_path, path=str(folder)))
    write_shard(tmp_path / "empty" / "a.array_record", [])
    with pytest.raises(UserError, match=r"contains no records"):
        open_array_record(options(tmp_path, path=str(tmp_path / "empty")))


def test_without_grain_the_command_to_install_it_is_named(mnist, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "grain.sources", None)
    array_record._open.cache_clear()
    with pytest.raises(UserError, match="pip install --upgrade grain"):
        open_array_record(options(tmp_path, path=str(mnist[0])))
