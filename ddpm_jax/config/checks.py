"""What a configuration must not be: out of range, unknown, or in contradiction with itself.

Each refusal is one line: the field, what it got, what was expected, what to try.
"""

import dataclasses
import itertools
import math
import types
import typing
from typing import Any

from ddpm_jax.config.sections import Config, Data, Model, Range, Sample
from ddpm_jax.errors import UserError, nearest

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def checked(config: Config) -> Config:
    """The same Config, if it holds together; a UserError otherwise."""
    _check_fields(config, "")
    _check_size(config.data, config.model)
    _check_pixels(config.data)
    _check_told(config)
    _check_widths(config.model)
    _check_attention(config.data, config.model)
    _check_diffusion(config)
    _check_batches(config)
    _check_sampling(config)
    _check_task(config)
    _check_timesteps(config)
    _check_guidance(config)
    _check_evaluation(config)
    _check_profile(config.log.profile)
    return config


def _check_fields(section: Any, prefix: str) -> None:
    for name, kind in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            _check_fields(value, f"{name}.")
        else:
            _check_value(kind, value, prefix + name)


def _check_value(kind: Any, value: Any, name: str) -> None:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if value is None:
            return
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if value not in choices or type(value) is bool:
            raise UserError(f"{name}={value!r} does not exist; {nearest(str(value), map(str, choices))}")
        return
    allowed = None
    if typing.get_origin(kind) is typing.Annotated:
        kind, allowed = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple) or not all(type(item) is int for item in value):
            raise UserError(f"{name}={value!r} has the wrong type; expected whole numbers such as (1, 2, 2).")
        return
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise UserError(f"{name}={value!r} has the wrong type; expected {TYPE_NAMES[kind]}.")
    if isinstance(allowed, Range) and not allowed.holds(value):
        raise UserError(f"{name}={value} is out of range; expected {allowed.words}.")


def resolutions(data: Data, model: Model) -> list[int]:
    """The image sizes that the U-Net's stages see."""
    return [data.image_size // 2**stage for stage in range(len(model.multipliers))]


def _check_size(data: Data, model: Model) -> None:
    if not model.multipliers or min(model.multipliers) < 1:
        raise UserError(f"model.multipliers={model.multipliers} must list one or more widths of at least 1.")
    halvings = len(model.multipliers) - 1
    factor, size = 2**halvings, data.image_size
    if size % factor:
        tries = " or ".join(str(s) for s in (size // factor * factor, (size // factor + 1) * factor) if s)
        raise UserError(
            f"data.image_size={size} must be divisible by {factor}, since model.multipliers={model.multipliers} halve "
            f"it {halvings} times (try {tries}, or fewer stages)."
        )


def _check_pixels(data: Data) -> None:
    crop, background = data.crop, data.background
    sound = len(crop) in (0, 1, 4) and min(crop, default=0) >= 0 and crop != (0,)
    if not sound or (len(crop) == 4 and not 0 < crop[2] - crop[0] == crop[3] - crop[1]):
        raise UserError(
            f"data.crop={crop} is no crop; expected (), (side,) or a square (left, top, right, bottom) in pixels."
        )
    if len(background) != 3 or not all(0 <= level <= 255 for level in background):
        raise UserError(f"data.background={background} is no colour; expected red, green and blue from 0 to 255.")
    if data.path and data.source in ("digits", "synthetic"):
        raise UserError(
            f"data.path={data.path} is not read by data.source={data.source!r}; leave it out, or set data.source=auto."
        )
    if data.source == "digits" and (data.image_size, data.channels) != (8, 1):
        raise UserError(
            f"data.source='digits' holds 8x8 greyscale images; got data.image_size={data.image_size}, "
            f"data.channels={data.channels} (set 8 and 1, or another source)."
        )


def _check_told(config: Config) -> None:
    """The attributes that are chosen by name are those that the model is told."""
    if config.data.attributes is not None:
        count = len({name.strip() for name in config.data.attributes.split(",")})
        if config.model.attributes != count:
            raise UserError(
                f"data.attributes={config.data.attributes!r} chooses {count}, but model.attributes="
                f"{config.model.attributes}; set it to {count}."
            )


def _check_widths(model: Model) -> None:
    channels, groups = model.channels, model.norm_groups
    if channels % groups:
        tries = " or ".join(str(c) for c in (channels // groups * groups, (channels // groups + 1) * groups) if c)
        raise UserError(f"model.channels={channels} must be a multiple of model.norm_groups={groups} (try {tries}).")
    if channels % 2 or channels < 4:
        raise UserError(f"model.channels={channels} must be even and at least 4, for the time embedding.")
    if model.classes and model.attributes:
        raise UserError(
            f"model.classes={model.classes} and model.attributes={model.attributes} exclude each other; set one to 0."
        )


def _check_attention(data: Data, model: Model) -> None:
    occurring = resolutions(data, model)
    for resolution in model.attention_resolutions:
        if resolution not in occurring:
            raise UserError(
                f"model.attention_resolutions={model.attention_resolutions}: {resolution} never occurs; images of "
                f"{data.image_size} pixels pass through {', '.join(map(str, occurring))}."
            )
    attended = [m for m, r in zip(model.multipliers, occurring, strict=True) if r in model.attention_resolutions]
    name, per = ("head_channels", model.head_channels) if model.head_channels else ("heads", model.heads)
    # The middle of the network attends too, at the width of the last stage.
    for width in sorted({model.channels * m for m in (*attended, model.multipliers[-1])}):
        if width % per:
            raise UserError(f"model.{name}={per} must divide {width}, the channels of a stage with attention.")


def _check_diffusion(config: Config) -> None:
    diffusion = config.diffusion
    if diffusion.beta_start > diffusion.beta_end:
        raise UserError(
            f"diffusion.beta_start={diffusion.beta_start} must not exceed diffusion.beta_end={diffusion.beta_end}."
        )
    if diffusion.zero_terminal_snr and diffusion.prediction == "eps":
        raise UserError(
            "diffusion.zero_terminal_snr=True needs diffusion.prediction='v' or 'x0', got 'eps': at the last step "
            "x_t is pure noise, and predicting that noise says nothing of the image."
        )


def _check_batches(config: Config) -> None:
    if config.data.batch_size % config.train.accumulate:
        raise UserError(
            f"data.batch_size={config.data.batch_size} must be a multiple of train.accumulate="
            f"{config.train.accumulate}, the number of parts it is computed in."
        )


def _check_evaluation(config: Config) -> None:
    evaluate = config.evaluate
    if evaluate.features == "pixels" and evaluate.weights:
        raise UserError(f"evaluate.weights={evaluate.weights} has no effect with evaluate.features='pixels'.")
    pixels = config.data.image_size**2 * config.data.channels
    if evaluate.features == "pixels" and pixels > MOST_PIXELS:
        raise UserError(
            f"evaluate.features='pixels' is for tiny images, of at most {MOST_PIXELS:,} pixels and channels, got "
            f"{pixels:,}; set it to 'inception'."
        )


MOST_PIXELS = 4096
ONLY_FOR = {"eta": ("ddim",), "variance": ("ddpm",), "order": ("dpm_solver", "unipc")}
"""Fields of config.sample that only some samplers heed."""


def _check_profile(steps: tuple[int, ...]) -> None:
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        raise UserError(
            f"log.profile={steps} should be the first and the last step to trace, such as (20, 24), or empty for none."
        )


def _check_sampling(config: Config) -> None:
    sample, default = config.sample, Sample()
    if sample.variance == "learned" and config.diffusion.variance != "learned":
        raise UserError(
            "sample.variance='learned' needs a model trained with diffusion.variance='learned', "
            f"got {config.diffusion.variance!r}."
        )
    for name, samplers in ONLY_FOR.items():
        value = getattr(sample, name)
        if value != getattr(default, name) and sample.sampler not in samplers:
            raise UserError(
                f"sample.{name}={value} has no effect with sample.sampler={sample.sampler!r}; set the sampler to "
                f"{' or '.join(map(repr, samplers))}."
            )
    if sample.sampler == "unipc" and sample.order == 3:
        raise UserError("sample.order=3 is too high for sample.sampler='unipc'; expected 1 or 2, or 'dpm_solver'.")
    for name in ("percentile", "percentile_max"):
        value = getattr(sample, name)
        if value != getattr(default, name) and sample.threshold != "dynamic":
            raise UserError(f"sample.{name}={value} has no effect; set sample.threshold='dynamic'.")
    if sample.keep_eps and (sample.threshold == "none" or sample.sampler != "ddim"):
        raise UserError(
            "sample.keep_eps=True has no effect; it needs sample.sampler='ddim', which alone uses eps, and "
            "sample.threshold='clip' or 'dynamic'."
        )


TASK_FIELDS = {
    "strip": ("generate",),
    "gif": ("generate",),
    "frames": ("generate",),
    "compare": ("compare",),
    "images": ("reconstruct", "interpolate", "inpaint", "vary"),
    "mask": ("inpaint",),
    "resamples": ("inpaint",),
    "jump": ("inpaint",),
    "strength": ("vary",),
    "other_seed": ("interpolate",),
}
"""Fields of config.sample that only some tasks heed."""
ALWAYS_FINE = ("strip", "gif")
"""Of these, what a recipe sets for all that is drawn from it."""


def _check_task(config: Config) -> None:
    sample, default = config.sample, Sample()
    for name, tasks in TASK_FIELDS.items():
        value = getattr(sample, name)
        if value != getattr(default, name) and sample.task not in tasks and name not in ALWAYS_FINE:
            raise UserError(
                f"sample.{name}={value} has no effect with sample.task={sample.task!r}; set the task to "
                f"{' or '.join(map(repr, tasks))}."
            )
    if sample.task in ("reconstruct", "interpolate") and sample.threshold == "dynamic":
        raise UserError(
            f"sample.threshold='dynamic' has no effect with sample.task={sample.task!r}: what is cut off could not be "
            "turned back. Leave it out."
        )
    if sample.task in ("reconstruct", "interpolate") and (sample.sampler, sample.eta) != ("ddim", 0.0):
        raise UserError(
            f"sample.task={sample.task!r} needs sample.sampler='ddim' with sample.eta=0, which alone can be turned "
            f"back; got {sample.sampler!r} and {sample.eta}."
        )
    if sample.task == "inpaint" and sample.sampler != "ddpm":
        raise UserError(f"sample.task='inpaint' needs sample.sampler='ddpm', got {sample.sampler!r}.")
    if sample.task == "interpolate" and sample.count < 2:
        raise UserError(f"sample.count={sample.count} leaves nothing between two images; expected 2 or more.")


def _check_timesteps(config: Config) -> None:
    sample, total = config.sample, config.diffusion.steps
    if sample.steps is not None and sample.steps > total:
        raise UserError(f"sample.steps={sample.steps} exceeds diffusion.steps={total}; expected at most as many.")
    if not sample.timesteps:
        return
    listed, bounded = sample.timesteps, (total + 1, *sample.timesteps, 0)
    if any(t <= s for t, s in itertools.pairwise(bounded)):
        raise UserError(f"sample.timesteps={listed} must fall from step to step, within {total} to 1.")
    if sample.steps not in (None, len(listed)):
        raise UserError(
            f"sample.steps={sample.steps}, but sample.timesteps={listed} lists {len(listed)}; leave one of them out."
        )
    if sample.spacing != Sample().spacing:
        raise UserError(
            f"sample.spacing={sample.spacing!r} has no effect with sample.timesteps={listed}; leave one of them out."
        )
    if sample.final == "sigma_min" and listed == (1,):
        raise UserError("sample.final='sigma_min' ends at step 1, where sample.timesteps=(1,) starts; add a step.")


def _check_guidance(config: Config) -> None:
    sample, default = config.sample, Sample()
    interval, total = sample.guidance_interval, config.diffusion.steps
    if interval and not (len(interval) == 2 and 1 <= interval[0] <= interval[1] <= total):
        raise UserError(
            f"sample.guidance_interval={interval} is no interval; expected (low, high) with 1 <= low <= high <= "
            f"diffusion.steps={total}, or ()."
        )
    if not (config.model.classes or config.model.attributes):
        for name in ("guidance", "label"):
            value = getattr(sample, name)
            if value != getattr(default, name):
                raise UserError(
                    f"sample.{name}={value} needs a conditional model; this one has model.classes=0 and "
                    "model.attributes=0."
                )
    nobody = config.model.attributes or sample.task not in ("generate", "compare")
    if sample.guidance != 1.0 and sample.label is None and nobody:
        raise UserError(f"sample.guidance={sample.guidance} has no effect without a label; set sample.label too.")
    for name in ("guidance_interval", "guidance_rescale"):
        value = getattr(sample, name)
        if value != getattr(default, name) and sample.guidance == 1.0:
            raise UserError(f"sample.{name}={value} has no effect with sample.guidance=1.0; set the guidance too.")
