"""Export and import are inverse, and other folders are refused; test_against_diffusers.py compares outputs."""

import json
import runpy
import sys

import jax
import numpy as np
import pytest

from ddpm_jax import UserError, load_run
from ddpm_jax.config import defaults, flatten, override
from ddpm_jax.interop.diffusers_card import condition_flags, model_card
from ddpm_jax.interop.diffusers_folder import fetch_folder, read_folder, write_folder
from tests.end_to_end.commands import ROOT, assert_same_bits
from tests.interop.toy import change, config, imported, random_params, random_run, script

COLOUR = {"channels": 3, "source": "synthetic"}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"data": {"channels": 3, "source": "synthetic"}, "diffusion": {"variance": "learned", "schedule": "cosine"}},
        *({"data": {"channels": channels, "source": "synthetic"}} for channels in (2, 4)),
        {"model": {"resampling": "residual", "scale_shift": True, "head_channels": 4, "norm_eps": 1e-5}},
        {"model": {"attention_resolutions": [], "heads": 2, "frequency_shift": 0, "downsample_padding": 1}},
        {"model": {"classes": 3}, "diffusion": {"schedule": "sigmoid", "prediction": "v", "zero_terminal_snr": True}},
        {"model": {"classes": 3}, "train": {"label_dropout": 0.0}},
        {"sample": {"threshold": "dynamic", "percentile": 0.9}, "diffusion": {"schedule": "quadratic", "steps": 50}},
        {"model": {"condition": "low_resolution"}, "degradation": {"factor": 2, "filter": "box"}},
        {"data": COLOUR, "model": {"condition": "grey"}, "train": {"condition_dropout": 0.2}},
        {"data": COLOUR, "model": {"condition": "low_resolution"}, "diffusion": {"variance": "learned"}},
        {"data": COLOUR, "model": {"condition": "mask", "classes": 3}},
    ],
)
def test_export_and_import_are_exact_inverses(tmp_path, sections):
    settings = config(**sections)
    params = random_params(settings)
    write_folder(settings, params, tmp_path / "model", names=["a", "b", "c"], card="", grid=None)
    recipe = override(defaults(), condition_flags(settings))
    again, params_again = imported(tmp_path / "model", recipe)
    assert_same_bits(params_again, params)
    found, given = flatten(again), flatten(settings)
    determined = [*read_folder(tmp_path / "model", settings.model.condition).fields, "train.condition_dropout"]
    determined += [name for name in given if name.startswith("degradation.")]
    changed = {name for name in determined if found[name] != given[name] and name != "model.head_channels"}
    # Heads of equal width can be given by their number or by their width.
    assert changed <= {"model.heads"}, {name: (found[name], given[name]) for name in changed}


def test_the_augmentation_layer_is_left_out_by_an_export_and_begins_at_zero_after_an_import(tmp_path, package_log):
    settings, plain = config(data={"augment": 0.12}), config()
    params = random_params(settings)
    write_folder(settings, params, tmp_path / "model", names=[], card="", grid=None)
    lines = [record.getMessage() for record in package_log.records]
    assert lines == ["Left out the layer of data.augment=0.12: sampling multiplies it by zeros"]
    found = read_folder(tmp_path / "model")
    layer = params.pop("augmentation")
    assert_same_bits(found.params(plain), params)
    zeros = jax.tree.map(np.zeros_like, layer)
    assert_same_bits(found.params(settings), {**params, "augmentation": zeros})


def test_pickles_are_refused_with_a_command_to_convert_them(folder):
    (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(UserError, match=r"is a pickle, which can run code .* weights_only=True"):
        read_folder(folder)
    with pytest.raises(UserError, match="is a pickle"):
        fetch_folder("some/model.ckpt")


def test_other_folders_than_models_are_refused(tmp_path, folder, monkeypatch):
    with pytest.raises(UserError, match="config.json is missing; expected a folder that diffusers' save_pretrained"):
        read_folder(tmp_path)
    (folder / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_folder(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read .*; expected JSON"):
        read_folder(folder)
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(UserError, match="contains a list; expected a table of options"):
        read_folder(folder)
    change(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(UserError, match="describes a StableDiffusionPipeline; only DDPMPipeline and DDIMPipeline"):
        read_folder(folder)
    with pytest.raises(UserError, match="nowhere is not a folder; give one that diffusers wrote"):
        fetch_folder("nowhere")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="downloading it needs huggingface_hub: pip install huggingface_hub"):
        fetch_folder("google/ddpm-cat-256")


def test_the_model_card_describes_the_model():
    card = model_card(config(model={"classes": 3}), 1200, 50_000, "16 samples, DDIM")
    for words in (
        "1,200 of 4 images",
        "digits, 8x8x1, 50,000",
        "Classes 0 to 2, which labels.json names; 3 means no label",
    ):
        assert words in card
    assert "batch_size=4, num_inference_steps=8" in model_card(config(), 0, None, None)
    assert "alice" not in model_card(config(data={"source": "auto", "path": "/home/alice/x"}), 0, None, None)
    card = model_card(config(model={"condition": "mask", "classes": 3}), 0, None, None)
    assert "unet(torch.cat([x, condition], dim=1), t, class_labels=labels)" in card
    assert "x = torch.where(mask > 0, x, image)" in card


def test_a_run_is_exported_and_imported_by_the_scripts(tmp_path):
    _, _, ema = random_run(tmp_path / "run", names=list("abc"), model={"classes": 3})
    done = script("scripts/export_diffusers.py", tmp_path / "run", tmp_path / "model", "--images=3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "grid.png").exists() and "3 samples, DDIM" in (
        tmp_path / "model" / "README.md"
    ).read_text()
    done = script("scripts/import_diffusers.py", tmp_path / "model", tmp_path / "again", "--config.seed=5")
    assert done.returncode == 0, done.stderr
    again = load_run(tmp_path / "again")
    assert_same_bits(again.params, ema)
    assert again.step == 0 and again.config.seed == 5
    assert json.loads((tmp_path / "again" / "labels.json").read_text()) == ["a", "b", "c"]
    done = script("scripts/import_diffusers.py", tmp_path / "model", tmp_path / "again")
    assert done.returncode == 2 and "is not empty" in done.stderr
    done = script("scripts/import_diffusers.py", tmp_path / "model", tmp_path / "other", "--config.model.channels=16")
    assert done.returncode == 2 and "model.channels is 8 in the imported model" in done.stderr
    assert not (tmp_path / "other").exists()


@pytest.fixture
def script_main(monkeypatch):
    """Runs a script in this process."""

    def call(name, *argv):
        main = runpy.run_path(str(ROOT / name))["main"]
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        main()

    return call


def test_the_condition_is_told_to_the_import_by_the_flags_that_the_export_names(tmp_path, script_main, package_log):
    settings, _, ema = random_run(tmp_path / "run", model={"condition": "low_resolution"}, degradation={"factor": 2})
    script_main("scripts/export_diffusers.py", tmp_path / "run", tmp_path / "model")
    (line,) = [text for text in map(str, package_log.messages) if "diffusers does not know" in text]
    assert "that 1 of the 2 input channels are the condition, 'low_resolution', nor how it is made" in line
    card = (tmp_path / "model" / "README.md").read_text()
    assert "low = ...  # [4, 1, 4, 4] in [-1, 1]: images shrunk by a factor of 2, bicubic" in card
    assert not (tmp_path / "model" / "grid.png").exists()
    flags = line.partition("import needs ")[2].split()
    assert f"this/folder RUN {' '.join(flags)}`" in card
    script_main("scripts/import_diffusers.py", tmp_path / "model", tmp_path / "again", *flags)
    again = load_run(tmp_path / "again")
    assert_same_bits(again.params, ema)
    assert (again.config.model, again.config.degradation) == (settings.model, settings.degradation)


def test_a_model_tuned_for_consistency_remains_one(tmp_path, script_main, package_log):
    tuned = {"diffusion": {"objective": "consistency"}, "sample": {"sampler": "consistency"}}
    settings, *_ = random_run(tmp_path / "run", ["a", "b", "c"], model={"classes": 3}, **tuned)
    script_main("scripts/export_diffusers.py", tmp_path / "run", tmp_path / "model", "--images=2")
    card = (tmp_path / "model" / "README.md").read_text()
    for words in ('LCMScheduler.from_pretrained("this', "set_timesteps(2)", "2 samples, consistency sampling with 2"):
        assert words in card
    script_main("scripts/import_diffusers.py", tmp_path / "model", tmp_path / "again")
    again = load_run(tmp_path / "again").config
    assert (again.diffusion, again.sample) == (settings.diffusion, settings.sample)
    assert not [line for line in package_log.messages if "omitted" in line or "ignoring" in line]


@pytest.mark.parametrize(
    ("condition", "channels", "words"),
    [
        (
            "none",
            (6, 3),
            "does not fit model.condition='none'; expected --config.model.condition=low_resolution (chann",
        ),
        ("low_resolution", (4, 3), "expected --config.model.condition=grey (channels: 3 of the image, 1 of the cond"),
        ("grey", (7, 6), "expected --config.model.condition=mask (channels: 3 of the image, 4 of the condition)"),
        (
            "grey",
            (2, 2),
            "condition=none (channels: 2 of the image, 0 of the condition) or --config.model.condition=low",
        ),
        ("mask", (9, 3), "for colour images, for example, 3 (none), 6 (low_resolution), 4 (grey), 7 (mask), and out_c"),
    ],
)
def test_channels_that_do_not_fit_the_condition_are_refused_with_those_that_do(folder, condition, channels, words):
    change(folder / "unet" / "config.json", **dict(zip(("in_channels", "out_channels"), channels, strict=True)))
    with pytest.raises(UserError) as caught:
        read_folder(folder, condition)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", '["\\ud800", "b", "c"]', "[" * 10_000])
def test_malformed_names_of_classes_are_refused(tmp_path, text):
    settings = config(model={"classes": 3})
    write_folder(settings, random_params(settings), tmp_path / "model", names=list("abc"), card="", grid=None)
    (tmp_path / "model" / "labels.json").write_text(text)
    with pytest.raises(UserError, match="labels.json"):
        read_folder(tmp_path / "model")
