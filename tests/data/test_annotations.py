"""Classes and attributes from names and from tables, and the tables that are refused."""

import numpy as np
import pytest

from ddpm_jax.data.annotations import Annotations, annotate, annotations_of_table, match_files, read_table
from ddpm_jax.errors import UserError, quoted

IMAGES = [f"images/{i}.png" for i in range(4)]
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


def read(name: str, text: str) -> Annotations:
    return annotations_of_table(IMAGES, read_table(name, text, "here"), "here")


def test_classes_are_numbered_in_natural_order():
    annotations = annotate(5, ["class10", "cats", "class9", "1", "01"])
    assert annotations.class_names == ("01", "1", "cats", "class9", "class10")
    assert annotations.classes.tolist() == [4, 2, 3, 1, 0]


def test_taking_rows_keeps_classes_and_attributes_with_their_images():
    taken = annotate(3, ["a", "b", "a"], {"red": [1, 0, 0], "round": [0, 0, 1]}).take(np.array([2, 0]))
    assert len(taken) == 2 and taken.classes.tolist() == [0, 0] and taken.attributes.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("name", TABLES)
def test_tables_give_classes_and_attributes(name, package_log):
    annotations = read(name, TABLES[name])
    assert annotations.class_names == ("a", "b") and annotations.classes.tolist() == [0, 1, 1, 0]
    assert annotations.attribute_names == ("round",) and annotations.attributes[:, 0].tolist() == [1, 0, 1, 0]
    assert "ignoring columns that are not yes-or-no: caption" in package_log.text


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_tables_with_the_delimiters_of_spreadsheets_are_read(delimiter):
    rows = [["File_Name", "Label", "round"], *([f"images/{i}.png", "ab"[i % 2], str(i % 2)] for i in range(4))]
    annotations = read("metadata.csv", "".join(delimiter.join(row) + "\r\n" for row in rows))
    assert annotations.classes.tolist() == [0, 1, 0, 1] and annotations.attributes[:, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\n\n" + text,
        lambda text: text + "\n   \n,,,\n,,,\r\n\n",
        lambda text: text.rstrip("\n"),
    ],
    ids=["Windows", "old Macs", "empty first", "empty last", "no last end"],
)
def test_line_ends_and_empty_rows_of_spreadsheets_change_nothing(change):
    text = TABLES["labels.csv"]
    assert read_table("labels.csv", change(text), "here") == read_table("labels.csv", text, "here")


def test_an_unnamed_first_column_is_passed_over():
    """Such as the numbers of rows that pandas writes."""
    table = read_table("labels.csv", "\tfile\tlabel\n0\ta.png\tcat\n1\tb.png\tdog\n", "here")
    assert table == {"a.png": {"label": "cat"}, "b.png": {"label": "dog"}}


def test_rows_belong_to_the_images_that_only_they_can_mean():
    table = {"images\\0": 0, "IMAGES/1.JPG": 1, "v1.0": 2, "twice": 3, "a.png": 4, "A.PNG": 5, "b": 6, "B": 7, "c": 8}
    images = ["images/0.png", "images/1.png", "v1.0.jpg", "twice.png", "twice.jpg", "a.png", "b.png"]
    matched = match_files({name: {"label": str(row)} for name, row in table.items()}, images)
    of_images = {name: int(row["label"]) for name, row in matched.items() if name in images}
    assert of_images == {"images/0.png": 0, "images/1.png": 1, "v1.0.jpg": 2, "a.png": 4}
    assert len(matched) == len(table)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("caf\xe9", "cafe\u0301"), ("a", "a ")])
def test_classes_that_may_be_the_same_stay_apart_with_a_warning(names, package_log):
    assert annotate(3, [*names, "dog"]).class_names == (*sorted(names), "dog")
    assert f"The classes {', '.join(map(str, quoted(sorted(names))))} differ only in case" in package_log.text
    package_log.clear()
    annotate(2, ["cat", "dog"])
    assert not package_log.text


def test_captions_with_unicode_line_separators_stay_in_one_row():
    text = TABLES["metadata.jsonl"].replace('"zero"', '"ze\u2028ro\x85"')
    assert read("metadata.jsonl", text).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("labels.csv", "file,label\nimages/0.png,a\nimages/1.png,b\n", r"no row for 2 of 4 images \(images/2.png"),
        ("labels.csv", TABLES["labels.csv"] + "images/9.png,a,1,\n", r"has rows for 1 missing images \(images/9"),
        ("labels.csv", TABLES["labels.csv"] + "images/1.png,a,1,\n", r"has two rows for images/1.png"),
        ("labels.csv", TABLES["labels.csv"].replace(",b,0", ",,0"), r"images/1.png has no label"),
        ("labels.csv", "name of file,label\nimages/0.png,a\n", r"row 1 of labels.csv has the columns name of file, la"),
        ("labels.csv", "", r"no row for 4 of 4 images"),
        ("labels.csv", "file,label\n" + '"' * 3 + "x" * 200_000, r"labels.csv: row 1 cannot be read .field larger"),
        ("metadata.jsonl", '{"file_name": "images/0.png", "n": 1' + "0" * 5000 + "}", r"line 1, is not JSON"),
        ("metadata.jsonl", '{"file_name": 1', r"metadata.jsonl, line 1, is not JSON"),
        ("metadata.jsonl", "[" * 100_000, r"metadata.jsonl, line 1, is not JSON"),
        ("metadata.jsonl", "[1]", r"metadata.jsonl, line 1, is '\[1\]'"),
    ],
)
def test_malformed_and_incomplete_tables_are_refused(name, text, words):
    with pytest.raises(UserError, match=words):
        read(name, text)
