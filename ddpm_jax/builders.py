"""Builds the parts that a Config names: the only place where names become functions."""

import dataclasses
import logging
from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from ddpm_jax.config import Config
from ddpm_jax.config.fields import fields_where
from ddpm_jax.config.sections import Sample
from ddpm_jax.data.augment import PARAMETERS
from ddpm_jax.data.batches import Batch, Batches
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.conditions import Condition, grey_levels, low_resolution, masked
from ddpm_jax.diffusion.consistency import Consistency, consistency_losses, earlier_steps
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.guidance import Guidance
from ddpm_jax.diffusion.likelihood import Variance
from ddpm_jax.diffusion.objective import (
    Network,
    Objective,
    absolute_error,
    denoising_losses,
    huber,
    min_snr,
    p2,
    squared_error,
    uniform,
)
from ddpm_jax.diffusion.schedule import BETAS, Schedule, schedule_of_betas
from ddpm_jax.diffusion.time_sampling import logit_normal, no_history
from ddpm_jax.errors import UserError
from ddpm_jax.network.unet import UNet, init_params
from ddpm_jax.runtime.devices import to_devices
from ddpm_jax.sampling.consistency import consistency
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.ddpm import ddpm
from ddpm_jax.sampling.dpm_solver import dpm_solver
from ddpm_jax.sampling.editing import Mask, PixelMask, inpaint
from ddpm_jax.sampling.heun import heun
from ddpm_jax.sampling.loop import SCAN, Loop
from ddpm_jax.sampling.noise import draw_noise
from ddpm_jax.sampling.threshold import clip, constrain, dynamic
from ddpm_jax.sampling.timesteps import Pairs, listed_pairs, step_pairs
from ddpm_jax.sampling.unipc import unipc
from ddpm_jax.shapes import Betas, ImageKeys, Images, PerImage, Steps
from ddpm_jax.training.optimizer import build_optimizer, learning_rate
from ddpm_jax.training.state import TrainState, init_state
from ddpm_jax.training.step import Learner, Loss

logger = logging.getLogger(__name__)


def build_schedule(config: Config) -> Schedule:
    """The noise schedule."""
    diffusion = config.diffusion
    ends = (diffusion.beta_start, diffusion.beta_end) if diffusion.schedule in ("linear", "quadratic") else ()
    betas = BETAS[diffusion.schedule](diffusion.steps, *ends)
    try:
        return schedule_of_betas(betas, zero_terminal_snr=diffusion.zero_terminal_snr)
    except ValueError as error:
        message = f"diffusion.schedule={diffusion.schedule!r} with betas {ends} is not valid: {error}"
        raise UserError(message) from error


def build_loss(config: Config) -> Loss:
    """The training loss: that of diffusion.objective."""
    schedule, diffusion = build_schedule(config), config.diffusion
    if diffusion.objective == "consistency":
        pairs = earlier_steps(schedule, diffusion.consistency_stages)
        return partial(consistency_losses, Consistency(diffusion.prediction, pairs, config.train.steps), schedule)
    objective = build_objective(config)

    def loss(network: Network, x0: Images, t: Steps, noise: Images, step: Any) -> PerImage:
        return denoising_losses(objective, schedule, network, x0, t, noise)

    return loss


def build_objective(config: Config) -> Objective:
    """The settings of the denoising loss."""
    diffusion = config.diffusion
    distances = {"mse": squared_error, "mae": absolute_error, "huber": huber(diffusion.huber_delta)}
    weightings = {
        "uniform": uniform,
        "min_snr": min_snr(diffusion.min_snr_gamma),
        "p2": p2(diffusion.p2_gamma, diffusion.p2_k),
    }
    return Objective(
        prediction=diffusion.prediction,
        distance=distances[diffusion.loss],
        weighting=weightings[diffusion.weighting],
        learned_variance=diffusion.variance == "learned",
        vlb_weight=diffusion.vlb_weight,
        depth=config.data.depth,
    )


def build_unet(config: Config) -> UNet:
    """The network, without parameters. UNet names its options as the fields of `model`."""
    options: dict[str, Any] = dataclasses.asdict(config.model)
    options["dtype"] = jnp.dtype(config.model.dtype)
    del options["classes"], options["attributes"], options["condition"]
    options |= {
        "labels": config.label_width,
        "condition_channels": config.condition_shape[2] if config.condition_shape else 0,
        "condition_steps": config.degradation.noise > 0,
        "augmentation": PARAMETERS if config.data.augment else 0,
    }
    outputs = config.data.channels * (2 if config.diffusion.variance == "learned" else 1)
    return UNet(outputs, **options)


def build_condition(config: Config) -> Condition | None:
    """The condition of an image-to-image model; None for other models."""
    (height, width, _), depth, degradation = config.image_shape, config.data.depth, config.degradation
    match config.model.condition:
        case "low_resolution":
            shrunk = degradation.factor, degradation.filter
            return low_resolution(height, width, *shrunk, depth=depth, noise=degradation.noise)
        case "grey":
            return grey_levels(depth=depth)
        case "mask":
            return masked(depth=depth)
    return None


def param_shapes(config: Config) -> PyTree:
    """The shapes of the network's parameters."""
    unet = build_unet(config)
    return jax.eval_shape(lambda: init_params(unet, jax.random.key(0), config.image_shape))


@cache  # Tracing takes a second or two.
def state_shapes(config: Config) -> TrainState:
    """The shapes of a training state."""
    optimizer = build_optimizer(config.optimizer, config.train.steps)
    start = partial(init_state, build_unet(config), optimizer, config.seed, config.image_shape)
    return jax.eval_shape(lambda: start(**state_extras(config)))


def state_extras(config: Config) -> dict[str, Any]:
    """The arguments of `first_state` besides the parameters and the optimizer."""
    history = no_history(config.diffusion.steps) if config.train.t_sampling == "loss" else ()
    return {"power_emas": len(config.optimizer.power_widths), "loss_history": history}


DEFAULT_STEPS = {"ddim": 50, "dpm_solver": 20, "unipc": 20, "heun": 18, "consistency": 2}
"""Numbers of steps above which images hardly improve; DDPM takes all steps."""
DEFAULT_SPACINGS = {
    "ddpm": "trailing",
    "ddim": "trailing",
    "dpm_solver": "quadratic",
    "unipc": "quadratic",
    "heun": "karras",
    "consistency": "trailing",
}
"""All of them start at T for any number of steps, as "leading", the spacing of Song et al.'s code, does not: with 501
steps of 1000 it starts at t = 501 (docs/sampling.md has the measured table). Solvers that extrapolate also need steps
whose length in log-SNR grows slowly. With 20 steps and an exact denoiser, pixels (near -0.5 or 0.5) end 0.003 from the
true solution with "quadratic", 0.03 with "linspace_open" and 0.14 with "leading", whose step to t = 1 is by far the
longest; with DDIM, which does not extrapolate, 0.02 with "leading" (tests/test_builders.py). Heun's steps are those of
Karras et al. 2022; with ten of them, "quadratic" is better (docs/sampling.md).
"""
MAX_START_SIGNAL = 0.2
"""Largest signal rate of a first step without a warning: up to here digits are as good as from T (docs/sampling.md)."""
INPAINTING_STEPS = 250
"""As in Lugmayr et al. 2022, before steps are repeated."""


def build_pairs(config: Config) -> Pairs:
    """The steps that the sampler visits."""
    sample, total = config.sample, config.diffusion.steps
    default = INPAINTING_STEPS if sample.task == "inpaint" else DEFAULT_STEPS.get(sample.sampler, total)
    steps = len(sample.timesteps) or sample.steps or min(default, total)
    try:
        if sample.timesteps:
            return listed_pairs(sample.timesteps, total, sample.final)
        return step_pairs(sampling_spacing(sample), total, steps, sample.final, build_schedule(config).sigma)
    except ValueError as error:
        raise UserError(f"sample.steps={steps} with {sample.final=}: {error}") from error


def sampling_spacing(sample: Sample) -> str:
    """The spacing of the sampler's steps, unless they are listed."""
    return sample.spacing or DEFAULT_SPACINGS[sample.sampler]


def build_pairs_from_noise(config: Config) -> Pairs:
    """The steps of a sampler that starts from pure noise; warns if its first step is for images that hold signal."""
    pairs, rates = build_pairs(config), build_schedule(config).signal_rate
    first, total = int(pairs[0, 0]), config.diffusion.steps
    if rates[first] > MAX_START_SIGNAL and first < total:
        what = "sample.timesteps" if config.sample.timesteps else f"sample.spacing={sampling_spacing(config.sample)!r}"
        remedy = f"start sample.timesteps at {total}" if config.sample.timesteps else "use sample.spacing='trailing'"
        _warn_of_signal(what, first, total, float(rates[first]), remedy)
    return pairs


@cache  # Warns once, however often the steps are built.
def _warn_of_signal(what: str, first: int, total: int, rate: float, remedy: str) -> None:
    logger.warning(
        "With %s the first step is t = %d of %d, whose images hold signal (sqrt(alpha_bar) = %.2f), but sampling "
        "starts from pure noise, so that samples will be poor; %s.",
        *(what, first, total, rate, remedy),
    )


def build_guidance(config: Config) -> Guidance:
    """The strength and interval of classifier-free guidance."""
    sample = config.sample
    low_high = sample.guidance_interval
    return Guidance(sample.guidance, (low_high[0], low_high[1]) if low_high else None, sample.guidance_rescale)


SAMPLERS: dict[str, Callable[..., Any]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm_solver": dpm_solver,
    "unipc": unipc,
    "heun": heun,
    "consistency": consistency,
}


def build_sampler(config: Config) -> Callable[..., Any]:
    """A sampler with its options set: (denoiser, x_T, keys, pairs, loop=SCAN) -> the result of the loop.

    Its options are the fields of config.sample for this sampler that have the name of one of its arguments.
    """
    sample, schedule, constraint = config.sample, build_schedule(config), build_constraint(config)
    solve, values = SAMPLERS[sample.sampler], {**vars(sample), "variance": sampling_variance(config)}
    fields = fields_where(sample, lambda meaning: sample.sampler in meaning.samplers)
    options = {
        name: values[name] for name in fields if name in signature(solve).parameters and values[name] is not None
    }

    def sampler(denoiser: Denoiser, x_T: Images, keys: ImageKeys, pairs: Pairs, loop: Loop = SCAN) -> Any:
        return solve(constraint(denoiser), schedule, x_T, keys, pairs, **options, loop=loop)

    return sampler


def build_constraint(config: Config) -> Callable[[Denoiser], Denoiser]:
    """A function that wraps a Denoiser so that the predicted x_0 stays in range."""
    sample, schedule = config.sample, build_schedule(config)
    if sample.threshold == "none":
        return lambda denoiser: denoiser
    threshold = {"clip": clip, "dynamic": dynamic(sample.percentile, sample.percentile_max)}[sample.threshold]
    return lambda denoiser: constrain(denoiser, schedule, threshold, keep_eps=sample.keep_eps)


def sampling_variance(config: Config) -> Variance:
    """The variance of DDPM's steps."""
    return config.sample.variance or config.diffusion.variance


def build_inpainting(config: Config) -> Callable[..., Any]:
    """Inpainting with its options set: (denoiser, x0, keys, mask, loop=SCAN) -> the result of the loop."""
    settings, schedule, pairs = config.sample, build_schedule(config), build_pairs_from_noise(config)
    constraint, variance = build_constraint(config), sampling_variance(config)

    def paint(denoiser: Denoiser, x0: Images, keys: ImageKeys, mask: Mask | PixelMask, loop: Loop = SCAN) -> Any:
        x_T = draw_noise(keys, 0, x0.shape[1:])
        masks = jnp.broadcast_to(jnp.asarray(mask), (len(x0), *mask.shape[-3:]))
        options = {"jump": settings.jump, "resamples": settings.resamples, "variance": variance}
        return inpaint(constraint(denoiser), schedule, x_T, keys, pairs, x0, masks, **options, loop=loop)

    return paint


def build_t_density(config: Config) -> Betas | None:
    """The density of t = 1..T in training; None for a uniform one, or one that follows the losses."""
    train = config.train
    if train.t_sampling != "logit_normal":
        return None
    return logit_normal(build_schedule(config), train.t_mean, train.t_std)


def build_learner(config: Config, mesh: Mesh) -> Learner:
    """The parts of the training step that are constant throughout a run."""
    return Learner(
        unet=build_unet(config),
        schedule=build_schedule(config),
        loss=build_loss(config),
        steps=config.train.steps,
        t_density=build_t_density(config),
        t_unbiased=config.train.t_unbiased,
        optimizer=build_optimizer(config.optimizer, config.train.steps),
        learning_rate=learning_rate(config.optimizer, config.train.steps),
        ema_config=config.optimizer,
        mesh=mesh,
        seed=config.seed,
        augment=config.data.augment,
        condition=build_condition(config),
        label_dropout=config.train.label_dropout,
        condition_dropout=config.train.condition_dropout,
        deterministic=config.train.deterministic,
    )


def build_loader(config: Config, dataset: Dataset, rows: np.ndarray, mesh: Mesh) -> Callable[[int], Batch]:
    """A function from a step to its batch on the devices."""
    batches = Batches(
        dataset,
        rows,
        config.data.batch_size,
        seed=config.seed,
        flip=config.data.flip,
        microbatches=config.train.accumulate,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    return lambda step: to_devices(mesh, batches(step), axis=1)
