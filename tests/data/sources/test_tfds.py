"""Prepared sets are found by name, and missing ones are prepared in a separate process."""

import shutil
import sys

import pytest

from ddpm_jax.data.sources import tfds
from ddpm_jax.data.sources.tfds import data_dir, find_prepared, open_tfds
from ddpm_jax.errors import UserError
from tests.data.pictures import data
from tests.data.shards import digits, write_set


def options(tmp_path, **others):
    return data(cache=str(tmp_path / "cache"), channels=1, **others)


def test_a_prepared_set_is_found_by_name_configuration_and_version(tmp_path, draw, monkeypatch):
    pytest.importorskip("grain", reason="Grain is an extra (requirements-grain.txt)")
    folder = write_set(tmp_path / "sets", "mnist", {"train": digits(draw, 11), "test": digits(draw, 4)})
    place = folder.parents[1]
    shutil.copytree(folder, folder.parent / "0.9.10")
    shutil.copytree(folder, folder.parent / "incomplete.X9_9.9.9")
    shutil.copytree(folder, place / "other" / "small" / "1.2.0")
    (place / "other" / ".config").mkdir()
    (place / "other" / ".config" / "metadata.json").write_text('{"default_config_name": "small"}')
    assert find_prepared(place, "mnist") == folder
    assert find_prepared(place, "mnist:0.9.10") == folder.parent / "0.9.10"
    assert find_prepared(place, "other") == find_prepared(place, "other/small") == place / "other" / "small" / "1.2.0"
    assert find_prepared(place, "mnist:3.0.0") is find_prepared(place, "cifar10") is None
    assert len(open_tfds(options(tmp_path, path=str(place), name="mnist")).names) == 11
    monkeypatch.setenv("TFDS_DATA_DIR", str(place))
    assert len(open_tfds(options(tmp_path, name="mnist", split="test")).names) == 4
    with pytest.raises(UserError, match=r"'../mnist' is not the name of a set"):
        find_prepared(place, "../mnist")


def test_without_tensorflow_the_error_names_the_ways_to_prepare_a_set(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"tensorflow is not installed to prepare it; pip .*python -m ddpm_jax.data.sources.prepare_tfds m",
    ):
        open_tfds(options(tmp_path, path=str(tmp_path), name="mnist"))
    with pytest.raises(UserError, match=r"data.name is not set"):
        open_tfds(options(tmp_path))


def test_the_reason_for_a_failed_preparation_is_the_last_line_of_its_output(tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text("print('progress'); print('no network'); raise SystemExit(2)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(tfds, "PREPARE", "failing")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(UserError, match="^data.name='mnist': no network$"):
        open_tfds(options(tmp_path, path=str(tmp_path), name="mnist"))


def test_without_a_home_folder_the_place_of_the_sets_must_be_given(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # No user of the system.
    with pytest.raises(UserError, match="data.path is not set, and there is no home folder"):
        data_dir(None)
