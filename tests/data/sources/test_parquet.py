"""Parquet shards as the Hugging Face hub has them: images, classes by number or name, attributes, and refusals."""

import numpy as np
import pytest

from ddpm_jax.data.open import kind_of, open_dataset
from ddpm_jax.data.sources.parquet import _open, open_parquet
from ddpm_jax.errors import UserError
from tests.data.hub import write_parquet
from tests.data.pictures import config, data, encoded, noise, pixels_of, write

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra (requirements-parquet.txt)")
PNG = encoded(np.full((8, 8, 3), 7, np.uint8))


def structs(images) -> list[dict]:
    return [{"bytes": encoded(image), "path": f"{i}.png"} for i, image in enumerate(images)]


@pytest.fixture
def images(draw) -> list[np.ndarray]:
    return [noise(draw, 8, 8) for _ in range(7)]


@pytest.fixture
def hub(tmp_path, images):
    """A clone of a set on the hub: seven images for training in two files, and one for testing."""
    folder, names = tmp_path / "hub" / "data", ["dog", "cat", "eel"]
    labels = {"label": [0, 1, 0, 1, 0, 1, 0], "round": [True] * 3 + [False] * 4, "breed": list("abacaba")}
    for shard, rows in enumerate((slice(0, 4), slice(4, 7))):
        columns = {"image": structs(images), **labels, "caption": ["some text"] * 7}
        some = {name: column[rows] for name, column in columns.items()}
        write_parquet(folder / f"train-{shard:05d}-of-00002.parquet", names, group=3, **some)
    test = {"image": structs(images[:1]), "label": [-1], "round": [True], "breed": ["a"], "caption": [""]}
    write_parquet(folder / "test-00000-of-00001-0f3a.parquet", names, **test)
    write(folder.parent / "preview.png", PNG)
    write(folder.parent / ".cache" / "train-00000-of-00009.parquet", b"")
    return folder.parent


def test_the_training_split_of_a_clone_is_read(hub, images, package_log):
    assert kind_of(data(path=str(hub))) == kind_of(data(path=str(hub / "data"))) == "parquet"
    collection = open_parquet(data(path=str(hub)))
    np.testing.assert_array_equal(pixels_of(collection), images)
    annotations = collection.annotations
    assert annotations.class_names == ("dog", "cat", "eel") and annotations.classes.tolist() == [0, 1] * 3 + [0]
    assert annotations.attribute_names == ("round",) and annotations.attributes[:, 0].tolist() == [1] * 3 + [0] * 4
    assert collection.names[6] == "row 2 of row group 0 of train-00001-of-00002.parquet"
    assert len({collection.stamp(number) for number in range(7)}) == 7
    assert "Split: train, out of test, train" in package_log.text
    assert "ignoring the columns breed, caption (data.label_column=NAME makes one of them" in package_log.text


def test_a_single_file_of_several_is_read_alone_and_a_test_split_may_have_no_labels(hub):
    assert len(open_parquet(data(path=str(hub / "data" / "train-00001-of-00002.parquet"))).names) == 3
    test = open_parquet(data(path=str(hub), split="test"))
    assert len(test.names) == 1 and test.annotations.class_names == ()
    with pytest.raises(UserError, match=r"label is empty in 1 of 8 rows, first in row 0; choose .* data.split"):
        open_parquet(data(path=str(hub), split="all"))


def test_the_label_column_chooses_classes_and_filters_know_them(hub):
    dataset = open_dataset(config({"classes": 3}, path=str(hub), label_column="breed", filter="round | c"))
    assert dataset.names == ("a", "b", "c") and dataset.labels.tolist() == [0, 1, 0, 2]
    annotations = open_parquet(data(path=str(hub), label_column="round")).annotations
    assert annotations.class_names == ("False", "True") and not annotations.attribute_names


@pytest.mark.parametrize(
    ("label", "names", "classes"),
    [
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([10.0, 9.0, 10.0], ("9", "10"), [1, 0, 1]),
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
    ],
)
def test_labels_without_names_are_sorted_and_images_may_be_plain_bytes(tmp_path, images, label, names, classes):
    columns = {"hash": [b"no image"] * 3, "IMG": [encoded(image) for image in images[:3]], "Label": label}
    collection = open_parquet(data(path=str(write_parquet(tmp_path / "a.parquet", **columns))))
    np.testing.assert_array_equal(pixels_of(collection), images[:3])
    assert collection.annotations.class_names == names and collection.annotations.classes.tolist() == classes


def test_threads_read_each_row_group_once_and_keep_few(tmp_path, draw, monkeypatch):
    pixels = [noise(draw, 8, 8) for _ in range(20)] * 20
    path = write_parquet(tmp_path / "a.parquet", group=10, image=structs(pixels))
    read, groups = parquet.ParquetFile.read_row_group, []
    monkeypatch.setattr(
        parquet.ParquetFile,
        "read_row_group",
        lambda file, group, columns: groups.append(group) or read(file, group, columns),
    )
    monkeypatch.setattr("ddpm_jax.data.sources.parquet.usable_cpus", lambda: 2)
    dataset = open_dataset(config(path=str(path)))
    np.testing.assert_array_equal(dataset.images, pixels)
    assert sorted(groups) == list(range(40))
    reader = open_parquet(data(path=str(path))).read
    for number in range(400):
        reader(number)
    groups.clear()
    reader(399)
    assert not groups
    reader(0)
    assert groups == [0]


def test_rows_without_bytes_are_unreadable_images(tmp_path, images):
    path = write_parquet(tmp_path / "a.parquet", image=[{"bytes": None, "path": "a.png"}, *structs(images[:1])])
    with pytest.raises(
        UserError, match=r"1 of 2 images .* row 0 of row group 0 of a.parquet \(the row has no bytes in"
    ):
        open_dataset(config(path=str(path)))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"text": ["a"], "n": [1]},
            r"has no column of images, only text, n; expected one of bytes, or of {bytes, path}",
        ),
        ({"left": [b"a"], "right": [b"b"]}, r"has several columns of images \(left, right\); rename one to image"),
        ({"image": [PNG, PNG], "label": [1, None]}, r"label is empty in 1 of 2 rows, first in row 1; choose another"),
        ({"image": []}, r"contains no rows; give a folder of .parquet files with images"),
    ],
)
def test_files_without_images_or_labels_are_refused(tmp_path, columns, words):
    write_parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=words) as refusal:
        open_parquet(data(path=str(tmp_path / "a.parquet")))
    assert "\n" not in str(refusal.value)


def test_unknown_columns_of_labels_are_refused(hub):
    with pytest.raises(UserError, match=r"data.label_column='bred': .* no such column .*did you mean breed\?"):
        open_parquet(data(path=str(hub), label_column="bred"))
    with pytest.raises(UserError, match=r"data.label_column='image': .* expected one of breed, caption, label, round"):
        open_parquet(data(path=str(hub), label_column="image"))


def test_damaged_files_and_files_of_another_kind_are_refused(hub):
    shard = hub / "data" / "train-00001-of-00002.parquet"
    whole = shard.read_bytes()
    for content, words in {
        whole[:-20]: r"train-00001-of-00002.parquet cannot be read as Parquet \(.*\); download it again",
        b"": "cannot be read as Parquet",
        b"version https://git-lfs.github.com/spec/v1": "is only a pointer of Git LFS; run git lfs pull",
    }.items():
        shard.write_bytes(content)
        with pytest.raises(UserError, match=words) as refusal:
            open_parquet(data(path=str(hub)))
        assert "\n" not in str(refusal.value)
    write_parquet(shard, image=[PNG], other=[1])
    with pytest.raises(UserError, match=r"00001-of-00002.parquet has no column label, round, unlike the first shard"):
        open_parquet(data(path=str(hub)))


def test_images_at_random_are_refused(hub):
    with pytest.raises(UserError, match=r"data.stream=True reads single images at random, but .* is Parquet"):
        open_dataset(config(path=str(hub), stream=True))


def test_without_pyarrow_the_command_to_install_it_is_named(hub, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    _open.cache_clear()
    with pytest.raises(UserError, match="pip install pyarrow"):
        open_parquet(data(path=str(hub)))
