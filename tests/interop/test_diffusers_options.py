"""Options of a UNet2DModel are equivalent to fields of our configuration, or refused by name."""

import pytest

from ddpm_jax.config import flatten
from ddpm_jax.errors import UserError
from ddpm_jax.interop.diffusers_folder import read_folder, write_folder
from ddpm_jax.interop.diffusers_options import checked_options, fields_of, options_of
from tests.interop.toy import change, config


@pytest.mark.parametrize("classes", [0, 3])
def test_options_and_fields_are_inverse(classes):
    settings = config(model={"classes": classes, "scale_shift": True, "resampling": "residual", "head_channels": 4})
    fields = fields_of(checked_options(options_of(settings), "here"), classes, 1)
    assert fields.items() <= flatten(settings).items()


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
    "mixed": ({"upsample_type": "resnet"}, "mix resampling by convolutions and by residual blocks"),
    "no size": ({"sample_size": None}, "sample_size=None is not supported; expected a value of type int"),
    "three sides": ({"sample_size": [8, 16, 8]}, "sample_size=[8, 16, 8] is not supported"),
    "an odd side": ({"sample_size": [8, "16"]}, "sample_size=16 is not supported; expected a value of type int"),
    "widths": ({"block_out_channels": [8, 12]}, "must be whole multiples of the first"),
    "wide embedding": ({"time_embedding_dim": 64}, "time_embedding_dim=64 is not supported; expected 32"),
    "norm": ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups=None with resnet_time_scale_shift"),
    "outputs": ({"out_channels": 3}, "in_channels=1 with out_channels=3 does not fit model.condition='none'"),
    "text": ({"dropout": "much"}, "dropout=much is not supported; expected a number"),
    "huge": ({"norm_eps": 10**400}, "is not supported; expected a number"),
    "huge size": ({"sample_size": 2**70}, "is not supported; expected a value of type int"),
    "huge depth": ({"layers_per_block": 2**40}, "is not supported; expected a value of type int"),
    "fraction": ({"freq_shift": 1.0}, "freq_shift=1.0 is not supported; expected 0 or 1"),
}


@pytest.mark.parametrize("name", UNET_MISTAKES)
def test_unsupported_options_are_refused_by_name(name, folder):
    fields, words = UNET_MISTAKES[name]
    change(folder / "unet" / "config.json", **fields)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"attributes": 2}}, "model.attributes=2: UNet2DModel supports classes, but no attributes"),
        ({"model": {"resampling": "pool"}}, "model.resampling='pool': UNet2DModel halves images by convolutions"),
        ({"model": {"multipliers": [2, 2]}}, "expected 1 first"),
        (
            {"model": {"condition": "low_resolution"}, "degradation": {"noise": 2}},
            "degradation.noise=2: a UNet2DModel has no input for the step to which the condition is noised; use",
        ),
        (
            {"diffusion": {"objective": "consistency", "variance": "learned"}},
            "diffusers' LCMScheduler takes no learned variance; use scripts/export_safetensors.py",
        ),
        ({"model": {"heads": 2, "attention_resolutions": [8, 4]}}, "makes heads of 4 and 8 channels"),
    ],
)
def test_fields_that_diffusers_does_not_support_are_refused_by_name(tmp_path, sections, words):
    settings = config(**sections)
    with pytest.raises(UserError) as caught:
        write_folder(settings, {}, tmp_path / "model", names=[], card="", grid=None)
    assert words in str(caught.value) and not (tmp_path / "model").exists()
