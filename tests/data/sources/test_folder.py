"""Folders and zips: the same images, classes, splits and labels from either; and all that can be wrong."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data.sources.folder import open_folder
from ddpm_jax.data.sources.tree import MAX_BYTES, open_tree
from ddpm_jax.errors import UserError
from tests.data.pictures import COLOURS, data, encoded, noise, pixels_of, write


@pytest.fixture
def photos(tmp_path, draw) -> Path:
    """Twelve PNG files in three classes, 10x14 pixels."""
    for i in range(12):
        folder = tmp_path / "photos" / ("class9", "class10", "cats")[i % 3] / "nested"
        write(folder / f"{i:02d}.png", encoded(noise(draw)))
    return tmp_path / "photos"


def zipped(folder: Path, root: str = "") -> Path:
    """The folder as a zip beside it, below a folder of the archive's own if one is given."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, Path(root) / file.relative_to(folder))
    return path


def test_classes_come_in_natural_order_and_images_by_class_and_name(photos):
    collection = open_folder(data(path=str(photos)))
    assert collection.annotations.class_names == ("cats", "class9", "class10")
    assert collection.annotations.classes.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert list(collection.names[:5]) == [f"cats/nested/{n}.png" for n in ("02", "05", "08", "11")] + [
        "class9/nested/00.png"
    ]


@pytest.mark.parametrize("root", ["", "photos/", "deep/photos"])
def test_a_zip_holds_what_its_folder_holds(photos, root):
    (photos / ".hidden.png").write_bytes(b"")
    (photos / "__MACOSX").mkdir()
    folder, packed = open_folder(data(path=str(photos))), open_folder(data(path=str(zipped(photos, root))))
    assert [name.removeprefix(root).strip("/") for name in packed.names] == list(folder.names)
    assert packed.annotations.class_names == folder.annotations.class_names
    np.testing.assert_array_equal(packed.annotations.classes, folder.annotations.classes)
    np.testing.assert_array_equal(pixels_of(packed), pixels_of(folder))


def test_images_without_folders_have_no_class(tmp_path, draw):
    for i in range(3):
        write(tmp_path / "flat" / f"{i}.png", encoded(noise(draw)))
    for path in (tmp_path / "flat", zipped(tmp_path / "flat")):
        assert open_folder(data(path=str(path))).annotations.class_names == ()
    write(tmp_path / "flat" / "dogs" / "3.png", encoded(noise(draw)))
    assert open_folder(data(path=str(tmp_path / "flat"))).annotations.class_names == (".", "dogs")


def test_folders_named_as_splits_are_splits(tmp_path, draw):
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


TABLES = {
    "labels.csv": """file,label,round,caption
images/1.png,b,0,one
images/0.png,a,1,"zero, it is"
./images/3.png,a,-1,
images/2.png,b,1,two
""",
    "metadata.jsonl": """{"file_name": "images/0.png", "label": "a", "round": true, "caption": "zero"}
{"file_name": "images/1.png", "label": "b", "round": false, "box": [1, 2]}

{"file_name": "images/2.png", "label": "b", "round": 1}
{"file_name": "images/3.png", "label": "a", "round": 0}
""",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_give_classes_and_attributes(labelled, name):
    (labelled / name).write_text(TABLES[name], encoding="utf-8-sig")
    for path in (labelled, zipped(labelled, "set")):
        collection = open_folder(data(path=str(path)))
        annotations = collection.annotations
        assert [n[-5] for n in collection.names] == ["0", "3", "1", "2"]
        assert annotations.class_names == ("a", "b") and annotations.classes.tolist() == [0, 0, 1, 1]
        assert annotations.attribute_names == ("round",) and annotations.attributes[:, 0].tolist() == [1, 0, 0, 1]


def test_each_split_may_have_a_table_of_its_own(tmp_path, draw):
    for split, label in (("train", "a"), ("test", "b")):
        write(tmp_path / split / "1.png", encoded(noise(draw)))
        (tmp_path / split / "metadata.jsonl").write_text(f'{{"file_name": "1.png", "label": "{label}"}}')
    assert open_folder(data(path=str(tmp_path))).annotations.class_names == ("a",)
    assert open_folder(data(path=str(tmp_path), split="all")).annotations.classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("labels.csv", "file,label\nimages/0.png,a\nimages/1.png,b\n", r"misses 2 of 4 images \(images/2.png"),
        ("labels.csv", TABLES["labels.csv"] + "images/9.png,a,1,\n", r"names 1 images that are not there \(images/9"),
        ("labels.csv", TABLES["labels.csv"] + "images/1.png,a,1,\n", r"names images/1.png twice"),
        ("labels.csv", TABLES["labels.csv"].replace(",b,0", ",,0"), r"images/1.png has no label"),
        ("labels.csv", "name of file,label\nimages/0.png,a\n", r"row 1 of labels.csv has the columns name of file, la"),
        ("labels.csv", "", r"misses 4 of 4 images"),
        ("labels.csv", "file,label\n" + '"' * 3 + "x" * 200_000, r"labels.csv: row 1 cannot be read .field larger"),
        ("metadata.jsonl", '{"file_name": "images/0.png", "n": 1' + "0" * 5000 + "}", r"line 1, is not JSON"),
        ("metadata.jsonl", '{"file_name": 1', r"metadata.jsonl, line 1, is not JSON"),
        ("metadata.jsonl", "[" * 100_000, r"metadata.jsonl, line 1, is not JSON"),
        ("metadata.jsonl", "[1]", r"metadata.jsonl, line 1, is '\[1\]'"),
    ],
)
def test_tables_that_do_not_fit_are_refused(labelled, name, text, words):
    (labelled / name).write_text(text)
    with pytest.raises(UserError, match=words):
        open_folder(data(path=str(labelled)))


def test_a_table_that_is_no_text_is_refused(labelled):
    (labelled / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"labels.csv cannot be read .* UTF-8"):
        open_folder(data(path=str(labelled)))


def test_folders_that_are_missing_empty_or_not_given_are_errors(tmp_path):
    write(tmp_path / "empty" / "notes.txt", b"no image")
    write(tmp_path / "file.zip", b"no zip")
    cases = {None: "is not set", tmp_path / "no": "is not there", tmp_path / "empty": "holds no image"}
    for path, words in {**cases, tmp_path / "file.zip": "is not a zip"}.items():
        with pytest.raises(UserError, match=f"data.path.*{words}"):
            open_folder(data(path=path and str(path)))


def test_names_that_are_not_utf8_are_read_and_shown_as_escapes(tmp_path):
    for folder in (b"/caf\xe9", b"/tea"):
        os.mkdir(os.fsencode(tmp_path) + folder)
        with open(os.fsencode(tmp_path) + folder + b"/\xff.png", "wb") as file:
            file.write(encoded(np.full((8, 8, 3), 7, np.uint8)))
    collection = open_folder(data(path=str(tmp_path)))
    assert collection.annotations.class_names == ("caf\\udce9", "tea")
    assert np.all(pixels_of(collection) == 7) and collection.stamp(0)


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_tables_as_spreadsheets_write_them(labelled, delimiter):
    rows = [["File_Name", "Label", "round"], *([f"images/{i}.png", "ab"[i % 2], str(i % 2)] for i in range(4))]
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    (labelled / "metadata.csv").write_bytes(text.encode("utf-8-sig"))
    annotations = open_folder(data(path=str(labelled))).annotations
    assert annotations.classes.tolist() == [0, 0, 1, 1] and annotations.attributes[:, 0].tolist() == [0, 0, 1, 1]


def test_a_zip_with_the_separators_of_windows_keeps_its_classes(photos):
    with zipfile.ZipFile(photos.parent / "windows.zip", "w") as archive:
        for file in sorted(photos.rglob("*.png")):
            entry = zipfile.ZipInfo("x")
            entry.filename = "\\".join(file.relative_to(photos).parts)
            archive.writestr(entry, file.read_bytes())
    packed, folder = (open_folder(data(path=str(photos.parent / name))) for name in ("windows.zip", "photos"))
    assert packed.annotations.class_names == folder.annotations.class_names
    np.testing.assert_array_equal(pixels_of(packed), pixels_of(folder))


def test_a_pipe_is_no_image(photos):
    os.mkfifo(photos / "cats" / "pipe.png")
    collection = open_folder(data(path=str(photos)))
    with pytest.raises(OSError, match="no plain file"):
        collection.read(list(collection.names).index("cats/pipe.png"))


def test_two_tables_at_one_place_are_refused(labelled):
    for name, text in TABLES.items():
        (labelled / name).write_text(text)
    with pytest.raises(UserError, match=r"has both labels.csv, metadata.jsonl; keep the one that counts"):
        open_folder(data(path=str(labelled)))


def test_splits_in_capitals_are_splits_and_splits_beside_others_are_classes(tmp_path, draw, package_log):
    for i, folder in enumerate(["Train/dog", "Train/cat", "TEST/cat"]):
        write(tmp_path / folder / f"{i}.png", encoded(noise(draw)))
    for path in (tmp_path, zipped(tmp_path / "Train", "Train")):
        assert open_folder(data(path=str(path), split="train")).annotations.class_names == ("cat", "dog")
    (tmp_path / "Train.zip").unlink()
    write(tmp_path / "preview.png", encoded(noise(draw)))
    assert open_folder(data(path=str(tmp_path))).annotations.class_names == (".", "TEST", "Train")
    assert "train and test are taken for classes, since . is beside them" in package_log.text


def test_names_that_differ_by_zeros_have_one_order(tmp_path, draw):
    for name in ("1", "01", "2"):
        write(tmp_path / name / "1.png", encoded(noise(draw)))
    assert open_folder(data(path=str(tmp_path))).annotations.class_names == ("01", "1", "2")


def test_links_to_nowhere_and_closed_folders_are_unreadable_and_no_more(photos, package_log):
    (photos / "cats" / "gone.png").symlink_to(photos / "nowhere.png")
    collection = open_folder(data(path=str(photos)))
    number = list(collection.names).index("cats/gone.png")
    assert collection.stamp(number) and len(collection.names) == 13
    with pytest.raises(OSError, match="No such file"):
        collection.read(number)


def test_captions_with_line_separators_stay_one_row(labelled):
    text = TABLES["metadata.jsonl"].replace('"zero"', '"ze\u2028ro\x85"')
    (labelled / "metadata.jsonl").write_text(text, encoding="utf-8")
    assert open_folder(data(path=str(labelled))).annotations.class_names == ("a", "b")


def test_a_link_to_a_folder_above_is_not_followed_for_ever(photos):
    (photos / "cats" / "again").symlink_to(photos)
    assert len(open_folder(data(path=str(photos))).names) == 12


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "..\\evil.png", "\\evil.png"])
def test_a_zip_that_points_outside_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("good.png", encoded(np.zeros((8, 8), np.uint8)))
        archive.writestr(name, encoded(np.zeros((8, 8), np.uint8)))
    with pytest.raises(UserError, match="point outside of it"):
        open_folder(data(path=str(tmp_path / "evil.zip")))
    assert not (tmp_path.parent / "evil.png").exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb.png", "w", force_zip64=True) as entry,
    ):
        for _ in range(MAX_BYTES // 2**24 + 1):
            entry.write(bytes(2**24))
    tree = open_tree(tmp_path / "bomb.zip")
    assert (tmp_path / "bomb.zip").stat().st_size < 2**20
    with pytest.raises(ValueError, match="more than 256 MiB"):
        tree.read("bomb.png")


def test_entries_that_cannot_be_unpacked_are_unreadable_files(photos):
    path = zipped(photos)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    collection = open_folder(data(path=str(path)))
    with pytest.raises(OSError, match="cannot be unpacked"):
        for i in range(12):
            collection.read(i)


def test_a_truncated_zip_is_refused(photos):
    path = zipped(photos)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="is not a zip"):
        open_folder(data(path=str(path)))


def test_a_zip_that_changed_is_read_anew(tmp_path):
    for i, colour in enumerate(COLOURS[:2]):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        write(tmp_path / "set" / "1.png", encoded(np.full((8, 8, 3), colour, np.uint8)))
        path = zipped(tmp_path / "set")
        os.utime(path, ns=(i, i))
        assert np.all(pixels_of(open_folder(data(path=str(path)))) == colour)
