"""Which files of a folder are shards, and to which split each belongs."""

import pytest

from ddpm_jax.data.open import kind_of
from ddpm_jax.data.sources.shards import find_shards
from ddpm_jax.errors import UserError
from tests.data.pictures import data, write


def names(folder, split=None, suffix=".parquet") -> list[str]:
    return [str(path.relative_to(folder)) for path in find_shards(str(folder), split, suffix)]


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001-0f3ac.parquet"),
        ("train/0000.parquet", "val/0000.parquet"),
        ("train/part-0.parquet", "valid/part-0.parquet"),
        ("train.parquet", "val.parquet"),
        ("imagenet_training_07.parquet", "imagenet_val_00.parquet"),
        ("a-train-000000.parquet", "a-valid-000000.parquet"),
        ("train_images-0.parquet", "val_images-0.parquet"),
        ("train_v2.parquet", "val_v2.parquet"),
    ],
)
def test_the_last_split_among_the_words_of_a_name_or_the_folders_counts(tmp_path, train, other):
    for name in (train, other, "extra/notes.txt"):
        write(tmp_path / name, b"")
    assert names(tmp_path) == names(tmp_path, "train") == [train]
    assert names(tmp_path, "val") == [other] and names(tmp_path, "all") == sorted([train, other])
    with pytest.raises(UserError, match=r"data.split='tset' is not in .*expected one of all, train, validation"):
        names(tmp_path, "tset")


def test_shards_without_names_of_splits_belong_together(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i:05d}.parquet", b"")
    assert len(names(tmp_path)) == 3
    with pytest.raises(UserError, match="has no splits"):
        names(tmp_path, "test")
    write(tmp_path / "train-0.parquet", b"")
    assert names(tmp_path) == ["train-0.parquet"] and len(names(tmp_path, "other")) == 3


def test_missing_shards_and_several_sets_are_refused(tmp_path):
    write(tmp_path / "a" / "train-00000-of-00002.parquet", b"")
    with pytest.raises(UserError, match=r"contains 1 of the 2 shards of train, not number 1; copy the others too"):
        names(tmp_path)
    write(tmp_path / "a" / "train-00001-of-00002.parquet", b"")
    assert len(names(tmp_path)) == 2
    write(tmp_path / "b" / "train-00000-of-00002.parquet", b"")
    with pytest.raises(UserError, match=r"contains several sets \(a, b\); give one of these folders"):
        names(tmp_path)
    write(tmp_path / "a" / "train-00000-of-00002-0f3ac.parquet", b"")
    with pytest.raises(
        UserError, match=r"contains a shard twice, as train-00000-of-00002-0f3ac.parquet and train-0000"
    ):
        names(tmp_path / "a")
    for config in ("cropped/train", "full/train"):
        write(tmp_path / "converted" / config / "0000.parquet", b"")
    with pytest.raises(UserError, match=r"contains several sets \(cropped, full\)"):
        names(tmp_path / "converted")
    for place, words in {
        "no": r"no does not exist; give one",
        "a": r"a contains no .tar files",
        None: "is not set",
    }.items():
        with pytest.raises(UserError, match=f"data.path.*{words}"):
            find_shards(place and str(tmp_path / place), None, ".tar")


def test_a_broken_link_is_refused(tmp_path):
    (tmp_path / "a.tar").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a.tar cannot be read; check its link"):
        names(tmp_path, suffix=".tar")


def test_images_beside_shards_win_unless_these_are_numbered(photos):
    write(photos / "embeddings.parquet", b"")
    write(photos / "backup.tar", b"")
    assert kind_of(data(path=str(photos))) == "folder"
    write(photos / "data" / "train-00000-of-00001.parquet", b"")
    assert kind_of(data(path=str(photos))) == "parquet"


def test_tables_beside_tars_are_not_the_images(tmp_path):
    for name in ("00000.tar", "00000.parquet", "00000_stats.json"):
        write(tmp_path / name, b"")
    assert kind_of(data(path=str(tmp_path))) == "webdataset"
