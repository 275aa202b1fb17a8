"""CelebA as a zip, a folder or from Kaggle: its splits, its attributes and the crop of published FIDs."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import config_of, load_recipe
from ddpm_jax.data.decode import Decoding, decode
from ddpm_jax.data.open import kind_of
from ddpm_jax.data.sources.celeba import FID_CROP, open_celeba
from ddpm_jax.errors import UserError
from tests.data.faces import ATTRIBUTES, write_celeba
from tests.data.pictures import data
from tests.end_to_end.commands import ROOT


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """Img/img_align_celeba.zip, Anno/ and Eval/, as on the authors' drive."""
    return write_celeba(tmp_path_factory.mktemp("celeba"), 40)


def rearranged(official: Path, target: Path, layout: str) -> Path:
    """Copies the set in another layout; returns its data.path."""
    texts = [official / "Anno" / "list_attr_celeba.txt", official / "Eval" / "list_eval_partition.txt"]
    archive = official / "Img" / "img_align_celeba.zip"
    folder = target / ("img_align_celeba/img_align_celeba" if layout == "kaggle" else "img_align_celeba")
    if layout in ("beside", "zip"):
        (target / archive.name).write_bytes(archive.read_bytes())
    else:
        zipfile.ZipFile(archive).extractall(folder.parent)
    for text in texts:
        if layout != "kaggle":
            (target / text.name).write_text(text.read_text())
            continue
        lines = [line.split() for line in text.read_text().splitlines()]
        header, rows = (lines[1], lines[2:]) if "attr" in text.name else (["partition"], lines)
        table = [["image_id", *header], *rows]
        (target / f"{text.stem}.csv").write_text("\n".join(",".join(row) for row in table) + "\n")
    return {"zip": target / archive.name, "inside": folder}.get(layout, target)


@pytest.mark.parametrize("layout", ["beside", "zip", "folder", "inside", "kaggle"])
def test_every_layout_gives_the_same_faces(official, tmp_path, layout):
    path = rearranged(official, tmp_path, layout)
    assert kind_of(data(path=str(path))) == kind_of(data(path=str(official))) == "celeba"
    for split in (None, "train", "valid", "validation", "test", "all"):
        expected = open_celeba(data(path=str(official), split=split))
        found = open_celeba(data(path=str(path), split=split))
        assert [Path(name).name for name in found.names] == [Path(name).name for name in expected.names]
        assert found.annotations.attribute_names == expected.annotations.attribute_names == ATTRIBUTES
        np.testing.assert_array_equal(found.annotations.attributes, expected.annotations.attributes)
        assert found.read(0) == expected.read(0)


def test_splits_equal_the_official_partition(official):
    lines = (official / "Eval" / "list_eval_partition.txt").read_text().splitlines()
    partition = dict(line.split() for line in lines)
    for number, split in enumerate(("train", "valid", "test")):
        names = open_celeba(data(path=str(official), split=split)).names
        assert [Path(name).name for name in names] == [n for n, p in partition.items() if p == str(number)]
    assert len(open_celeba(data(path=str(official), split="all")).names) == 40


def test_attributes_equal_those_in_the_file(official):
    lines = (official / "Anno" / "list_attr_celeba.txt").read_text().splitlines()
    assert tuple(lines[1].split()) == ATTRIBUTES and len(ATTRIBUTES) == 40
    expected = [[int(value) > 0 for value in line.split()[1:]] for line in lines[2:]]
    collection = open_celeba(data(path=str(official), split="all"))
    np.testing.assert_array_equal(collection.annotations.attributes, expected)


def test_the_published_crop_is_centred_at_89_121(official):
    collection = open_celeba(data(path=str(official), split="all"))
    with zipfile.ZipFile(official / "Img" / "img_align_celeba.zip") as archive:
        for number in range(5):
            with archive.open(f"img_align_celeba/{number + 1:06d}.jpg") as file:
                face = Image.open(file).crop((25, 57, 153, 185))
                assert face.size == (128, 128)
                expected = face.resize((64, 64), Image.Resampling.BILINEAR)
            pixels = decode(collection.read(number), Decoding(64, 3, FID_CROP, "bilinear"))
            np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_the_recipes_use_the_published_crop():
    for name in ("celeba64", "celeba64_small", "celeba32"):
        assert config_of(load_recipe(f"{ROOT}/configs/{name}.py")).data.crop == FID_CROP


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text.replace("\n", "\r\n") + "\r\n",
        lambda text: "\n" + text.replace(",", ";"),
        lambda text: "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.split("\n") if line),
        lambda text: text.replace(".jpg", "").replace(",", "\t"),
        lambda text: text.replace(".jpg", ".JPG") + " \n,,\n",
    ],
    ids=["Windows", "semicolons", "quoted", "tabs", "empty rows"],
)
def test_lists_that_a_spreadsheet_saved_are_read(official, tmp_path, change):
    path = rearranged(official, tmp_path, "kaggle")
    for file in path.glob("*.csv"):
        file.write_text(change(file.read_text()))
    expected, found = (open_celeba(data(path=str(place), split="valid")) for place in (official, path))
    assert [Path(name).name for name in found.names] == [Path(name).name for name in expected.names]
    assert found.annotations.attribute_names == ATTRIBUTES
    np.testing.assert_array_equal(found.annotations.attributes, expected.annotations.attributes)


def test_missing_and_damaged_lists_are_refused(official, tmp_path):
    path = rearranged(official, tmp_path, "beside")
    attributes, partition = path / "list_attr_celeba.txt", path / "list_eval_partition.txt"
    whole = attributes.read_text(), partition.read_text()
    for file, text, words in [
        (partition, whole[1].replace("000003.jpg 0\n", ""), r"has no row for 1 of 40 images \(.*000003.jpg"),
        (partition, whole[1].replace(" 1\n", " 7\n"), r"expected 0, 1 or 2 for each image"),
        (partition, "<html>the quota is exceeded</html>", r"is not in CelebA's format .*; download it again"),
        (partition, "", r"is not in CelebA's format"),
        (attributes, whole[0][: len(whole[0]) // 2], r"(is not in CelebA's format|has no row for \d+ of)"),
        (attributes, whole[0].replace("-1", "no"), r"is not in CelebA's format"),
    ]:
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            open_celeba(data(path=str(path)))
        attributes.write_text(whole[0])
        partition.write_text(whole[1])
    attributes.unlink()
    assert open_celeba(data(path=str(path))).annotations.attribute_names == ()
    partition.unlink()
    assert len(open_celeba(data(path=str(path), split="all")).names) == 40
    with pytest.raises(UserError, match=r"has no list_eval_partition.txt, which lists the splits"):
        open_celeba(data(path=str(path)))
    (path / "img_align_celeba.zip").unlink()
    with pytest.raises(UserError, match=r"contains no img_align_celeba.zip"):
        open_celeba(data(path=str(path)))
