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
        assert create_output_folder(config, a) == out
    assert json.loads((out / "run.json").read_text()) == {"workdir": str(a)}
    with pytest.raises(UserError, match=f"sample.out={out} holds results of {a}, not of {b}; choose another folder"):
        create_output_folder(config, b)
    (out / "run.json").write_text("")
    with pytest.raises(UserError, match=r"run.json cannot be read .*; remove it if the folder is of"):
        create_output_folder(config, a)


def test_results_of_a_run_at_a_url_may_be_anywhere(tmp_path, bucket):
    for out in (tmp_path / "out", bucket / "out"):
        config = config_of({"sample": {"out": str(out)}})
        for _ in range(2):
            assert create_output_folder(config, bucket / "run") == out
        assert json.loads((out / "run.json").read_text()) == {"workdir": f"{bucket}/run"}
        with pytest.raises(UserError, match="holds results of gs://bucket/"):
            create_output_folder(config, tmp_path)


def test_the_workdir_of_another_run_is_not_for_results(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    config = config_of({"sample": {"out": str(tmp_path / "b")}})
    assert create_output_folder(config, tmp_path / "b") == tmp_path / "b"
    with pytest.raises(UserError, match="is the workdir of another run; choose another folder"):
        create_output_folder(config, tmp_path / "a")
    assert not (tmp_path / "b" / "run.json").exists()


def test_a_denied_read_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    for name, expected in (("checkpoints", PermissionError), ("samples", UserError)):
        with pytest.raises(expected), read_only_explained(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / name))
