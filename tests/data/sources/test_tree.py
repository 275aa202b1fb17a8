"""Files of folders and zips are read in place, without following bombs, loops, or paths outside."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from ddpm_jax.data.sources.tree import MAX_BYTES, TreeReader, open_tree
from ddpm_jax.errors import UserError
from tests.data.pictures import encoded, write, zipped


def test_a_reader_of_a_zip_can_be_pickled_and_its_stamps_follow_the_content(photos):
    tree = open_tree(zipped(photos))
    reader = TreeReader(tree, tree.names)
    assert pickle.loads(pickle.dumps(reader))(3) == tree.read(tree.names[3])
    assert len({reader.stamp(number) for number in range(12)}) == 12


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "..\\evil.png", "\\evil.png"])
def test_a_zip_with_paths_outside_of_it_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("good.png", encoded(np.zeros((8, 8), np.uint8)))
        archive.writestr(name, encoded(np.zeros((8, 8), np.uint8)))
    with pytest.raises(UserError, match="point outside of it"):
        open_tree(tmp_path / "evil.zip")
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


def test_a_link_to_a_parent_folder_is_not_followed_forever(photos):
    (photos / "cats" / "again").symlink_to(photos)
    assert len(open_tree(photos).names) == 12


def test_a_linked_folder_is_read_under_each_of_its_names(photos):
    (photos / "a first link").symlink_to(photos / "cats")
    (photos / "dogs" / "inner").symlink_to("../cats")
    (photos / "cats" / "back").symlink_to("../dogs")  # Which leads to cats again.
    names = open_tree(photos).names
    count = {
        folder: sum(name.startswith(f"{folder}/") for name in names) for folder in ("a first link", "cats", "dogs")
    }
    assert count == {"a first link": 12, "cats": 12, "dogs": 12}


def test_a_pipe_is_not_read(photos):
    os.mkfifo(photos / "cats" / "pipe.png")
    with pytest.raises(OSError, match="not a regular file"):
        open_tree(photos).read("cats/pipe.png")


def test_a_broken_link_is_an_unreadable_file(photos):
    (photos / "cats" / "gone.png").symlink_to(photos / "nowhere.png")
    tree = open_tree(photos)
    assert tree.stamp("cats/gone.png") and len(tree.names) == 13
    with pytest.raises(OSError, match="No such file"):
        tree.read("cats/gone.png")


def test_damaged_entries_are_unreadable_files(photos):
    path = zipped(photos)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    tree = open_tree(path)
    with pytest.raises(OSError, match="cannot be unpacked"):
        for name in tree.names:
            tree.read(name)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.TGZ", "a.tar.zst", "a.7z", "a.7z.001", "a.rar"])
def test_other_archives_are_to_be_unpacked(tmp_path, name):
    write(tmp_path / name, b"")
    with pytest.raises(UserError, match=f"{name} is an archive that cannot be read in place; unpack it"):
        open_tree(tmp_path / name)
    (tmp_path / "dir.tar").mkdir()
    assert not open_tree(tmp_path / "dir.tar").names


def test_a_truncated_zip_is_refused(photos):
    path = zipped(photos)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="is not a complete zip"):
        open_tree(path)


def test_a_changed_zip_is_opened_again(tmp_path):
    for i, content in enumerate([b"first", b"second"]):
        write(tmp_path / "set" / "1.png", content)
        path = zipped(tmp_path / "set")
        os.utime(path, ns=(i, i))
        assert open_tree(path).read("1.png") == content
