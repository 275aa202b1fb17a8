"""Which files of a folder or zip are images to train on, and that none is left out without a word."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.commands.output_folder import create_output_folder
from ddpm_jax.config import Config, config_of
from ddpm_jax.data.decode import FORMATS
from ddpm_jax.data.open import open_dataset
from ddpm_jax.data.sources.files import find_images, summary
from ddpm_jax.data.sources.folder import open_folder
from ddpm_jax.data.sources.tree import open_tree
from ddpm_jax.errors import UserError
from ddpm_jax.generation.output import FILES, FOLDERS, PICTURES
from ddpm_jax.workdir import write_config
from tests.data.pictures import config, data, encoded, noise, write, zipped

PIXELS = np.full((9, 9, 3), 7, np.uint8)
EITHER = pytest.mark.parametrize("pack", [lambda folder: folder, zipped], ids=["folder", "zip"])


def write_run(workdir: Path) -> None:
    """Writes the files that training, sampling and a preparation leave in a workdir."""
    workdir.mkdir(parents=True)
    write_config(workdir, Config(), ())
    write(workdir / "checkpoints" / "1" / "config" / "metadata", b"{}")
    write_samples(workdir / "samples" / "1-ddpm")
    write(workdir / "evaluation" / "1-steps.png", encoded(PIXELS))


def with_out(folder: Path) -> Config:
    return config_of({"sample": {"out": str(folder)}})


def write_samples(folder: Path) -> None:
    for name in PICTURES:
        write(folder / name, encoded(PIXELS))
    for name in FOLDERS:
        write(folder / name / "000000.png", encoded(PIXELS))
    for name in FILES - PICTURES - FOLDERS:
        write(folder / name, b"")


@EITHER
def test_images_have_the_suffix_of_a_format_or_its_first_bytes(tmp_path, draw, pack):
    photos = tmp_path / "photos"
    for kind, suffixes in FORMATS.items():
        for suffix in suffixes:
            write(photos / f"{kind}{suffix.upper()}", encoded(noise(draw), kind))
        if kind not in ("BMP", "PPM"):
            write(photos / kind, encoded(noise(draw), kind))
    count = len(list(photos.iterdir()))
    others = {"notes.txt": b"BM", "README": b"BM", "clip.mov": b"", "a.heic": b"", "b.HEIC": b"", "raw.dng": b"II*\0"}
    for name, content in {**others, "labels.csv": b""}.items():
        write(photos / name, content)
    images, left_out = find_images(open_tree(pack(photos)))
    assert len(images) == count and not set(images) & set(others)
    assert sorted(name for names in left_out.values() for name in names) == sorted(others)
    assert left_out[".heic"] == ["a.heic", "b.HEIC"] and left_out["without suffix"] == ["README"]
    assert summary(left_out).startswith("2 .heic, 1 ")


@EITHER
def test_hidden_files_and_folders_are_passed_over_and_counted(photos, pack):
    for name in (".hidden/1.png", "cats/._01.png", "__MACOSX/cats/1.png", "cats/.2.png"):
        write(photos / name, encoded(PIXELS))
    images, left_out = find_images(open_tree(pack(photos)))
    assert len(images) == 12 and len(left_out["hidden"]) == 4


@EITHER
def test_what_this_program_wrote_is_passed_over_and_named(photos, pack, package_log):
    before = open_folder(data(path=str(pack(photos))))
    write_run(photos / "runs" / "x")
    write_samples(photos / "kept" / "samples of x")
    write(photos / "cache" / "ab-v2" / "numbers.npy", b"")
    write(photos / "cache" / "ab-v2" / "about.json", b"{}")
    write(photos / "cache" / "ab-v2" / "contact-sheet.png", encoded(PIXELS))
    package_log.clear()
    after = open_folder(data(path=str(pack(photos))))
    assert list(after.names) == list(before.names) and after.annotations.class_names == ("cats", "dogs")
    assert "left out 9 in runs/x (a run), 8 in kept/samples of x (samples), 1 in cache/ab-v2 (cached images)" in (
        package_log.text
    )


def test_a_workdir_may_be_the_folder_of_the_images_itself(photos):
    before = open_folder(data(path=str(photos)))
    write_run(photos / "run")
    for path in (photos / "run").iterdir():
        path.rename(photos / path.name)
    (photos / "run").rmdir()
    write_samples(photos / "samples" / "2-ddim")
    write(photos / "events.out.tfevents.1.host.0", b"")
    after = open_folder(data(path=str(photos)))
    assert list(after.names) == list(before.names)
    # Each file is counted once.
    counts = {reason: len(names) for reason, names in after.left_out.items()}
    assert counts == {"in samples (a run)": 16, "in evaluation (a run)": 1}


@EITHER
def test_a_run_that_starts_below_its_images_does_not_count_its_own_files(photos, pack):
    for name in ("run/train.log", "run/events.out.tfevents.1.host.0", "sample.log", "mine.log"):
        write(photos / name, b"")
    assert find_images(open_tree(pack(photos)))[1] == {".log": ["mine.log"]}


@EITHER
def test_results_outside_of_the_workdir_are_passed_over_too(photos, pack):
    for folder in ("out", "."):
        create_output_folder(with_out(photos / folder), photos / "run")
        write(photos / folder / "evaluation" / "1-steps.png", encoded(PIXELS))
        write(photos / folder / "samples" / "1" / "images" / "000000.png", encoded(PIXELS))
    images, left_out = find_images(open_tree(pack(photos)))
    assert (
        len(images) == 12
        and sum(map(len, left_out.values())) == 4
        and set(left_out)
        == {
            "in out (results of a run)",
            "in evaluation (results of a run)",
            "in samples (results of a run)",
        }
    )


@EITHER
def test_samples_that_were_chosen_as_data_are_read_without_their_pictures(tmp_path, pack):
    write_samples(tmp_path / "samples" / "a")
    chosen = open_folder(data(path=str(pack(tmp_path / "samples" / "a"))))
    assert list(chosen.names) == ["images/000000.png"]
    assert len(open_folder(data(path=str(pack(tmp_path / "samples")))).names) == 8


@EITHER
def test_another_programs_files_of_the_same_names_hide_no_images(photos, pack):
    write(photos / "cats" / "config.json", json.dumps({"model": "camera"}).encode())
    write(photos / "dogs" / "config.json", b"[" * 100_000)
    write(photos / "dogs" / "grid.png", encoded(PIXELS))
    assert len(open_folder(data(path=str(pack(photos)))).names) == 13


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    for name in ("a.heic", "b.heic", "c.txt"):
        write(tmp_path / "photos" / name, b"")
    with pytest.raises(UserError, match=r"contains no images, only 2 .heic, 1 .txt files; expected PNG, .*TIFF"):
        open_folder(data(path=str(tmp_path / "photos")))


def test_a_dataset_lists_what_was_left_out_unreadable_images_included(photos, monkeypatch):
    monkeypatch.setattr("ddpm_jax.data.prepare.MAX_UNREADABLE", 0.2)
    write(photos / "cats" / "00.png", b"no image")
    write(photos / "cats" / "film.mp4", b"")
    left_out = open_dataset(config(path=str(photos))).left_out
    assert left_out == {".mp4": ["cats/film.mp4"], "unreadable": ["cats/00.png"]}
    assert open_dataset(config(path=str(photos), stream=True)).left_out == {".mp4": ["cats/film.mp4"]}


def test_names_from_disk_neither_end_a_line_of_the_log_nor_command_the_terminal(photos, package_log):
    (photos / os.fsdecode(b"x.\xff\xfe\nERROR fake \x1b[31mline")).write_bytes(b"")
    write_samples(photos / "a\nb")
    open_folder(data(path=str(photos)))
    (line,) = [line for line in package_log.text.splitlines() if "left out" in line]
    assert "1 .\\udcff\\udcfe\\nerror fake \\x1b[31mline" in line and "8 in a\\nb (samples)" in line


def test_thousands_of_sample_folders_take_no_longer_than_their_files(tmp_path):
    tree = open_tree(tmp_path)
    names = ["own.png"]
    for i in range(1500):
        names += [f"s{i}/{name}" for name in ("samples.npz", "grid.png", *(f"images/{j}.png" for j in range(20)))]
    object.__setattr__(tree, "names", sorted(names))
    start = time.process_time()
    images, left_out = find_images(tree)
    assert images == ["own.png"] and left_out["in s7 (samples)"][-1] == "s7/images/9.png"
    assert time.process_time() - start < 1.5
