"""UNet2DModels with random weights have the same outputs and files here and in diffusers, in both directions.

Needs requirements-peers.txt, and is skipped without it.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax import load_run
from ddpm_jax.builders import build_condition, build_pairs, build_sampler, build_schedule, build_unet
from ddpm_jax.config import defaults, flatten, override
from ddpm_jax.config.fields import sides
from ddpm_jax.diffusion.conditions import ConditionInput
from ddpm_jax.diffusion.schedule import sigmoid_betas
from ddpm_jax.generation.draw import bind_config
from ddpm_jax.interop.diffusers_card import model_card
from ddpm_jax.interop.diffusers_folder import read_folder, write_folder
from ddpm_jax.interop.runs import start_run
from ddpm_jax.network.bind import Conditioning, apply_unet, label_vectors
from ddpm_jax.sampling import consistency as consistency_module
from ddpm_jax.sampling.noise import image_keys
from tests.end_to_end.commands import assert_same_bits
from tests.interop.toy import config, imported, random_params, script
from tests.peers import peer

torch = peer("torch")
diffusers = peer("diffusers")

DDPM = {  # Ho et al. 2020, as google/ddpm-* have it; the widths are reduced.
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
SMALL = {"sample_size": 16, "norm_num_groups": 8, "block_out_channels": (16, 32)}


def blocks(down: str, attention: str) -> dict:
    """Types of blocks from a string such as ".A": a dot for a plain stage, A for one with attention."""
    plain = {"conv": ("DownBlock2D", "UpBlock2D"), "resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")}[down]
    return {
        "down_block_types": tuple("AttnDownBlock2D" if a == "A" else plain[0] for a in attention),
        "up_block_types": tuple("AttnUpBlock2D" if a == "A" else plain[1] for a in reversed(attention)),
        "downsample_type": down,
        "upsample_type": down,
    }


MODELS = {
    "cifar10": DDPM | {"sample_size": 32, "block_out_channels": (32, 64, 64, 64)} | blocks("conv", ".A.."),
    "celebahq": DDPM | {"sample_size": 64, "block_out_channels": (32, 32, 64, 64, 128, 128)} | blocks("conv", "....A."),
    "butterflies": {"sample_size": 32, "block_out_channels": (32, 32, 64, 64), "norm_num_groups": 16}
    | blocks("conv", "..A."),
    "classes": SMALL | blocks("conv", ".A") | {"num_class_embeds": 7},
    "grey": SMALL | blocks("conv", ".A") | {"in_channels": 1, "out_channels": 1},
    "three heads": SMALL | blocks("conv", "AA") | {"block_out_channels": (24, 24), "attention_head_dim": 8},
    "attention first": SMALL | blocks("conv", "A.") | {"downsample_padding": 0},
    "no attention, one block": SMALL | blocks("conv", "..") | {"layers_per_block": 1, "attention_head_dim": 16},
    "dropout": SMALL | blocks("conv", "AA") | {"dropout": 0.3, "act_fn": "swish"},
    "scale and shift": SMALL
    | blocks("conv", ".A")
    | {"resnet_time_scale_shift": "scale_shift", "norm_eps": 1e-3}
    | {"attn_norm_num_groups": 8},
    "adm": SMALL
    | blocks("resnet", ".A")
    | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}
    | {"out_channels": 6, "num_class_embeds": 5},
    "oblong": SMALL | blocks("conv", ".A") | {"sample_size": (16, 24)},
    "one stage": SMALL | blocks("conv", "A") | {"block_out_channels": (16,)},
}


def random_model(name: str, seed: int = 0):
    """Random biases and scales, too, since a mapping error could hide behind diffusers' initial zeros and ones."""
    torch.manual_seed(seed)
    model = diffusers.UNet2DModel(**MODELS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def inputs(model, seed: int = 1):
    """x_t, steps counted from 0, and class numbers if the model is conditional."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(4, model.config.in_channels, *sides(model.config.sample_size))).astype(np.float32)
    labels = None if model.config.num_class_embeds is None else draw.integers(0, model.config.num_class_embeds, 4)
    return x, np.array([0, 1, 500, 999]), labels


def theirs(model, x, n, labels):
    with torch.no_grad():
        conditions = {} if labels is None else {"class_labels": torch.from_numpy(labels)}
        return model(torch.from_numpy(x), torch.from_numpy(n), **conditions).sample.numpy()


def ours(config, params, x, n, labels):
    unet = build_unet(config)
    x = jnp.asarray(x.transpose(0, 2, 3, 1))
    vectors = None if labels is None else label_vectors(labels, unet.labels)
    output = jax.jit(lambda p: apply_unet(unet, p, x, jnp.asarray(n + 1), Conditioning(vectors)))(params)
    return np.asarray(output).transpose(0, 3, 1, 2)


def largest_difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("name", MODELS)
def test_an_imported_model_has_the_same_output(name, tmp_path):
    model = random_model(name)
    model.save_pretrained(tmp_path)
    config, params = imported(tmp_path)
    assert flatten(config)["model.dropout"] == MODELS[name].get("dropout", 0.0)
    batch = inputs(model)
    assert largest_difference(ours(config, params, *batch), theirs(model, *batch)) < 5e-5


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_has_the_same_output(name, tmp_path):
    model = random_model(name, seed=2)
    model.save_pretrained(tmp_path / "there")
    config, params = imported(tmp_path / "there")
    write_folder(config, params, tmp_path / "here", names=[], card="", grid=None)
    unet = tmp_path / "here" / ("" if config.model.classes else "unet")
    again = diffusers.UNet2DModel.from_pretrained(unet)
    batch = inputs(model)
    assert largest_difference(theirs(again, *batch), theirs(model, *batch)) < 5e-6
    assert largest_difference(theirs(again, *batch), ours(config, params, *batch)) < 5e-5
    config_again, params_again = imported(tmp_path / "here")
    assert_same_bits(params_again, params)
    assert config_again == config


def test_the_condition_follows_x_t_in_the_input_channels(tmp_path):
    torch.manual_seed(0)
    options = SMALL | blocks("conv", ".A") | {"in_channels": 6}
    model = diffusers.UNet2DModel(**options).eval()
    model.save_pretrained(tmp_path / "there")
    flags = ["--config.model.condition=low_resolution", "--config.degradation.factor=2"]
    config, params = imported(tmp_path / "there", override(defaults(), flags))
    write_folder(config, params, tmp_path / "here", names=[], card=model_card(config, 0, None, None), grid=None)
    _, params_again = imported(tmp_path / "here", override(defaults(), flags))
    assert_same_bits(params_again, params)

    draw, n = np.random.default_rng(1), np.array([0, 1, 500, 999])
    x, low = (draw.normal(size=(4, 3, side, side)).astype(np.float32) for side in (16, 8))
    condition = build_condition(config).network_input(low.transpose(0, 2, 3, 1))
    given, unet = Conditioning(condition=ConditionInput(condition, None)), build_unet(config)
    here = apply_unet(unet, params, x.transpose(0, 2, 3, 1), jnp.asarray(n + 1), given)

    names = {"low": torch.from_numpy(low)}
    code = (tmp_path / "here" / "README.md").read_text().partition("```python")[2].partition("```")[0]
    code = code.replace("this/folder", str(tmp_path / "here")).replace("low = ...", "")
    exec(code.replace("set_timesteps(1000)", "set_timesteps(2)"), names)  # The card's own enlargement.
    there = theirs(names["unet"], np.concatenate([x, names["condition"].numpy()], axis=1), n, None)
    assert largest_difference(np.asarray(here).transpose(0, 3, 1, 2), there) < 5e-5
    assert names["x"].shape == x.shape


def test_files_with_the_former_names_of_attention_are_read(tmp_path):
    model = random_model("cifar10")
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for now, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        tensors = {name.replace(f".{now}.", f".{former}."): tensor for name, tensor in tensors.items()}
    save_file(tensors, path)
    config, params = imported(tmp_path)
    batch = inputs(model)
    assert largest_difference(ours(config, params, *batch), theirs(model, *batch)) < 5e-5


SCHEDULERS = {
    "DDPM's": diffusers.DDPMScheduler(variance_type="fixed_large"),
    "8 steps": diffusers.DDPMScheduler(num_train_timesteps=8, beta_start=0.0125, beta_end=0.9),
    "100 steps": diffusers.DDPMScheduler(num_train_timesteps=100, beta_end=0.2, clip_sample=False),
    "cosine, v": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "scaled linear": diffusers.DDPMScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing"),
    "zero terminal SNR": diffusers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="sample"),
    "dynamic": diffusers.DDPMScheduler(thresholding=True, sample_max_value=2.0, dynamic_thresholding_ratio=0.9),
    "DDIM's": diffusers.DDIMScheduler(),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_noise_schedule_survives_import_and_export(name, tmp_path):
    scheduler = SCHEDULERS[name]
    diffusers.DDPMPipeline(random_model("grey"), scheduler).save_pretrained(tmp_path / "there")
    config, params = imported(tmp_path / "there")
    alpha_bar = scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(build_schedule(config).alpha_bar[1:], alpha_bar, rtol=1e-4, atol=1e-7)
    write_folder(config, params, tmp_path / "here", names=[], card="", grid=None)
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "here").scheduler
    np.testing.assert_allclose(again.alphas_cumprod, alpha_bar, rtol=1e-4, atol=1e-7)
    options = ["prediction_type", "clip_sample", "thresholding", "timestep_spacing", "num_train_timesteps"]
    options += ["rescale_betas_zero_snr"]
    if isinstance(scheduler, diffusers.DDPMScheduler):
        options += ["variance_type"]
    if scheduler.config.thresholding:
        options += ["dynamic_thresholding_ratio", "sample_max_value"]
    assert {name: again.config[name] for name in options} == {name: scheduler.config[name] for name in options}


def test_sigmoid_betas_are_listed_and_recognised(tmp_path):
    model = random_model("grey")
    diffusers.DDPMPipeline(model, SCHEDULERS["DDPM's"]).save_pretrained(tmp_path / "there")
    config, params = imported(tmp_path / "there")
    config = dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, schedule="sigmoid"))
    write_folder(config, params, tmp_path / "here", names=[], card="", grid=None)
    betas = diffusers.DDPMPipeline.from_pretrained(tmp_path / "here").scheduler.betas.numpy()
    np.testing.assert_allclose(betas, sigmoid_betas(1000), rtol=1e-5)
    assert imported(tmp_path / "here")[0].diffusion.schedule == "sigmoid"


def run_script(name: str, *argv: object) -> str:
    done = script(name, *argv)
    assert done.returncode == 0, done.stderr
    return done.stderr


def ddim_in_diffusers(folder, x_T: np.ndarray) -> np.ndarray:
    """uint8 images of DDIM-20 in diffusers, with eps derived from the clipped x_0 as in ours."""
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(20)
    x = torch.from_numpy(x_T.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = pipeline.unet(x, t).sample
            x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
    return np.round((x.numpy().transpose(0, 2, 3, 1).clip(-1, 1) + 1) * 127.5).astype(int)


@pytest.mark.slow
def test_an_imported_trained_and_exported_model_generates_the_same_images(tmp_path):
    diffusers.DDPMPipeline(random_model("grey"), SCHEDULERS["DDPM's"]).save_pretrained(tmp_path / "there")
    run = tmp_path / "run"
    overrides = {"data.source": "synthetic", "data.batch_size": 8, "train.steps": 20, "optimizer.learning_rate": 1e-3}
    flags = [f"--config.{name}={value}" for name, value in overrides.items()]
    log = run_script("scripts/import_diffusers.py", tmp_path / "there", run, *flags)
    assert f"Next: python main.py --mode=sample --workdir={run}" in log
    before = load_run(run)
    assert before.step == 0
    log = run_script(
        "main.py", f"--workdir={run}", "--config.log.preview_every=0", f"--config.data.cache={tmp_path}/cache"
    )
    assert "Resuming from step 0" in log and load_run(run).step == 20
    run_script("scripts/export_diffusers.py", run, tmp_path / "here", "--images=2")
    after = load_run(run)
    with pytest.raises(AssertionError):
        assert_same_bits(after.params, before.params)
    x_T = after.noise(4, seed=3)
    # Another sampler than the imported one has its own default spacing.
    spacing = after.config.sample.spacing
    images_here = after.sample(4, sampler="ddim", steps=20, spacing=spacing, seed=3).astype(int)
    assert images_here.std() > 5
    assert np.abs(ddim_in_diffusers(tmp_path / "here", x_T) - images_here).max() <= 1
    images = diffusers.DDPMPipeline.from_pretrained(tmp_path / "here")(
        batch_size=2, num_inference_steps=5, output_type="np"
    ).images
    assert images.shape == (2, 16, 16, 1)
    card = (tmp_path / "here" / "README.md").read_text()
    assert "20 of 8 images" in card and "samples, DDIM with 50 steps" in card
    assert json.loads((tmp_path / "here" / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"


def test_the_null_label_is_an_additional_class(tmp_path):
    model = random_model("classes")
    model.save_pretrained(tmp_path / "there")
    config, params = imported(tmp_path / "there")
    assert config.model.classes == 7 and config.train.label_dropout == 0.0
    dropped = dataclasses.replace(config, train=dataclasses.replace(config.train, label_dropout=0.1))
    write_folder(dropped, params, tmp_path / "here", names=list("abcdefg"), card="", grid=None)
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "here")
    assert again.config.num_class_embeds == 8
    x, n, _ = inputs(model)
    none = theirs(again, x, n, np.full(4, 7))
    assert largest_difference(none, ours(config, params, x, n, np.full(4, -1))) < 5e-5
    config, params = imported(tmp_path / "here")
    assert config.model.classes == 7 and config.train.label_dropout > 0.0
    start_run(config, tmp_path / "run", params, read_folder(tmp_path / "here").labels(config))
    images = load_run(tmp_path / "run").sample(2, sampler="ddim", steps=2, label="c")
    assert images.shape == (2, 16, 16, 3)


def test_schedules_of_few_steps_are_equal(tmp_path):
    settings = config()  # 8 steps, whose linear betas are capped.
    write_folder(settings, random_params(settings), tmp_path / "model", names=[], card="", grid=None)
    scheduler = diffusers.DDPMPipeline.from_pretrained(tmp_path / "model").scheduler
    # Their tables are float32.
    np.testing.assert_allclose(scheduler.alphas_cumprod, build_schedule(settings).alpha_bar[1:], rtol=1e-3)


def test_a_model_tuned_for_consistency_gives_the_same_images_in_few_steps(tmp_path, monkeypatch):
    settings = config(diffusion={"objective": "consistency"}, sample={"sampler": "consistency"})
    params = random_params(settings)
    write_folder(settings, params, tmp_path, names=[], card=model_card(settings, 0, None, None), grid=None)
    assert imported(tmp_path)[0].sample == settings.sample
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)  # x_T, and that of every step.
    in_torch = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    for module in ("pipelines.ddpm.pipeline_ddpm", "schedulers.scheduling_lcm"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: in_torch)
    monkeypatch.setattr(consistency_module, "draw_noise", lambda *_: jnp.asarray(noise))
    denoiser, keys = bind_config(settings)(params, 0, jnp.arange(2), None, None), image_keys(0, np.arange(2))
    for steps in (1, 2):
        pairs = build_pairs(dataclasses.replace(settings, sample=dataclasses.replace(settings.sample, steps=steps)))
        here = build_sampler(settings)(denoiser, noise, keys, pairs).images
        there = pipeline(batch_size=2, num_inference_steps=steps, output_type="np").images
        np.testing.assert_array_equal(pipeline.scheduler.timesteps, pairs[:, 0] - 1)
        np.testing.assert_allclose((here + 1.0) / 2.0, there, atol=1e-5)
        assert there.std() > 0.1
    assert "num_inference_steps=2)" in (tmp_path / "README.md").read_text()


def test_half_precision_weights_are_widened(tmp_path):
    model = random_model("grey").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    _, params = imported(tmp_path)
    expected = model.conv_in.bias.detach().float().numpy()
    np.testing.assert_array_equal(params["conv_in"]["bias"], expected)
