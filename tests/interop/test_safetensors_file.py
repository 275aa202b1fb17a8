"""A model survives export to one file and import; other files are refused."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ddpm_jax import UserError, load_run
from ddpm_jax.config.sections import Data
from ddpm_jax.data.sources.digits import load_digits
from ddpm_jax.interop import safetensors_file
from ddpm_jax.interop.runs import refuse_contradictions
from ddpm_jax.interop.safetensors_file import find_file, read_file, write_file
from tests.end_to_end.commands import assert_same_bits
from tests.interop.toy import config, random_params, random_run, script


def test_raw_and_ema_parameters_survive_export_and_import_exactly(tmp_path):
    settings, params, ema = random_run(tmp_path / "run", names=["u", "v"], model={"attributes": 2})
    done = script("scripts/export_safetensors.py", tmp_path / "run", tmp_path / "model.safetensors")
    assert done.returncode == 0, done.stderr
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata()["format"] == "ddpm_jax"
        np.testing.assert_array_equal(file.get_tensor("ema.conv_in.kernel"), ema["conv_in"]["kernel"])
    done = script(
        "scripts/import_safetensors.py", tmp_path / "model.safetensors", tmp_path / "again", "--config.sample.steps=4"
    )
    assert done.returncode == 0, done.stderr
    again, raw = load_run(tmp_path / "again"), load_run(tmp_path / "again", ema=False)
    assert_same_bits(again.params, ema)
    assert_same_bits(raw.params, params)
    assert again.config.sample.steps == 4 and again.config.model == settings.model
    assert again.sample(2, label="v").shape == (2, 8, 8, 1)
    done = script("scripts/export_safetensors.py", tmp_path / "run", tmp_path / "model.safetensors")
    assert done.returncode == 2 and "exists; choose another name" in done.stderr
    flag = "--config.diffusion.steps=9"
    done = script("scripts/import_safetensors.py", tmp_path / "model.safetensors", tmp_path / "other", flag)
    assert done.returncode == 2 and "diffusion.steps is 8 in the imported model" in done.stderr


def test_a_file_of_ema_parameters_is_smaller_and_imported_as_both_sets(tmp_path):
    _, _, ema = random_run(tmp_path / "run")
    for name, flags in ("both", ()), ("ema", ("--ema-only",)):
        done = script("scripts/export_safetensors.py", tmp_path / "run", tmp_path / f"{name}.safetensors", *flags)
        assert done.returncode == 0, done.stderr
    sizes = {path.stem: path.stat().st_size for path in tmp_path.glob("*.safetensors")}
    assert sizes["ema"] < 0.7 * sizes["both"]
    done = script("scripts/import_safetensors.py", tmp_path / "ema.safetensors", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert_same_bits(load_run(tmp_path / "again").params, ema)
    assert_same_bits(load_run(tmp_path / "again", ema=False).params, ema)


def nearest_classes(images, digits):
    """The class of most of the five digits that are nearest to each image, whatever its contrast."""
    mine, real = (each.reshape(len(each), -1).astype(float) for each in (images, digits.decoded))
    mine, real = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (mine, real))
    nearest = np.argsort(-mine @ real.T, axis=1)[:, :5]
    return np.array([np.bincount(digits.annotations.classes[row], minlength=10).argmax() for row in nearest])


@pytest.mark.parametrize(
    ("name", "sampler", "steps"), [("digits", "ddim", 10), ("digits-consistency", "consistency", 2)]
)
def test_the_pretrained_models_generate_digits(name, sampler, steps):
    run, digits = load_run(f"pretrained:{name}"), load_digits(Data(source="digits", image_size=8, channels=1))
    assert run.names == tuple("0123456789") and find_file(f"pretrained:{name}").stat().st_size < 1.5e6
    images = run.sample(60, sampler=sampler, steps=steps)
    assert np.mean(nearest_classes(images, digits) == np.arange(60) % 10) > 0.8


def test_the_pretrained_mnist_resembles_the_digits_of_the_package():
    """Of MNIST's own images, shrunk alike, six in ten have neighbours of their class; by chance, one in ten."""
    run, digits = load_run("pretrained:mnist"), load_digits(Data(source="digits", image_size=8, channels=1))
    assert run.names == tuple("0123456789") and find_file("pretrained:mnist").stat().st_size < 3e6
    assert run.config.data.path == "mnist.npz"
    drawn = run.sample(60, sampler="dpm_solver", steps=8)[:, 4:24, 4:24, 0]
    small = np.stack([Image.fromarray(image).resize((8, 8), Image.Resampling.BOX) for image in drawn])
    assert np.mean(nearest_classes(small, digits) == np.arange(60) % 10) > 0.35


def test_only_pretrained_models_of_the_package_can_be_loaded_by_name(tmp_path):
    with pytest.raises(UserError, match="pretrained:digit does not come with the package; did you mean digits?"):
        load_run("pretrained:digit")
    for asked in {"ema": False}, {"step": 3}:
        with pytest.raises(UserError, match="holds only the EMA parameters of step 3000"):
            load_run("pretrained:digits", **asked)
    done = script("main.py", "--mode=sample", "--workdir=pretrained:digits")
    assert done.returncode == 2 and "scripts/import_safetensors.py pretrained:digits runs/imported" in done.stderr
    done = script("main.py", "--mode=sample", "--workdir=pretrained:digit")
    assert done.returncode == 2 and "did you mean digits?" in done.stderr
    done = script("scripts/import_safetensors.py", "pretrained:digits", tmp_path / "run")
    assert done.returncode == 0 and load_run(tmp_path / "run").names == tuple("0123456789")


def test_an_image_to_image_model_keeps_its_condition_and_is_loaded_by_name(tmp_path, monkeypatch):
    settings = config(model={"condition": "low_resolution"}, degradation={"factor": 2, "noise": 4})
    params = random_params(settings)
    write_file(tmp_path / "enlarge.safetensors", settings, None, params, names=[], step=3)
    monkeypatch.setattr(safetensors_file, "FOLDER", tmp_path)
    run = load_run("pretrained:enlarge")
    assert run.config == settings
    assert_same_bits(run.params, params)
    with pytest.raises(UserError, match="degradation.factor is 2 in the imported model and cannot be set to 4"):
        refuse_contradictions(
            read_file(tmp_path / "enlarge.safetensors").fields, config(model={"condition": "low_resolution"})
        )


def test_other_files_are_refused(tmp_path):
    settings = config()
    params = random_params(settings)
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="is not a file; expected a .safetensors file"):
        read_file(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_file(path)
    save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(UserError, match="is not of format 'ddpm_jax', got None"):
        read_file(path)
    path.unlink()
    write_file(path, settings, {"conv_in": params["conv_in"]}, params, names=[], step=3)
    with pytest.raises(UserError, match="missing: params.conv_out.bias, params.conv_out.kernel, "):
        read_file(path)
    for metadata, words in (
        ({"config": "{"}, "is not valid JSON"),
        ({"config": '{"model": {"chanels": 3}}'}, "model.chanels is not a field"),
        ({"config": '{"seed": ' + "9" * 5000 + "}"}, "is not valid JSON"),
    ):
        save_file({"a": np.zeros(2, np.float32)}, path, {"format": "ddpm_jax", **metadata})
        with pytest.raises(UserError, match=words):
            read_file(path)
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="is a pickle"):
        read_file(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="is a folder; expected a .safetensors file"):
        read_file(tmp_path)


def test_names_that_do_not_match_the_labels_are_refused(tmp_path):
    settings = config(model={"classes": 3})
    params, path = random_params(settings), tmp_path / "model.safetensors"
    for names, words in (
        (list("abcd"), "names 4 labels; expected 3"),
        (["a", "b", "\ud800"], "surrogates not allowed"),
    ):
        write_file(path, settings, params, params, names=[], step=3)
        file = load_file(path)
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata()
        save_file(file, path, metadata | {"labels": json.dumps(names)})
        with pytest.raises(UserError, match=words):
            read_file(path)
        path.unlink()
    with pytest.raises(UserError, match="should end in .safetensors"):
        write_file(tmp_path / "model.bin", settings, params, params, names=[], step=3)
