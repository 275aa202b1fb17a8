"""Folders and zips give the same images, classes, splits and labels; ambiguous ones are refused."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data.sources.folder import open_folder
from ddpm_jax.errors import UserError
from tests.data.pictures import data, encoded, noise, pixels_of, write, zipped
from tests.data.test_annotations import TABLES


@pytest.fixture
def photos(tmp_path, draw) -> Path:
    """Twelve PNG files in three classes, 10x14 pixels."""
    for i in range(12):
        folder = tmp_path / "photos" / ("class9", "class10", "cats")[i % 3] / "nested"
        write(folder / f"{i:02d}.png", encoded(noise(draw)))
    return tmp_path / "photos"


def test_images_are_sorted_by_class_and_name(photos):
    collection = open_folder(data(path=str(photos)))
    assert collection.annotations.class_names == ("cats", "class9", "class10")
    assert collection.annotations.classes.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert list(collection.names[:5]) == [f"cats/nested/{n}.png" for n in ("02", "05", "08", "11")] + [
        "class9/nested/00.png"
    ]


@pytest.mark.parametrize("root", ["", "photos/", "deep/photos"])
def test_a_zip_gives_the_same_images_as_its_folder(photos, root):
    (photos / ".hidden.png").write_bytes(b"")
    (photos / "__MACOSX").mkdir()
    folder, packed = open_folder(data(path=str(photos))), open_folder(data(path=str(zipped(photos, root))))
    assert [name.removeprefix(root).strip("/") for name in packed.names] == list(folder.names)
    assert packed.annotations.class_names == folder.annotations.class_names
    np.testing.assert_array_equal(packed.annotations.classes, folder.annotations.classes)
    np.testing.assert_array_equal(pixels_of(packed), pixels_of(folder))


def test_images_without_folders_have_no_classes(tmp_path, draw):
    for i in range(3):
        write(tmp_path / "flat" / f"{i}.png", encoded(noise(draw)))
    for path in (tmp_path / "flat", zipped(tmp_path / "flat")):
        assert open_folder(data(path=str(path))).annotations.class_names == ()
    write(tmp_path / "flat" / "dogs" / "3.png", encoded(noise(draw)))
    assert open_folder(data(path=str(tmp_path / "flat"))).annotations.class_names == (".", "dogs")


def test_folders_named_like_splits_are_splits(tmp_path, draw):
    for i, folder in enumerate(["train/dog", "train/cat", "val/dog", "val/cat", "test/cat"]):
        write(tmp_path / folder / f"{i}.png", encoded(noise(draw)))

    def names(split):
        return list(open_folder(data(path=str(tmp_path), split=split)).names)

    assert names(None) == names("train") == ["train/cat/1.png", "train/dog/0.png"]
    assert names("validation") == names("val") == ["val/cat/3.png", "val/dog/2.png"]
    assert len(names("all")) == 5
    assert open_folder(data(path=str(tmp_path), split="all")).annotations.class_names == ("cat", "dog")
    with pytest.raises(UserError, match=r"data.split='tset' is not in .*did you mean test\?"):
        names("tset")
    for split in ("val", "test"):
        shutil.rmtree(tmp_path / split)
    assert names("train") == ["train/cat/1.png", "train/dog/0.png"]
    with pytest.raises(UserError, match=r"data.split='train': .* has no splits"):
        open_folder(data(path=str(tmp_path / "train"), split="train"))


@pytest.fixture
def labelled(tmp_path, draw) -> Path:
    for i in range(4):
        write(tmp_path / "set" / "images" / f"{i}.png", encoded(noise(draw)))
    return tmp_path / "set"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_classes_and_attributes_instead_of_folders(labelled, name):
    (labelled / name).write_text(TABLES[name], encoding="utf-8-sig")
    for path in (labelled, zipped(labelled, "set")):
        collection = open_folder(data(path=str(path)))
        annotations = collection.annotations
        assert [n[-5] for n in collection.names] == ["0", "3", "1", "2"]
        assert annotations.class_names == ("a", "b") and annotations.classes.tolist() == [0, 0, 1, 1]
        assert annotations.attribute_names == ("round",) and annotations.attributes[:, 0].tolist() == [1, 0, 0, 1]


def test_each_split_may_have_its_own_table(tmp_path, draw):
    for split, label in (("train", "a"), ("test", "b")):
        write(tmp_path / split / "1.png", encoded(noise(draw)))
        (tmp_path / split / "metadata.jsonl").write_text(f'{{"file_name": "1.png", "label": "{label}"}}')
    assert open_folder(data(path=str(tmp_path))).annotations.class_names == ("a",)
    assert open_folder(data(path=str(tmp_path), split="all")).annotations.classes.tolist() == [0, 1]


def test_rows_without_suffixes_belong_to_the_images_of_every_split(tmp_path, draw):
    for split, suffix in (("train", ".JPG"), ("test", ".png")):
        write(tmp_path / split / f"1{suffix}", encoded(noise(draw)))
        write(tmp_path / split / "1.txt", b"a caption")
    (tmp_path / "labels.csv").write_text("file;label\r\ntrain\\1;a\r\ntest\\1;b\r\n;\r\n", encoding="utf-8-sig")
    assert open_folder(data(path=str(tmp_path))).annotations.class_names == ("a",)
    assert open_folder(data(path=str(tmp_path), split="all")).annotations.class_names == ("a", "b")


def test_class_folders_of_any_name_are_classes(tmp_path, draw):
    names = ["new york", "v1.0", "dog.", "\u732b", "\u05db\u05dc\u05d1", "a,b", " lead", "x=y", "100%", "-minus"]
    for name in names:
        write(tmp_path / name / "1.PNG", encoded(noise(draw)))
    assert set(open_folder(data(path=str(tmp_path))).annotations.class_names) == set(names)


def test_a_table_that_is_not_utf8_is_refused(labelled):
    (labelled / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"labels.csv cannot be read .* UTF-8"):
        open_folder(data(path=str(labelled)))


def test_missing_and_empty_folders_are_refused(tmp_path):
    write(tmp_path / "empty" / "notes.txt", b"no image")
    write(tmp_path / "table" / "labels.csv", b"file,label")
    (tmp_path / "nothing").mkdir()
    write(tmp_path / "file.zip", b"no zip")
    write(tmp_path / "one.JPG", b"")
    write(tmp_path / "one", encoded(np.full((8, 8, 3), 7, np.uint8)))
    for name in ("one.JPG", "one"):
        with pytest.raises(UserError, match=rf"data.path=.*{name} is one image; give its folder"):
            open_folder(data(path=str(tmp_path / name)))
    cases = {None: "is not set", tmp_path / "no": "does not exist", tmp_path / "empty": "contains no images, only"}
    cases |= {tmp_path / "table": "contains no images; expected PNG"}
    cases |= {tmp_path / "nothing": "is empty; expected PNG", tmp_path / "file.zip": "is not a complete zip"}
    for path, words in cases.items():
        with pytest.raises(UserError, match=f"data.path.*{words}"):
            open_folder(data(path=path and str(path)))


def test_for_a_relative_path_that_does_not_exist_the_current_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"data.path=photos does not exist in {tmp_path}; give a folder"):
        open_folder(data(path="photos"))


def test_names_that_are_not_utf8_are_read_and_shown_escaped(tmp_path):
    for folder in (b"/caf\xe9", b"/tea"):
        os.mkdir(os.fsencode(tmp_path) + folder)
        with open(os.fsencode(tmp_path) + folder + b"/\xff.png", "wb") as file:
            file.write(encoded(np.full((8, 8, 3), 7, np.uint8)))
    collection = open_folder(data(path=str(tmp_path)))
    assert collection.annotations.class_names == ("caf\\udce9", "tea")
    assert np.all(pixels_of(collection) == 7) and collection.stamp(0)


def test_a_zip_with_windows_separators_keeps_its_classes(photos):
    with zipfile.ZipFile(photos.parent / "windows.zip", "w") as archive:
        for file in sorted(photos.rglob("*.png")):
            entry = zipfile.ZipInfo("x")
            entry.filename = "\\".join(file.relative_to(photos).parts)
            archive.writestr(entry, file.read_bytes())
    packed, folder = (open_folder(data(path=str(photos.parent / name))) for name in ("windows.zip", "photos"))
    assert packed.annotations.class_names == folder.annotations.class_names
    np.testing.assert_array_equal(pixels_of(packed), pixels_of(folder))


def test_two_tables_in_one_folder_are_refused(labelled):
    for name, text in TABLES.items():
        (labelled / name).write_text(text)
    with pytest.raises(UserError, match=r"contains labels.csv, metadata.jsonl; keep one of them"):
        open_folder(data(path=str(labelled)))


def test_capitalised_splits_are_splits_but_splits_beside_other_images_are_classes(tmp_path, draw, package_log):
    for i, folder in enumerate(["Train/dog", "Train/cat", "TEST/cat"]):
        write(tmp_path / folder / f"{i}.png", encoded(noise(draw)))
    for path in (tmp_path, zipped(tmp_path / "Train", "Train")):
        assert open_folder(data(path=str(path), split="train")).annotations.class_names == ("cat", "dog")
    (tmp_path / "Train.zip").unlink()
    write(tmp_path / "preview.png", encoded(noise(draw)))
    assert open_folder(data(path=str(tmp_path))).annotations.class_names == (".", "TEST", "Train")
    assert "treating train and test as classes, because of ." in package_log.text


@pytest.mark.parametrize(
    ("column", "names", "classes"),
    [
        ("breed", ("a", "b"), [0, 0, 1, 1]),
        ("age", ("2", "9", "10"), [0, 1, 1, 2]),
        ("round", ("False", "True"), [0, 0, 1, 1]),
        ("label", ("x", "y"), [0, 0, 0, 1]),
    ],
)
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_the_label_column_chooses_the_classes_of_a_table(labelled, name, column, names, classes):
    columns = {
        "image_id": [7, 6, 5, 4],
        "file_name": [f"images/{i}.png" for i in range(4)],
        "label": ["x", "x", "y", "x"],
        "breed": ["b", "a", "b", "a"],
        "age": [10, 9, 2, 9],
        "round": [True, False, False, True],
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if name.endswith(".csv"):
        lines = [",".join(columns), *(",".join(str(value) for value in row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (labelled / name).write_text("\n".join(lines))
    for path in (labelled, zipped(labelled)):
        annotations = open_folder(data(path=str(path), label_column=column)).annotations
        assert annotations.class_names == names and annotations.classes.tolist() == classes
        assert annotations.attribute_names == (() if column == "round" else ("round",))


def test_a_label_column_that_is_not_there_is_refused(labelled, package_log):
    with pytest.raises(UserError, match=r"data.label_column='breed': .* has no labels.csv or .* at its top or in"):
        open_folder(data(path=str(labelled), label_column="breed"))
    rows = [f'{{"file_name": "images/{i}.png", "breed": "{i}", "box": [1]}}\n' for i in range(4)]
    (labelled / "metadata.jsonl").write_text("".join(rows))
    with pytest.raises(UserError, match=r"data.label_column='bred': .*no such column .*; did you mean breed\?"):
        open_folder(data(path=str(labelled), label_column="bred"))
    assert open_folder(data(path=str(labelled))).annotations.class_names == ()
    assert "ignoring columns that are not yes-or-no: breed (data.label_column=NAME makes one of" in package_log.text
    (labelled / "metadata.jsonl").write_text("".join(rows).replace('"breed": "2"', '"breed": null'))
    with pytest.raises(UserError, match=r"images/2.png has no breed; add one"):
        open_folder(data(path=str(labelled), label_column="breed"))
    (labelled / "metadata.jsonl").write_text("".join(rows).replace("images/2", "images/9"))
    with pytest.raises(UserError, match=r"no row for 1 of 4 images \(images/2.png\)"):
        open_folder(data(path=str(labelled), label_column="breed"))
    (labelled / "metadata.jsonl").write_text("".join(rows) + rows[0].replace("/0", "/9"))
    with pytest.raises(UserError, match=r"has rows for 1 missing images \(images/9.png\)"):
        open_folder(data(path=str(labelled), label_column="breed"))
