"""Checks of a configuration for values that are out of range, unknown, or contradictory.

Each error is one line: the field and its value, the expected values, and a remedy.
"""

import dataclasses
import itertools
import math
import types
import typing
from typing import Any

from ddpm_jax.config.fields import Range, meanings, sides
from ddpm_jax.config.sections import Config, Data, Degradation, Model, Sample
from ddpm_jax.errors import UserError, nearest

TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    tuple: "whole numbers such as (1, 2, 2)",
    object: "a side such as 64, or (height, width) such as (48, 80)",
}
MOST_PIXELS = 4096
"""Largest height x width x channels for evaluate.features="pixels", whose covariance is the square of that."""

LEAST_MASKED = 4
"""Shortest side of images for which every mask has painted and known pixels."""


def checked(config: Config) -> Config:
    """The same Config, if it is consistent; raises UserError otherwise."""
    check_fields(config)
    _check_size(config.data, config.model)
    _check_pixels(config.data)
    _check_labels(config)
    _check_condition(config)
    _check_widths(config.model)
    _check_attention(config.data, config.model)
    _check_training(config)
    _check_used(config.sample)
    _check_sampling(config)
    _check_ema(config)
    _check_task(config)
    _check_timesteps(config)
    _check_guidance(config)
    _check_evaluation(config)
    return config


def check_fields(section: Any, prefix: str = "") -> None:
    """Refuses values of a wrong type or out of range in a Config or section; prefix: of field names in errors."""
    for name, hint in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{name}.")
        else:
            _check_value(hint, value, prefix + name)


def _check_value(hint: Any, value: Any, name: str) -> None:
    hint, optional = without_none(hint)
    if optional and value is None:
        return
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices or type(value) is bool:
            raise UserError(f"{name}={value!r} does not exist; {nearest(str(value), map(str, choices))}")
        return
    kind = value_type(hint)
    sound = type(value) is kind or (kind is object and type(value) in (int, tuple))
    if hint == tuple[int, ...]:
        sound = sound and all(type(item) is int for item in value)
    elif kind is float:
        sound = sound and math.isfinite(value)
    ranges = [note for note in typing.get_args(hint) if isinstance(note, Range)]
    if not sound:
        expected = ranges[0].words if ranges and kind is tuple else TYPE_NAMES[kind]
        raise UserError(f"{name}={value!r} has the wrong type; expected {expected}.")
    for allowed in ranges:
        if not allowed.holds(value):
            raise UserError(f"{name}={value} is out of range; expected {allowed.words}.")


def without_none(hint: Any) -> tuple[Any, bool]:
    """A field's type without None, and whether the field may be None."""
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and type(None) in kinds:
        (kind,) = (kind for kind in kinds if kind is not type(None))
        return kind, True
    return hint, False


def value_type(hint: Any) -> type:
    """The type of a field's value when it is not None: int for `Count | None`, str for a choice of names."""
    hint, _ = without_none(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return type(typing.get_args(hint)[0])
    if origin is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is types.UnionType:
        return object  # As ml_collections calls what may have several types.
    return typing.get_origin(hint) or hint


def resolutions(data: Data, model: Model) -> list[int]:
    """The shorter side of the features in each stage of the U-Net."""
    return [min(sides(data.image_size)) // 2**stage for stage in range(len(model.multipliers))]


def _multiples(number: int, factor: int) -> str:
    """The nearest multiples below and above a number that is none."""
    below = number // factor * factor
    return " or ".join(str(multiple) for multiple in (below, below + factor) if multiple)


def _check_size(data: Data, model: Model) -> None:
    if not model.multipliers or min(model.multipliers) < 1:
        raise UserError(f"model.multipliers={model.multipliers} must list one or more widths of at least 1.")
    halvings = len(model.multipliers) - 1
    factor, times = 2**halvings, "once" if halvings == 1 else f"{halvings} times"
    for side in sides(data.image_size):
        if side % factor:
            raise UserError(
                f"data.image_size={data.image_size} must be divisible by {factor}, since model.multipliers="
                f"{model.multipliers} halve it {times} (try {_multiples(side, factor)} for {side}, or fewer "
                "stages)."
            )


def _check_pixels(data: Data) -> None:
    crop, background = data.crop, data.background
    sound = len(crop) in (0, 1, 2, 4) and min(crop, default=0) >= 0
    cropped = sides(crop[0] if len(crop) == 1 else crop) if len(crop) in (1, 2) else sides(data.image_size)
    if len(crop) == 4:
        cropped = crop[3] - crop[1], crop[2] - crop[0]
    if not sound or min(cropped) < 1:
        raise UserError(
            f"data.crop={crop} is not a crop; expected (), (side,), (height, width) or (left, top, right, bottom) in "
            "pixels."
        )
    height, width = sides(data.image_size)
    # Half a pixel of rounding in either side of the crop.
    if abs(cropped[0] * width - cropped[1] * height) > max(height, width) / 2:
        raise UserError(
            f"data.crop={crop} is {cropped[0]}x{cropped[1]} (height x width) and would be distorted to "
            f"data.image_size={data.image_size}; give both the same shape."
        )
    if len(background) != 3 or not all(0 <= level <= 255 for level in background):
        raise UserError(f"data.background={background} is not a colour; expected red, green and blue from 0 to 255.")
    if data.depth == 16 and data.channels != 1:
        raise UserError(f"data.depth=16 is for greyscale images, got data.channels={data.channels}; set it to 1.")
    if data.path and data.source in ("digits", "synthetic"):
        raise UserError(
            f"data.path={data.path} is not read by data.source={data.source!r}; leave it out, or set data.source=auto."
        )
    if data.source == "digits" and (sides(data.image_size), data.channels) != ((8, 8), 1):
        raise UserError(
            f"data.source='digits' has 8x8 greyscale images; got data.image_size={data.image_size}, "
            f"data.channels={data.channels} (set 8 and 1, or another source)."
        )


def _check_labels(config: Config) -> None:
    chosen, classes, attributes = config.data.attributes, config.model.classes, config.model.attributes
    most = attributes if chosen is None else len({name.strip() for name in chosen.split(",")})
    if attributes > most or (most and not attributes):  # Fewer are known only with the data: names may hold commas.
        raise UserError(
            f"data.attributes={chosen!r} chooses {most}, but model.attributes={attributes}; set it to {most}."
        )
    if classes and attributes:
        raise UserError(f"model.classes={classes} and model.attributes={attributes} exclude each other; set one to 0.")


def _check_condition(config: Config) -> None:
    condition, degradation, default = config.model.condition, config.degradation, Degradation()
    if condition != "low_resolution" and degradation != default:
        name = next(name for name in vars(default) if getattr(degradation, name) != getattr(default, name))
        raise UserError(
            f"degradation.{name}={getattr(degradation, name)!r} has no effect with model.condition={condition!r}; set "
            f"that to 'low_resolution', or this to {getattr(default, name)!r}."
        )
    if condition == "none" and config.train.condition_dropout:
        raise UserError(
            f"train.condition_dropout={config.train.condition_dropout} has no effect without model.condition."
        )
    sizes = sides(config.data.image_size)
    if condition == "low_resolution" and any(side % degradation.factor for side in sizes):
        common = [str(factor) for factor in range(2, min(sizes) + 1) if not any(side % factor for side in sizes)]
        raise UserError(
            f"degradation.factor={degradation.factor} must divide data.image_size={config.data.image_size}; try "
            + (" or ".join(common[:4]) or "another size")
            + "."
        )
    if condition == "low_resolution" and config.data.channels in (2, 4):
        raise UserError(
            f"model.condition='low_resolution' is for images without alpha, got data.channels={config.data.channels}; "
            f"set it to {config.data.channels - 1}."
        )
    if condition == "mask" and min(sizes) < LEAST_MASKED:
        raise UserError(
            f"model.condition='mask' is for images of at least {LEAST_MASKED}x{LEAST_MASKED} pixels, got "
            f"data.image_size={config.data.image_size}; set a larger one."
        )
    if condition == "grey" and config.data.channels != 3:
        raise UserError(
            f"model.condition='grey' is for colour images, got data.channels={config.data.channels}; set it to 3."
        )
    if degradation.noise > config.diffusion.steps:
        raise UserError(
            f"degradation.noise={degradation.noise} exceeds diffusion.steps={config.diffusion.steps}; expected a step "
            "of the forward process."
        )
    # In a cascade it is for later runs, which are checked by their own configuration.
    if config.sample.condition_noise > degradation.noise and not config.sample.cascade:
        raise UserError(
            f"sample.condition_noise={config.sample.condition_noise} exceeds degradation.noise={degradation.noise}, "
            "the noisiest condition that the model is trained with."
        )


def _check_widths(model: Model) -> None:
    channels, groups = model.channels, model.norm_groups
    if channels % groups:
        raise UserError(
            f"model.channels={channels} must be a multiple of model.norm_groups={groups} (try "
            f"{_multiples(channels, groups)})."
        )
    if channels % 2 or channels < 4:
        raise UserError(f"model.channels={channels} must be even and at least 4, for the time embedding.")


def _check_attention(data: Data, model: Model) -> None:
    occurring = resolutions(data, model)
    for resolution in model.attention_resolutions:
        if resolution not in occurring:
            raise UserError(
                f"model.attention_resolutions={model.attention_resolutions}: {resolution} never occurs; images of "
                f"{data.image_size} pixels pass through {', '.join(map(str, occurring))} (the shorter side); name "
                "some of these."
            )
    attended = [m for m, r in zip(model.multipliers, occurring, strict=True) if r in model.attention_resolutions]
    name, per = ("head_channels", model.head_channels) if model.head_channels else ("heads", model.heads)
    # The middle of the network attends too, at the width of the last stage.
    for width in sorted({model.channels * m for m in (*attended, model.multipliers[-1])}):
        if width % per:
            raise UserError(f"model.{name}={per} must divide {width}, the channels of a stage with attention.")


def _check_training(config: Config) -> None:
    diffusion, steps = config.diffusion, config.log.profile
    if diffusion.beta_start > diffusion.beta_end:
        raise UserError(
            f"diffusion.beta_start={diffusion.beta_start} must not exceed diffusion.beta_end={diffusion.beta_end}."
        )
    if diffusion.objective == "consistency":
        for name in ("loss", "weighting"):
            if (value := getattr(diffusion, name)) != getattr(type(diffusion)(), name):
                raise UserError(
                    f"diffusion.{name}={value!r} has no effect with diffusion.objective='consistency', which has its "
                    "own loss; leave one of them out."
                )
    train, sampling = config.train, config.train.t_sampling
    for name in {"uniform": ("t_mean", "t_std", "t_unbiased"), "loss": ("t_mean", "t_std")}.get(sampling, ()):
        if (value := getattr(train, name)) != getattr(type(train)(), name):
            raise UserError(
                f"train.{name}={value} has no effect with train.t_sampling={sampling!r}; set that to 'logit_normal'."
            )
    if sampling == "loss" and not train.t_unbiased:
        raise UserError(
            "train.t_sampling='loss' needs train.t_unbiased=True: without weights, the loss would follow its own size."
        )
    if diffusion.zero_terminal_snr and diffusion.prediction == "eps":
        raise UserError(
            "diffusion.zero_terminal_snr=True needs diffusion.prediction='v' or 'x0', got 'eps': at the last step x_t "
            "is pure noise, whose prediction contains no information about the image."
        )
    if config.data.batch_size % config.train.accumulate:
        raise UserError(
            f"data.batch_size={config.data.batch_size} must be a multiple of train.accumulate="
            f"{config.train.accumulate}, the number of microbatches."
        )
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        raise UserError(
            f"log.profile={steps} is not a range; expected the first and last step to trace, such as (20, 24), or ()."
        )


def _check_evaluation(config: Config) -> None:
    evaluate = config.evaluate
    if evaluate.features == "pixels" and evaluate.weights:
        raise UserError(f"evaluate.weights={evaluate.weights} has no effect with evaluate.features='pixels'.")
    if evaluate.condition_split is not None and config.model.condition == "none":
        raise UserError(
            f"evaluate.condition_split={evaluate.condition_split!r} has no effect with model.condition='none'."
        )
    pixels = math.prod(config.image_shape)
    if evaluate.features == "pixels" and pixels > MOST_PIXELS:
        raise UserError(
            f"evaluate.features='pixels' is for images of at most {MOST_PIXELS:,} height x width x channels, got "
            f"{pixels:,}; set it to 'inception'."
        )


def _check_used(sample: Sample) -> None:
    """Refuses fields that the sampler or the task does not use."""
    default = type(sample)()
    for name, meaning in meanings(type(sample)).items():
        value = getattr(sample, name)
        if value == getattr(default, name) or meaning.ignored:
            continue
        for chooser, users in (("sampler", meaning.samplers), ("task", meaning.tasks)):
            if users and (chosen := getattr(sample, chooser)) not in users:
                raise UserError(
                    f"sample.{name}={value} has no effect with sample.{chooser}={chosen!r}; set the {chooser} to "
                    f"{' or '.join(map(repr, users))}."
                )


def _refuse_if_set(sample: Sample, names: tuple[str, ...], problem: str) -> None:
    for name in names:
        if (value := getattr(sample, name)) != getattr(Sample(), name):
            raise UserError(f"sample.{name}={value} {problem}")


def _check_sampling(config: Config) -> None:
    sample = config.sample
    if sample.variance == "learned" and config.diffusion.variance != "learned":
        raise UserError(
            "sample.variance='learned' needs a model trained with diffusion.variance='learned', "
            f"got {config.diffusion.variance!r}."
        )
    if sample.sampler == "unipc" and sample.order == 3:
        raise UserError("sample.order=3 is too high for sample.sampler='unipc'; expected 1 or 2, or 'dpm_solver'.")
    if sample.threshold != "dynamic":
        _refuse_if_set(sample, ("percentile", "percentile_max"), "has no effect; set sample.threshold='dynamic'.")
    if sample.keep_eps and sample.threshold == "none":
        raise UserError(
            "sample.keep_eps=True has no effect with sample.threshold='none'; set the threshold to 'clip' or 'dynamic'."
        )


def _check_ema(config: Config) -> None:
    optimizer, sample = config.optimizer, config.sample
    default = type(optimizer)().ema_widths
    if not optimizer.ema_snapshots and optimizer.ema_widths != default:
        raise UserError(
            f"optimizer.ema_widths={optimizer.ema_widths} has no effect with optimizer.ema_snapshots=0; set that to a "
            f"number of steps, or this to {default}."
        )
    if not optimizer.ema_widths:
        raise UserError("optimizer.ema_widths=() names no EMA; expected at least one width, such as (0.05, 0.1).")
    given = [("sample.ema_width", sample.ema_width), ("evaluate.ema_widths", config.evaluate.ema_widths or None)]
    for name, value in given:
        if value is not None and not optimizer.ema_snapshots:
            raise UserError(
                f"{name}={value} needs snapshots of the EMAs, but the run was trained with optimizer.ema_snapshots=0; "
                "leave it out, or train a new run with them."
            )
    if sample.ema_width is not None and not sample.ema:
        raise UserError(
            f"sample.ema_width={sample.ema_width} has no effect with sample.ema=False; leave out one of them."
        )


def _check_task(config: Config) -> None:
    sample = config.sample
    inverts = sample.task in ("reconstruct", "interpolate")
    if inverts and sample.threshold == "dynamic":
        raise UserError(
            f"sample.threshold='dynamic' cannot be inverted, as sample.task={sample.task!r} requires; leave it out."
        )
    if inverts and (sample.sampler, sample.eta) != ("ddim", 0.0):
        raise UserError(
            f"sample.task={sample.task!r} needs sample.sampler='ddim' with sample.eta=0, the only invertible sampler; "
            f"got {sample.sampler!r} and {sample.eta}."
        )
    if sample.task == "inpaint" and sample.sampler != "ddpm":
        raise UserError(f"sample.task='inpaint' needs sample.sampler='ddpm', got {sample.sampler!r}.")
    condition = config.model.condition
    if sample.task == "condition" and condition == "none":
        raise UserError("sample.task='condition' needs an image-to-image model; this one has model.condition='none'.")
    if sample.task not in ("generate", "condition") and condition != "none":
        raise UserError(
            f"sample.task={sample.task!r} needs a model without a condition, got model.condition={condition!r}; set "
            "the task to 'condition'."
        )
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
        raise UserError(f"sample.timesteps={listed} must descend, within {total} to 1.")
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
    sample = config.sample
    interval, total = sample.guidance_interval, config.diffusion.steps
    if interval and not (len(interval) == 2 and 1 <= interval[0] <= interval[1] <= total):
        raise UserError(
            f"sample.guidance_interval={interval} is not an interval; expected (low, high) with 1 <= low <= high <= "
            f"diffusion.steps={total}, or ()."
        )
    needs_no_label = config.train.condition_dropout > 0.0 or sample.guide is not None
    if not config.label_width:
        problem = "this one has model.classes=0 and model.attributes=0"
        _refuse_if_set(sample, ("label",), f"needs a conditional model; {problem}.")
        if config.model.condition != "none":
            problem += ", and was never trained without its condition (train.condition_dropout=0)"
        problem = f"needs a conditional model, or sample.guide; {problem}."
        _refuse_if_set(sample, () if needs_no_label else ("guidance",), problem)
    without_label = (config.model.attributes or sample.task not in ("generate", "compare")) and not needs_no_label
    if sample.guidance != 1.0 and sample.label is None and without_label:
        raise UserError(f"sample.guidance={sample.guidance} has no effect without a label; set sample.label too.")
    if sample.guidance == 1.0:
        problem = "has no effect with sample.guidance=1.0; set the guidance too."
        _refuse_if_set(sample, ("guide", "guidance_interval", "guidance_rescale"), problem)
