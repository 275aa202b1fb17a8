"""WebDataset's tars are read in place, with the keys that WebDataset defines; damaged ones are refused."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data.dataset import identity
from ddpm_jax.data.open import kind_of, open_dataset
from ddpm_jax.data.sources import webdataset
from ddpm_jax.data.sources.webdataset import open_webdataset
from ddpm_jax.errors import UserError
from tests.data.hub import tar_of
from tests.data.pictures import config, data, encoded, noise, pixels_of, write

PNG = encoded(np.full((8, 8, 3), 7, np.uint8))


def options(path: Path, **fields):
    return data(path=str(path), cache=str(path.parent / "cache"), **fields)


def write_tar(path: Path, members: dict) -> Path:
    write(path, tar_of(members))
    return path


@pytest.fixture
def images(draw) -> list[np.ndarray]:
    return [noise(draw, 8, 8) for _ in range(6)]


@pytest.fixture
def shards(tmp_path, images) -> Path:
    """Six images in two tars for training, of the classes 10, 9 and 2, and one tar for validation."""
    for shard in range(2):
        members = {}
        for i in range(3 * shard, 3 * shard + 3):
            table = {"breed": "ab"[i % 2], "age": i, "round": i < 2, "box": [1, 2], "none": None}
            members |= {f"a/{i}.png": encoded(images[i]), f"a/{i}.cls": ("10", "9", "2")[i % 3], f"a/{i}.json": table}
        write_tar(tmp_path / "set" / f"animals-train-{shard:06d}.tar", members)
    write_tar(tmp_path / "set" / "animals-val-000000.tar", {"a/9.png": PNG, "a/9.cls": "2"})
    return tmp_path / "set"


def test_images_and_classes_of_the_training_split_are_read_in_place(shards, images, package_log):
    before = sorted(shards.rglob("*"))
    assert kind_of(data(path=str(shards))) == kind_of(data(path=str(shards / before[0].name))) == "webdataset"
    collection = open_webdataset(options(shards))
    np.testing.assert_array_equal(pixels_of(collection), images)
    assert collection.annotations.class_names == ("2", "9", "10")
    assert collection.annotations.classes.tolist() == [2, 1, 0, 2, 1, 0]
    assert collection.names[4] == "a/4.png in animals-train-000001.tar"
    assert "Split: train, out of train, validation" in package_log.text
    assert "ignoring the columns breed, age (data.label_column=NAME makes one of them the class)" in package_log.text
    assert sorted(shards.rglob("*")) == before
    assert len(open_webdataset(options(shards, split="val")).names) == 1


@pytest.mark.parametrize(
    ("column", "names", "classes"),
    [
        ("breed", ("a", "b"), [0, 1, 0, 1, 0, 1]),
        ("age", ("0", "1", "2", "3", "4", "5"), [0, 1, 2, 3, 4, 5]),
        ("round", ("False", "True"), [1, 1, 0, 0, 0, 0]),
        ("cls", ("2", "9", "10"), [2, 1, 0, 2, 1, 0]),
    ],
)
def test_the_label_column_chooses_the_classes(shards, column, names, classes):
    annotations = open_webdataset(options(shards, label_column=column)).annotations
    assert annotations.class_names == names and annotations.classes.tolist() == classes


def test_truth_values_are_attributes_which_filters_know(shards):
    where = {"path": str(shards), "label_column": "breed", "filter": "round & ~a"}
    dataset = open_dataset(config({"classes": 2}, **where | {"filter": "~round | b"}))
    assert dataset.labels.tolist() == [1, 0, 1, 0, 1] and dataset.names == ("a", "b")
    assert len(open_dataset(config(**where)).images) == 1
    chosen = open_dataset(config({"attributes": 1}, path=str(shards)))
    assert chosen.labels[:, 0].tolist() == [1, 1, 0, 0, 0, 0] and chosen.names == ("round",)


def test_cached_and_streamed_images_are_the_same(shards, images):
    cached, streamed = (open_dataset(config(path=str(shards), stream=s)) for s in (False, True))
    np.testing.assert_array_equal(cached.images, images)
    np.testing.assert_array_equal(streamed.images[np.array([5, 0])], cached.images[[5, 0]])
    (shards / "copy").mkdir()
    for tar in shards.glob("*.tar"):
        write(shards.parent / "copy" / tar.name, tar.read_bytes())
    copy = open_dataset(config(path=str(shards.parent / "copy"), stream=True))
    assert identity(copy) == identity(streamed)


def test_members_are_listed_once_and_again_when_a_tar_changes(shards, monkeypatch):
    first = open_webdataset(options(shards))
    monkeypatch.setattr(webdataset, "_index", None)
    assert open_webdataset(options(shards)).names == first.names
    monkeypatch.undo()
    write_tar(shards / "animals-train-000000.tar", {"b.jpg": PNG, "b.cls": "2"})
    assert open_webdataset(options(shards)).names[0] == "b.jpg in animals-train-000000.tar"


def test_a_key_ends_at_the_first_dot_of_the_base_name(tmp_path, package_log):
    members = {"a.b/1.seg.jpg": b"mask", "a.b/1.jpg": PNG, "a.b/1.PNG": b"", "./2.JPG": PNG, "3.txt": "no image"}
    hidden = {"._1.jpg": b"", ".hidden.jpg": b"", "README": b"", "d/": b"", "__MACOSX/5.jpg": b"", ".git/6.jpg": b""}
    collection = open_webdataset(options(write_tar(tmp_path / "a.tar", members | hidden)))
    assert collection.names == ["a.b/1.jpg in a.tar", "2.jpg in a.tar"] and np.all(pixels_of(collection) == 7)
    assert collection.left_out == {"samples without an image": ["3.txt"]}
    assert "left out 1 samples without an image" in package_log.text


def test_links_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("1.jpg", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE), ("3.jpg", tarfile.FIFOTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        member = tarfile.TarInfo("4.jpg")
        member.size = len(PNG)
        tar.addfile(member, io.BytesIO(PNG))
    assert open_webdataset(options(tmp_path / "a.tar")).names == ["4.jpg in a.tar"]


WHOLE = tar_of({"a/1.png": PNG, "a/1.cls": "0", "a/2.png": PNG, "a/2.cls": "1"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            WHOLE[: WHOLE.index(b"a/2.png") + 520],
            r"a.tar ends early, at byte 2,568 inside a/2.png; download or copy it",
        ),
        (WHOLE[: WHOLE.index(b"a/2.png") + 100], r"a.tar ends early, at byte 2,048 after a/1.cls"),
        (WHOLE[: WHOLE.index(b"a/2.png")], r"a.tar ends early, at byte 2,048 after a/1.cls"),
        (WHOLE[: WHOLE.index(b"a/2.png") - 100], r"a.tar ends early, at byte 1,948 after a/1.cls"),
        (WHOLE.replace(b"a/2.png", b"a/2?png"), r"a.tar is damaged, at byte 2,048 after a/1.cls"),
        (b"no tar at all" * 100, r"a.tar cannot be read as a tar after its beginning \(.*\); download it again"),
        (b"", r"a.tar cannot be read as a tar after its beginning \(empty file\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"a.tar is only a pointer of Git LFS; run git lfs pull"),
        (tar_of({"1.txt": "a"}), r"contains no images, only 1.txt; expected members such as 0001.jpg"),
        (tar_of({}), r"contains no images; expected members such as 0001.jpg"),
        (tar_of({"1.jpg": PNG, "./1.jpg": PNG}), r"a.tar contains 1.jpg twice"),
        (tar_of({"1.jpg": PNG, "1.json": "{"}), r"a.tar: 1.json is not JSON"),
        (tar_of({"1.jpg": PNG, "1.json": "[1]"}), r"a.tar: 1.json is '\[1\]'; expected"),
        (
            tar_of({"1.jpg": PNG, "1.cls": "0", "2.jpg": PNG}),
            r"1 of 2 images have no 'cls', first 2.jpg in a.tar; choose",
        ),
    ],
)
def test_tars_that_are_damaged_or_incomplete_are_refused(tmp_path, content, words):
    write(tmp_path / "a.tar", content)
    for _ in range(2):  # A refused tar leaves nothing in the cache.
        with pytest.raises(UserError, match=words) as refusal:
            open_webdataset(options(tmp_path / "a.tar"))
        assert "\n" not in str(refusal.value)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".npz"]


def test_an_unknown_column_is_refused_with_those_that_are_there(shards):
    with pytest.raises(UserError, match=r"data.label_column='bread': .* no such column .*; did you mean breed\?"):
        open_webdataset(options(shards, label_column="bread"))
    with pytest.raises(UserError, match=r"data.label_column='box': .* no such column of text or numbers; expected one"):
        open_webdataset(options(shards, label_column="box"))
