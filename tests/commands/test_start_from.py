"""train.start_from: a new run begins with the parameters of another model."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax.builders import param_shapes
from ddpm_jax.commands.start_from import first_params
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.interop.diffusers_folder import write_folder
from ddpm_jax.interop.safetensors_file import write_file
from ddpm_jax.interop.tensors import by_path
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.workdir import write_config
from tests.end_to_end.commands import final_state
from tests.interop.toy import config, random_params, random_run

QUIET = {"validate_every": 0, "preview_every": 0}


def starting_from(place, **sections):
    return config(train={"start_from": str(place), "steps": 1}, log=QUIET, **sections)


def taken(settings, names=()):
    return first_params(settings, Path("new"), names, data_mesh())


def assert_equal(found, tree):
    expected = by_path(tree)
    assert found.keys() == expected.keys()
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.fixture
def source(tmp_path):
    """A run, and its EMA parameters."""
    _, _, ema = random_run(tmp_path / "source")
    return tmp_path / "source", ema


def test_every_kind_of_model_gives_its_ema(tmp_path, source):
    workdir, ema = source
    assert_equal(taken(starting_from(workdir)), ema)
    write_file(tmp_path / "model.safetensors", config(), random_params(config(), 5), ema, names=[], step=3)
    assert_equal(taken(starting_from(tmp_path / "model.safetensors")), ema)
    write_folder(config(), ema, tmp_path / "diffusers", names=[], card="A card.", grid=None)
    assert_equal(taken(starting_from(tmp_path / "diffusers")), ema)


def test_training_starts_from_the_model_and_does_not_need_it_to_resume(tmp_path, source):
    workdir, ema = source
    settings = starting_from(workdir, optimizer={"learning_rate": 1e-30})
    train(settings, tmp_path / "run")
    state = final_state(tmp_path / "run")
    assert_equal(by_path(state.params), ema)
    jax.tree.map(lambda found, given: np.testing.assert_allclose(found, given, rtol=1e-6), state.ema, ema)
    shutil.rmtree(workdir)
    train(dataclasses.replace(settings, train=dataclasses.replace(settings.train, steps=2)), tmp_path / "run")
    assert final_state(tmp_path / "run").step == 2


def test_what_does_not_fit_is_initialised_anew_and_listed(source, package_log):
    workdir, ema = source
    colour = starting_from(workdir, data={"channels": 3, "source": "synthetic"})
    found, shapes = taken(colour), by_path(param_shapes(colour))
    anew = {"conv_in.kernel", "conv_out.kernel", "conv_out.bias"}
    assert shapes.keys() - found.keys() == anew
    assert all(found[path].shape == shapes[path].shape for path in found)
    assert "Starting from" in package_log.text and all(name in package_log.text for name in anew)


def test_parameters_of_labels_are_kept_only_for_the_same_labels(tmp_path, package_log):
    random_run(tmp_path / "source", ("cat", "dog"), model={"classes": 2})
    settings = starting_from(tmp_path / "source", model={"classes": 2})
    assert any(path.startswith("labels.") for path in taken(settings, ("cat", "dog")))
    assert not any(path.startswith("labels.") for path in taken(settings, ("cat", "fox")))
    assert "Initialised anew, since they do not fit: labels." in package_log.text
    taken(starting_from(tmp_path / "source"))
    assert "Not used, since this network has none: labels." in package_log.text


def test_other_meanings_of_the_output_are_pointed_out(source, package_log):
    workdir, _ = source
    taken(starting_from(workdir, diffusion={"prediction": "eps"}))
    assert "diffusion.prediction is 'eps' here, and was 'v' in" in package_log.text
    taken(starting_from(workdir, diffusion={"schedule": "cosine"}))
    assert "diffusion.schedule is 'cosine' here, and was 'linear' in" in package_log.text


def test_models_that_cannot_be_used_are_refused_before_the_workdir_exists(tmp_path, source):
    workdir, _ = source
    (tmp_path / "empty").mkdir()
    write_config(tmp_path / "empty", config(), ())
    cases = {
        tmp_path / "nothing": "holds no run",
        tmp_path / "empty": "holds no checkpoint yet",
        tmp_path / "no.safetensors": "is not a file",
        "pretrained:digit": "did you mean digits",
    }
    for place, message in cases.items():
        with pytest.raises(UserError, match=rf"(?s)^train.start_from=.*{message}") as error:
            train(starting_from(place), tmp_path / "run")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
    wider = starting_from(workdir, model={"channels": 16})
    with pytest.raises(UserError, match=r"are 8 and \(1, 2\), here they are 16 and \(1, 2\); give a model"):
        train(wider, tmp_path / "run")
    with pytest.raises(UserError, match="is a URL; copy it to this machine"):
        train(starting_from("gs://bucket/model.safetensors"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="has no effect: .* holds imported parameters; leave it out"):
        train(starting_from(workdir), workdir)
