"""An imported model becomes a run that samples and trains, in a folder that nothing else used."""

import json
import shlex
import sys

import jax
import numpy as np
import pytest

from ddpm_jax import UserError, load_run
from ddpm_jax.commands import cli
from ddpm_jax.interop.diffusers_folder import write_folder
from ddpm_jax.interop.runs import new_workdir, numbered, refuse_contradictions, start_run
from scripts import export_safetensors, import_safetensors
from tests.end_to_end.commands import ROOT
from tests.interop.toy import config, imported, random_params, random_run


def test_only_fields_that_the_parameters_do_not_determine_may_change():
    refuse_contradictions({"sample.steps": 5, "model.dropout": 0.1}, config())
    with pytest.raises(UserError, match="model.channels is 64 in the imported model and cannot be set to 8"):
        refuse_contradictions({"model.channels": 64}, config())


def test_a_run_starts_without_the_fields_of_single_commands(tmp_path):
    with pytest.raises(UserError, match="^sample.guide=x is for --mode=sample and --mode=evaluate; leave it out"):
        start_run(config(sample={"guide": "x", "guidance": 2.0}), tmp_path / "run", {}, ())
    assert not list(tmp_path.iterdir())


def test_classes_without_names_are_numbered():
    assert numbered(config(model={"classes": 3})) == ["0", "1", "2"] and numbered(config()) == []


def test_a_new_workdir_is_local_and_empty(tmp_path):
    assert new_workdir(str(tmp_path / "new")) == tmp_path / "new"
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path, "is not empty"), ("gs://bucket/run", "is a URL; write the run to a local folder")):
        with pytest.raises(UserError, match=words):
            new_workdir(str(path))


def test_a_run_of_attributes_records_its_format_and_is_refused_without_it(tmp_path):
    random_run(tmp_path / "run", names=["u", "v"], model={"attributes": 2})
    copies = [tmp_path / "run" / "config.json", tmp_path / "run" / "checkpoints" / "0" / "config" / "metadata"]
    trees = [json.loads(path.read_text()) for path in copies]
    assert trees[0] == trees[1] and trees[0]["format"] == 2
    assert load_run(tmp_path / "run").sample(1, label="v", steps=2).shape == (1, 8, 8, 1)
    del trees[0]["format"]
    copies[0].write_text(json.dumps(trees[0]))
    with pytest.raises(UserError, match=r"config.json is of a model that was trained with attributes coded as 1/0"):
        load_run(tmp_path / "run")


def test_a_folder_cannot_be_created_inside_a_file(folder):
    settings = config()
    with pytest.raises(UserError, match="a cannot be created"):
        write_folder(settings, random_params(settings), folder / "README.md" / "a", names=[], card="", grid=None)


def test_a_folder_that_is_not_empty_is_left_unchanged(folder):
    settings = config()
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        write_folder(settings, random_params(settings), folder, names=[], card="", grid=None)
    assert sorted(folder.rglob("*")) == before


def test_leftovers_of_a_killed_export_are_removed(tmp_path):
    settings = config(model={"classes": 3})
    left = tmp_path / ".model.partial"
    (left / "unet").mkdir(parents=True)
    (left / "model_index.json").write_text("{}")
    write_folder(settings, random_params(settings), tmp_path / "model", names=list("abc"), card="", grid=None)
    assert not left.exists() and not (tmp_path / "model" / "unet").exists()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "model"]
    assert imported(tmp_path / "model")[0].model.classes == 3


def test_an_imported_run_trains_with_new_data_but_keeps_the_model(tmp_path, capsys):
    workdir = tmp_path / "run"
    random_run(workdir, log={"preview_every": 0, "validate_every": 0})
    command = ["main.py", f"--workdir={workdir}", "--config.train.steps=2", "--config.data.holdout=0.1"]
    assert cli.main([*command, "--config.diffusion.prediction=eps"]) == 2
    assert "diffusion.prediction was 'v', now 'eps'" in capsys.readouterr().err
    assert cli.main([*command, "--config.optimizer.clip=0.0"]) == 2
    assert cli.main([*command, "--config.optimizer.learning_rate=1e-3"]) == 0
    assert load_run(workdir).step == 2 and load_run(workdir).config.data.holdout == 0.1
    assert cli.main([*command, "--config.optimizer.learning_rate=1e-2"]) == 2  # Training has begun.


def test_a_run_that_has_trained_keeps_its_configuration_and_names_commands_that_train_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = tmp_path / "a run #1"
    random_run(workdir, log={"preview_every": 0, "validate_every": 0})
    train = ["main.py", f"--workdir={workdir}", "--config.train.steps=2"]
    assert cli.main(train) == 0
    (workdir / "data.json").unlink()  # Its checkpoints suffice.
    capsys.readouterr()
    assert cli.main([*train, "--config.optimizer.learning_rate=1e-05", "--config.optimizer.clip=0"]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "holds a run with another configuration" in message
    export, start, following = (shlex.split(part) for part in message.partition("new workdir: ")[2].split(" && "))
    trained = load_run(workdir, ema=False).params
    for (_, name, *argv), module in ((export, export_safetensors), (start, import_safetensors)):
        assert (ROOT / name).samefile(str(module.__file__))
        monkeypatch.setattr(sys, "argv", [name, *argv])
        module.main()
    new = load_run(following[-1].removeprefix("--workdir="), ema=False)
    jax.tree.map(np.testing.assert_array_equal, new.params, trained)
    assert (new.step, new.config.optimizer.learning_rate, new.config.optimizer.clip) == (0, 1e-5, 0.0)
    assert cli.main([*train, "--config.model.channels=16"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("(model.channels was 8, now 16); choose another --workdir.")


def test_another_sampler_resets_the_settings_of_an_imported_ddim(tmp_path):
    workdir = tmp_path / "run"
    random_run(workdir, sample={"sampler": "ddim", "keep_eps": True, "count": 2, "strip": 0, "gif": 0})
    sampling = ["main.py", "--mode=sample", f"--workdir={workdir}", "--config.sample.sampler=dpm_solver"]
    assert cli.main([*sampling, "--config.sample.steps=3"]) == 0
