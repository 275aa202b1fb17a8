import errno
import json
import os
from pathlib import Path

import pytest

from ddpm_jax.commands.output_folder import create_output_folder, read_only_explained
from ddpm_jax.config import config_of
from ddpm_jax.errors import UserError


def test_two_runs_of_one_name_cannot_replace_each_others_results(tmp_path):
    a, b, out = tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "out"
    config = config_of({"sample": {"out": str(out)}})
    for _ in range(2):
        assert create_output_folder(config, a, str(a)) == out
    assert json.loads((out / "run.json").read_text()) == {"workdir": str(a)}
    with pytest.raises(UserError, match=f"sample.out={out} holds results of {a}, not of {b}; choose another folder"):
        create_output_folder(config, b, str(b))
    (out / "run.json").write_text("")
    with pytest.raises(UserError, match=r"run.json cannot be read .*; remove it if the folder is of"):
        create_output_folder(config, a, str(a))


def test_a_run_at_a_url_is_known_by_it_and_not_by_its_copy(tmp_path):
    config = config_of({"sample": {"out": str(tmp_path / "out")}})
    for copy in ("1", "2"):
        assert create_output_folder(config, tmp_path / copy, "gs://bucket/x") == tmp_path / "out"


def test_the_workdir_of_another_run_is_not_for_results(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    config = config_of({"sample": {"out": str(tmp_path / "b")}})
    assert create_output_folder(config, tmp_path / "b", "b") == tmp_path / "b"
    with pytest.raises(UserError, match="is the workdir of another run; choose another folder"):
        create_output_folder(config, tmp_path / "a", "a")
    assert not (tmp_path / "b" / "run.json").exists()


def test_a_denied_read_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    for name, expected in (("checkpoints", PermissionError), ("samples", UserError)):
        with pytest.raises(expected), read_only_explained(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / name))
