"""The options of diffusers' UNet2DModel, and the equivalent fields of a configuration.

    unet/config.json  <->  data.image_size, data.channels, model.*

Options that our network does not support and unknown ones are refused by name. The channels of a condition follow those
of x_t, as in diffusers' LDMSuperResolutionPipeline; a UNet2DModel knows their number, but not their meaning.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ddpm_jax.config import Config
from ddpm_jax.config.checks import resolutions
from ddpm_jax.config.field_types import field_types
from ddpm_jax.config.fields import sides
from ddpm_jax.config.sections import Data, Model
from ddpm_jax.errors import UserError, nearest

DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""Defaults of options that a file omits."""
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0, 1),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1, 1.0),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
"""Options of which our network supports only some values."""
BLOCKS = {
    "DownBlock2D": "conv",
    "AttnDownBlock2D": "downsample_type",
    "ResnetDownsampleBlock2D": "resnet",
    "UpBlock2D": "conv",
    "AttnUpBlock2D": "upsample_type",
    "ResnetUpsampleBlock2D": "resnet",
}
"""Resampling of each type of block: its own, or the name of the option that determines it."""
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("sample_size", "in_channels", "out_channels", "layers_per_block", "norm_num_groups"), (int,)),
    **dict.fromkeys(("attention_head_dim", "num_class_embeds", "attn_norm_num_groups"), (int, type(None))),
    **dict.fromkeys(("down_block_types", "up_block_types", "block_out_channels"), (list, tuple)),
    "flip_sin_to_cos": (bool,),
}
"""Types of the options; integers must be at least 1."""
LARGEST = 2**16
"""More than any plausible number of channels, layers, pixels or classes."""
CONDITIONS: tuple[str, ...] = get_args(field_types(Config)["model.condition"])


def checked_options(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every option of a config.json, with defaults for omitted ones; refuses what our network does not support."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise UserError(f"{where} describes a {config['_class_name']}; only UNet2DModel can be imported.")
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    if isinstance(given.get("model"), dict):
        raise UserError(f"{where} is the configuration of one of our runs, which needs no import; use its workdir.")
    for name in sorted(given.keys() - DEFAULTS.keys()):
        raise UserError(f"{where}: {name}={given[name]!r} is not an option of UNet2DModel; {nearest(name, DEFAULTS)}")
    options = DEFAULTS | given
    for name in ("dropout", "norm_eps"):
        options[name] = checked_float(options[name], f"{where}: {name}")
    size = options["sample_size"]
    if isinstance(size, list | tuple) and len(size) == 2:
        options["sample_size"] = size[0] if size[0] == size[1] else tuple(size)
    for name, values in SUPPORTED.items():
        if (type(options[name]), options[name]) not in [(type(value), value) for value in values]:
            expected = " or ".join(repr(value) for value in values)
            raise UserError(f"{where}: {name}={options[name]!r} is not supported; expected {expected}.")
    for name, kinds in KINDS.items():
        value = options[name]
        if name == "sample_size" and type(value) is tuple:
            wrong = [side for side in value if type(side) is not int or not 1 <= side < LARGEST]
            value = wrong[0] if wrong else value[0]
        too_large = type(value) is int and not 1 <= value < LARGEST
        if type(value) not in kinds or too_large or value in ([], ()):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise UserError(f"{where}: {name}={str(value)[:80]} is not supported; expected a value of type {expected}.")
    _check_blocks(options, where)
    _check_widths(options, where)
    return options


def checked_float(value: Any, name: str) -> float:
    """A number from a JSON file, whose integers may be too large for a float."""
    if type(value) not in (int, float) or not -1e30 < value < 1e30:
        raise UserError(f"{name}={str(value)[:80]} is not supported; expected a number.")
    return float(value)


def _check_blocks(options: Mapping[str, Any], where: str) -> None:
    down, up, widths = (options[name] for name in ("down_block_types", "up_block_types", "block_out_channels"))
    if not len(down) == len(up) == len(widths):
        raise UserError(f"{where}: down_block_types, up_block_types and block_out_channels differ in length.")
    for name, word in (("down_block_types", "Down"), ("up_block_types", "Up")):
        known = [block for block in BLOCKS if word in block]
        for block in options[name]:
            if block not in known:
                raise UserError(f"{where}: {name} contains {block!r}; supported are {', '.join(known)}.")
    if _attention(down) != _attention(up)[::-1]:
        raise UserError(
            f"{where}: attention on the way down ({list(down)}) and up ({list(up)}) differs; expected the same stages."
        )
    if len(_resampling(options)) > 1:
        raise UserError(
            f"{where}: down_block_types, up_block_types, downsample_type and upsample_type mix resampling by "
            "convolutions and by residual blocks; expected one of them throughout."
        )


def _check_widths(options: Mapping[str, Any], where: str) -> None:
    widths, groups = options["block_out_channels"], options["norm_num_groups"]
    if not all(type(width) is int and 0 < width < LARGEST and width % widths[0] == 0 for width in widths):
        raise UserError(f"{where}: block_out_channels={list(widths)} must be whole multiples of the first.")
    if options["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise UserError(
            f"{where}: time_embedding_dim={options['time_embedding_dim']} is not supported; expected {4 * widths[0]}."
        )
    expected = (groups,) if options["resnet_time_scale_shift"] == "scale_shift" else (None, groups)
    if options["attn_norm_num_groups"] not in expected:  # With None, diffusers' middle attention would have no norm.
        raise UserError(
            f"{where}: attn_norm_num_groups={options['attn_norm_num_groups']} with resnet_time_scale_shift="
            f"{options['resnet_time_scale_shift']!r} is not supported; expected {groups}, norm_num_groups."
        )


def image_channels(options: Mapping[str, Any], condition: str, where: str) -> int:
    """Channels of the images of a UNet2DModel with a condition; raises UserError if none fit its inputs and outputs."""
    inputs, outputs = options["in_channels"], options["out_channels"]
    fitting = {
        kind: channels
        for kind in CONDITIONS
        for channels in ((3,) if kind == "grey" else (1, 2, 3, 4))
        if inputs == channels + condition_channels(channels, kind) and outputs in (channels, 2 * channels)
    }
    if condition in fitting:
        return fitting[condition]
    expected = " or ".join(
        f"--config.model.condition={kind} (channels: {channels} of the image, {inputs - channels} of the condition)"
        for kind, channels in fitting.items()
    )
    if not fitting:
        kinds = ", ".join(f"{3 + condition_channels(3, kind)} ({kind})" for kind in CONDITIONS)
        expected = f"for colour images, for example, {kinds}, and out_channels=3, or 6 for a learned variance"
    raise UserError(
        f"{where}: in_channels={inputs} with out_channels={outputs} does not fit model.condition={condition!r}; "
        f"expected {expected}."
    )


def condition_channels(channels: int, condition: str) -> int:
    """Channels that a network for images of so many channels receives beside x_t."""
    data, model = dataclasses.replace(Data(), channels=channels), dataclasses.replace(Model(), condition=condition)
    shape = Config(data=data, model=model).condition_shape
    return shape[2] if shape else 0


def _attention(blocks: Sequence[str]) -> list[bool]:
    return [block.startswith("Attn") for block in blocks]


def _resampling(options: Mapping[str, Any]) -> set[str]:
    """The kinds of resampling in all stages that resample, which are all but the last, down and up."""
    kinds = [BLOCKS[block] for name in ("down_block_types", "up_block_types") for block in options[name][:-1]]
    return {options.get(kind, kind) for kind in kinds}


def fields_of(options: Mapping[str, Any], classes: int, channels: int, condition: str = "none") -> dict[str, Any]:
    """The fields of a configuration that describe a UNet2DModel.

    classes: their number without a null class; channels: of an image; condition: what the further channels mean.
    """
    widths, size = options["block_out_channels"], options["sample_size"]
    sizes = [min(sides(size)) // 2**stage for stage in range(len(widths))]
    attends = _attention(options["down_block_types"])
    return {
        "data.image_size": size,
        "data.channels": channels,
        "model.channels": widths[0],
        "model.multipliers": tuple(width // widths[0] for width in widths),
        "model.blocks": options["layers_per_block"],
        "model.attention_resolutions": tuple(s for s, attended in zip(sizes, attends, strict=True) if attended),
        "model.heads": 1,
        "model.head_channels": options["attention_head_dim"],
        "model.dropout": options["dropout"],
        "model.norm_groups": options["norm_num_groups"],
        "model.norm_eps": options["norm_eps"],
        "model.scale_shift": options["resnet_time_scale_shift"] == "scale_shift",
        "model.resampling": "residual" if _resampling(options) == {"resnet"} else "conv",
        "model.downsample_padding": options["downsample_padding"],
        "model.frequency_shift": options["freq_shift"],
        "model.classes": classes,
        "model.attributes": 0,
        "model.condition": condition,
        "degradation.noise": 0,
    }


def options_of(config: Config) -> dict[str, Any]:
    """The config.json of the UNet2DModel that a configuration describes; refuses what diffusers does not support."""
    model, data = config.model, config.data
    if model.attributes:
        raise UserError(f"model.attributes={model.attributes}: UNet2DModel supports classes, but no attributes.")
    if model.resampling == "pool":
        raise UserError("model.resampling='pool': UNet2DModel halves images by convolutions or residual blocks only.")
    if model.multipliers[0] != 1:
        raise UserError(
            f"model.multipliers={model.multipliers}: the first stage of a UNet2DModel has the width of its first "
            "convolution; expected 1 first."
        )
    if config.degradation.noise:
        raise UserError(
            f"degradation.noise={config.degradation.noise}: a UNet2DModel has no input for the step to which the "
            "condition is noised; use scripts/export_safetensors.py, or train without it."
        )
    if (config.diffusion.objective, config.diffusion.variance) == ("consistency", "learned"):
        raise UserError(
            "diffusion.objective='consistency' with diffusion.variance='learned': diffusers' LCMScheduler takes no "
            "learned variance; use scripts/export_safetensors.py."
        )
    attends = [size in model.attention_resolutions for size in resolutions(data, model)]
    plain_down, plain_up, kind = ("DownBlock2D", "UpBlock2D", "conv")
    if model.resampling == "residual":
        plain_down, plain_up, kind = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D", "resnet")
    return {
        "_class_name": "UNet2DModel",
        **DEFAULTS,
        "sample_size": data.image_size if isinstance(data.image_size, int) else list(data.image_size),
        "in_channels": data.channels + condition_channels(data.channels, model.condition),
        "out_channels": data.channels * (2 if config.diffusion.variance == "learned" else 1),
        "freq_shift": model.frequency_shift,
        "flip_sin_to_cos": False,
        "down_block_types": ["AttnDownBlock2D" if attended else plain_down for attended in attends],
        "up_block_types": ["AttnUpBlock2D" if attended else plain_up for attended in reversed(attends)],
        "block_out_channels": [model.channels * m for m in model.multipliers],
        "layers_per_block": model.blocks,
        "downsample_padding": model.downsample_padding,
        "downsample_type": kind,
        "upsample_type": kind,
        "dropout": model.dropout,
        "attention_head_dim": _head_channels(config),
        "norm_num_groups": model.norm_groups,
        "attn_norm_num_groups": model.norm_groups if model.scale_shift else None,
        "norm_eps": model.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if model.scale_shift else "default",
        "num_class_embeds": model.classes + has_null_class(config) if model.classes else None,
    }


def has_null_class(config: Config) -> bool:
    """Whether the model was trained without labels, too, which diffusers can only express as an additional class."""
    return bool(config.model.classes) and config.train.label_dropout > 0.0


def _head_channels(config: Config) -> int | None:
    """attention_head_dim, one number for all stages; None for a single head."""
    model = config.model
    if model.head_channels or model.heads == 1:
        return model.head_channels
    stages = zip(model.multipliers, resolutions(config.data, model), strict=True)
    attended = {m for m, size in stages if size in model.attention_resolutions} | {model.multipliers[-1]}
    widths = sorted(model.channels * m // model.heads for m in attended)
    if len(widths) > 1:
        raise UserError(
            f"model.heads={model.heads} makes heads of {' and '.join(map(str, widths))} channels; a UNet2DModel needs "
            "the same number in all of them (model.head_channels)."
        )
    return widths[0]
