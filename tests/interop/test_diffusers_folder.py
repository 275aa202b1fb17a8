"""There and back without diffusers, and what is refused; test_against_diffusers.py compares outputs."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax import UserError, load_run
from ddpm_jax.builders import build_schedule, param_shapes
from ddpm_jax.commands import cli
from ddpm_jax.config import defaults, flatten
from ddpm_jax.interop.diffusers import their_name
from ddpm_jax.interop.diffusers_folder import fetch_folder, model_card, read_folder, write_folder
from ddpm_jax.interop.tensors import by_path
from tests.end_to_end.commands import assert_same_bits
from tests.interop.toy import config, imported, random_params, random_run, script

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def folder(tmp_path):
    settings = config()
    write_folder(settings, random_params(settings), tmp_path / "model", names=[], card="A card.", grid=None)
    return tmp_path / "model"


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"data": {"channels": 3, "source": "synthetic"}, "diffusion": {"variance": "learned", "schedule": "cosine"}},
        {"model": {"resampling": "residual", "scale_shift": True, "head_channels": 4, "norm_eps": 1e-5}},
        {"model": {"attention_resolutions": [], "heads": 2, "frequency_shift": 0, "downsample_padding": 1}},
        {"model": {"classes": 3}, "diffusion": {"schedule": "sigmoid", "prediction": "v", "zero_terminal_snr": True}},
        {"model": {"classes": 3}, "train": {"label_dropout": 0.0}},
        {"sample": {"threshold": "dynamic", "percentile": 0.9}, "diffusion": {"schedule": "quadratic", "steps": 50}},
    ],
)
def test_export_and_import_are_inverse_to_the_last_bit(tmp_path, sections):
    settings = config(**sections)
    params = random_params(settings)
    write_folder(settings, params, tmp_path / "model", names=["a", "b", "c"], card="", grid=None)
    again, params_again = imported(tmp_path / "model")
    assert_same_bits(params_again, params)
    found, given = flatten(again), flatten(settings)
    settled = read_folder(tmp_path / "model").fields
    changed = {name for name in settled if found[name] != given[name] and name != "model.head_channels"}
    # Two heads of equal width may be called so many or so wide.
    assert changed <= {"model.heads"}, {name: (found[name], given[name]) for name in changed}


def test_every_tensor_has_a_name_of_its_own():
    settings = config(model={"classes": 3})

    names = [their_name(path, 2) for path in by_path(param_shapes(settings))]
    assert len(set(names)) == len(names)
    assert {"up_blocks.0.upsamplers.0.conv.weight", "mid_block.attentions.0.to_out.0.bias"} <= set(names)
    assert "down_blocks.1.attentions.0.group_norm.weight" in names and "up_blocks.0.attentions.1.to_q.bias" in names


def change(path, **fields):
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | fields))


UNET_MISTAKES = {
    "another class": ({"_class_name": "UNet2DConditionModel"}, "describes a UNet2DConditionModel; only UNet2DModel"),
    "unknown option": ({"dropuot": 0.1}, "dropuot=0.1 is not an option of UNet2DModel; did you mean dropout"),
    "centred input": ({"center_input_sample": True}, "center_input_sample=True is not supported; expected False"),
    "fourier": ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier' is not supported; expected 'posi"),
    "activation": ({"act_fn": "gelu"}, "act_fn='gelu' is not supported; expected 'silu' or 'swish'"),
    "no middle attention": ({"add_attention": False}, "add_attention=False is not supported"),
    "class projection": ({"class_embed_type": "timestep"}, "class_embed_type='timestep' is not supported"),
    "block": ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "'SkipDownBlock2D'; supported are DownBlock2D"),
    "lengths": ({"up_block_types": ["UpBlock2D"]}, "differ in length"),
    "attention": ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "expected the same stages"),
    "mixed": ({"upsample_type": "resnet"}, "resample in some places by"),
    "no size": ({"sample_size": None}, "sample_size=None is not supported; expected a value of type int"),
    "oblong": ({"sample_size": [8, 16]}, "sample_size=[8, 16] is not supported"),
    "widths": ({"block_out_channels": [8, 12]}, "must be whole multiples of the first"),
    "wide embedding": ({"time_embedding_dim": 64}, "time_embedding_dim=64 is not supported; expected 32"),
    "norm": ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups=None with resnet_time_scale_shift"),
    "outputs": ({"out_channels": 3}, "out_channels=3 is not supported; expected 1, in_channels, or 2"),
    "text": ({"dropout": "much"}, "dropout=much is not supported; expected a number"),
    "huge": ({"norm_eps": 10**400}, "is not supported; expected a number"),
    "huge size": ({"sample_size": 2**70}, "is not supported; expected a value of type int"),
    "huge depth": ({"layers_per_block": 2**40}, "is not supported; expected a value of type int"),
    "fraction": ({"freq_shift": 1.0}, "freq_shift=1.0 is not supported; expected 0 or 1"),
}


@pytest.mark.parametrize("name", UNET_MISTAKES)
def test_options_that_our_network_lacks_are_refused_by_name(name, folder):
    fields, words = UNET_MISTAKES[name]
    change(folder / "unet" / "config.json", **fields)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


SCHEDULER_MISTAKES = {
    "another class": ({"_class_name": "ScoreSdeVeScheduler"}, "describes a ScoreSdeVeScheduler; supported are DDPM"),
    "switch": ({"clip_sample": "no"}, "clip_sample='no' is not supported; expected true or false"),
    "flow": ({"use_flow_sigmas": True}, "use_flow_sigmas=True is not supported; expected False"),
    "list": ({"prediction_type": ["epsilon"]}, "is not supported; expected 'epsilon' or"),
    "huge": ({"beta_end": 10**400}, "beta_end=1000"),
    "huge count": ({"num_train_timesteps": 10**400}, "num_train_timesteps=1000"),
    "schedule": ({"beta_schedule": [], "trained_betas": None}, "beta_schedule=[] is not supported"),
    "noise": (
        {"beta_schedule": "sigmoid", "trained_betas": None},
        "beta_schedule='sigmoid' is not supported; expected one of linear",
    ),
    "betas": ({"trained_betas": [0.1, 0.2]}, "trained_betas lists 2 betas of no schedule that is known here"),
    "no betas": ({"trained_betas": "many"}, "trained_betas lists 0 betas"),
    "variance": ({"variance_type": "learned"}, "variance_type='learned' is not supported"),
    "output": ({"variance_type": "learned_range"}, "but the network puts out no variance (out_channels)"),
    "offset": ({"steps_offset": 1}, "steps_offset=1 is not supported; expected 0"),
    "range": ({"clip_sample_range": 2.0}, "clip_sample_range=2.0 is not supported; expected 1.0"),
    "number": ({"beta_end": "0.02"}, "beta_end=0.02 is not supported; expected a number"),
    "steps": ({"num_train_timesteps": 1}, "num_train_timesteps=1 is not supported"),
}


@pytest.mark.parametrize("name", SCHEDULER_MISTAKES)
def test_noise_that_is_not_known_here_is_refused_by_name(name, folder):
    fields, words = SCHEDULER_MISTAKES[name]
    change(folder / SCHEDULER, **fields)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_all_tensors_that_differ_are_listed(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["extra.weight"] = tensors.pop("conv_in.weight")
    tensors["conv_out.bias"] = np.zeros(3, np.float32)
    del tensors["mid_block.resnets.0.conv1.weight"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError) as caught:
        imported(folder)
    for words in (
        "missing: conv_in.weight, mid_block.resnets.0.conv1.weight;",
        "not expected: extra.weight;",
        "of the wrong shape: conv_out.bias (3,), expected (1,).",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["float16", "int32"])
def test_half_precision_is_widened_and_whole_numbers_are_refused(folder, kind):
    tensors = {name: tensor.astype(kind) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    if kind == "int32":
        with pytest.raises(UserError, match="holds I32; expected numbers of type F16, BF16, F32 or F64"):
            imported(folder)
        return
    _, params = imported(folder)
    np.testing.assert_array_equal(params["conv_in"]["bias"], tensors["conv_in.bias"].astype(np.float32))
    assert params["conv_in"]["bias"].dtype == np.float32


def test_pickles_are_refused_with_the_way_to_convert_them(folder):
    (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(UserError, match=r"is a pickle, which can run code .* weights_only=True"):
        read_folder(folder)
    with pytest.raises(UserError, match="is a pickle"):
        fetch_folder("some/model.ckpt")


def test_other_things_than_models_are_refused(tmp_path, folder, monkeypatch):
    with pytest.raises(UserError, match="config.json is missing; expected a folder that diffusers' save_pretrained"):
        read_folder(tmp_path)
    (folder / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_folder(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read .*; expected JSON"):
        read_folder(folder)
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds list; expected a table of options"):
        read_folder(folder)
    change(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(UserError, match="describes a StableDiffusionPipeline; only DDPMPipeline and DDIMPipeline"):
        read_folder(folder)
    with pytest.raises(UserError, match="nowhere is no folder; give one that diffusers wrote"):
        fetch_folder("nowhere")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="fetching it needs huggingface_hub: pip install huggingface_hub"):
        fetch_folder("google/ddpm-cat-256")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"attributes": 2}}, "model.attributes=2: UNet2DModel knows classes, but no attributes"),
        ({"model": {"resampling": "pool"}}, "model.resampling='pool': UNet2DModel halves images by convolutions"),
        ({"model": {"multipliers": [2, 2]}}, "expected 1 first"),
        ({"model": {"heads": 2, "attention_resolutions": [8, 4]}}, "makes heads of 4 and 8 channels"),
    ],
)
def test_what_diffusers_lacks_is_refused_by_name(tmp_path, sections, words):
    settings = config(**sections)
    with pytest.raises(UserError) as caught:
        write_folder(settings, {}, tmp_path / "model", names=[], card="", grid=None)
    assert words in str(caught.value) and not (tmp_path / "model").exists()


def test_a_folder_that_holds_something_is_left_alone(folder):
    settings = config()
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        write_folder(settings, random_params(settings), folder, names=[], card="", grid=None)
    assert sorted(folder.rglob("*")) == before


def test_the_card_says_what_the_model_is():
    card = model_card(config(model={"classes": 3}), 1200, 50_000, "16 samples, DDIM")
    for words in (
        "1,200 of 4 images",
        "digits, 8x8x1, 50,000",
        "Classes 0 to 2, which labels.json names; 3 means no label",
    ):
        assert words in card
    assert "batch_size=4, num_inference_steps=8" in model_card(config(), 0, None, None)


def test_a_run_leaves_and_comes_back(tmp_path):
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


def test_an_imported_run_trains_on_data_that_is_named_then(tmp_path, capsys):
    workdir = tmp_path / "run"
    random_run(workdir, log={"preview_every": 0, "validate_every": 0})
    command = ["main.py", f"--workdir={workdir}", "--config.train.steps=2", "--config.data.holdout=0.1"]
    assert cli.main([*command, "--config.diffusion.prediction=v"]) == 2
    assert "diffusion.prediction was 'eps', now 'v'" in capsys.readouterr().err
    assert cli.main([*command, "--config.optimizer.clip=0.0"]) == 2
    assert cli.main([*command, "--config.optimizer.learning_rate=1e-3"]) == 0
    assert load_run(workdir).step == 2 and load_run(workdir).config.data.holdout == 0.1
    assert cli.main([*command, "--config.optimizer.learning_rate=1e-2"]) == 2  # Now it has begun.


def test_betas_too_steep_for_a_rule_are_listed_and_recognised(folder):
    """With 8 steps the linear betas rise beyond 1 and are capped."""
    scheduler = json.loads((folder / SCHEDULER).read_text())
    assert max(scheduler["trained_betas"]) < 1
    alpha_bar = np.cumprod(1.0 - np.array(scheduler["trained_betas"]))
    # What a recipe says of the noise gives way to the model.
    recipe = defaults()
    recipe.diffusion.beta_end = 0.01
    again, _ = imported(folder, recipe)
    assert again.diffusion.schedule == "linear"
    np.testing.assert_allclose(build_schedule(again).alpha_bar[1:], alpha_bar, rtol=1e-6)


def test_schedulers_of_older_files_are_understood(folder, package_log):
    change(folder / SCHEDULER, tensor_format="pt", timestep_values=None, predict_epsilon=True, skip_prk_steps=True)
    assert imported(folder)[0].diffusion.prediction == "eps"
    assert "skip_prk_steps have no meaning here" in package_log.text


def test_leftovers_of_a_killed_export_are_cleared_away(tmp_path):
    settings = config(model={"classes": 3})
    left = tmp_path / ".model.partial"
    (left / "unet").mkdir(parents=True)
    (left / "model_index.json").write_text("{}")
    write_folder(settings, random_params(settings), tmp_path / "model", names=list("abc"), card="", grid=None)
    assert not left.exists() and not (tmp_path / "model" / "unet").exists()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "model"]
    assert imported(tmp_path / "model")[0].model.classes == 3


@pytest.mark.parametrize("text", ["{", "[1]", '["\\ud800", "b", "c"]', "[" * 10_000])
def test_names_of_classes_that_are_none_are_refused(tmp_path, text):
    settings = config(model={"classes": 3})
    write_folder(settings, random_params(settings), tmp_path / "model", names=list("abc"), card="", grid=None)
    (tmp_path / "model" / "labels.json").write_text(text)
    with pytest.raises(UserError, match="labels.json"):
        read_folder(tmp_path / "model")


def test_a_run_that_has_trained_is_known_without_its_record_of_the_data(tmp_path, capsys):
    workdir = tmp_path / "run"
    random_run(workdir, log={"preview_every": 0, "validate_every": 0})
    command = ["main.py", f"--workdir={workdir}", "--config.train.steps=2"]
    assert cli.main(command) == 0
    (workdir / "data.json").unlink()
    assert cli.main([*command, "--config.optimizer.learning_rate=1e-2"]) == 2
    assert "holds a run with another configuration" in capsys.readouterr().err


def test_an_imported_ddim_lets_go_of_its_ways_with_another_sampler(tmp_path):
    workdir = tmp_path / "run"
    random_run(workdir, sample={"sampler": "ddim", "keep_eps": True, "count": 2, "strip": 0, "gif": 0})
    sampling = ["main.py", "--mode=sample", f"--workdir={workdir}", "--config.sample.sampler=dpm_solver"]
    assert cli.main([*sampling, "--config.sample.steps=3"]) == 0


def test_weights_that_are_no_numbers_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.bias"][0] = np.nan
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match="conv_in.bias holds numbers that are not finite; the file is damaged"):
        imported(folder)


def test_what_is_written_can_be_read_by_others(folder):
    assert (folder / WEIGHTS).stat().st_mode == (folder / "README.md").stat().st_mode


def test_nothing_is_made_inside_a_file(folder):
    settings = config()
    with pytest.raises(UserError, match="a cannot be made"):
        write_folder(settings, random_params(settings), folder / "README.md" / "a", names=[], card="", grid=None)
