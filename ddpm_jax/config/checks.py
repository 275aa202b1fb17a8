"""Checks of a configuration for values that are out of range, unknown, or contradictory.

    types and ranges of fields (field_types.py) -> data, model, training, evaluation -> sampling (sampling_checks.py)

Each error is one line: the field and its value, the expected values, and a remedy.
"""

import math

from ddpm_jax.config.field_types import check_fields
from ddpm_jax.config.fields import sides
from ddpm_jax.config.sampling_checks import check_sampling, refuse_without_snapshots
from ddpm_jax.config.sections import Config, Data, Degradation, Model, Optimizer
from ddpm_jax.errors import UserError

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
    _check_ema_widths(config.optimizer)
    _check_evaluation(config)
    check_sampling(config)
    return config


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


def _check_ema_widths(optimizer: Optimizer) -> None:
    default = type(optimizer)().ema_widths
    if not optimizer.ema_snapshots and optimizer.ema_widths != default:
        raise UserError(
            f"optimizer.ema_widths={optimizer.ema_widths} has no effect with optimizer.ema_snapshots=0; set that to a "
            f"number of steps, or this to {default}."
        )
    if not optimizer.ema_widths:
        raise UserError("optimizer.ema_widths=() names no EMA; expected at least one width, such as (0.05, 0.1).")


def _check_evaluation(config: Config) -> None:
    evaluate = config.evaluate
    if evaluate.ema_widths:
        refuse_without_snapshots(config, "evaluate.ema_widths", evaluate.ema_widths)
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
