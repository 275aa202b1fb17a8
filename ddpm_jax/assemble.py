"""From a Config to the parts it names: the one place where names become functions."""

from collections.abc import Callable

import jax.numpy as jnp

from ddpm_jax.config import Config
from ddpm_jax.diffusion.objective import Objective, absolute_error, huber, min_snr, p2, squared_error, uniform
from ddpm_jax.diffusion.schedule import BETAS, Schedule, schedule_of_betas
from ddpm_jax.errors import UserError
from ddpm_jax.network.unet import UNet
from ddpm_jax.sampling.ddim import ddim
from ddpm_jax.sampling.ddpm import ddpm
from ddpm_jax.sampling.timesteps import Pairs, step_pairs
from ddpm_jax.sampling.trajectory import Samples


def build_schedule(config: Config) -> Schedule:
    """The noise schedule."""
    diffusion = config.diffusion
    ends = (diffusion.beta_start, diffusion.beta_end) if diffusion.schedule in ("linear", "quadratic") else ()
    betas = BETAS[diffusion.schedule](diffusion.steps, *ends)
    try:
        return schedule_of_betas(betas, zero_terminal_snr=diffusion.zero_terminal_snr)
    except ValueError as error:
        raise UserError(
            f"diffusion.schedule={diffusion.schedule!r} with betas {ends} is no schedule: {error}"
        ) from error


def build_objective(config: Config) -> Objective:
    """The training loss."""
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
    )


def build_unet(config: Config) -> UNet:
    """The network, without parameters."""
    model, channels = config.model, config.data.channels
    return UNet(
        out_channels=channels * (2 if config.diffusion.variance == "learned" else 1),
        channels=model.channels,
        multipliers=model.multipliers,
        blocks=model.blocks,
        attention_resolutions=model.attention_resolutions,
        heads=model.heads,
        head_channels=model.head_channels,
        dropout=model.dropout,
        norm_groups=model.norm_groups,
        scale_shift=model.scale_shift,
        resampling=model.resampling,
        labels=model.classes or model.attributes,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
    )


def sampling_steps(config: Config) -> int:
    """sample.steps, or its default for the sampler: all steps for DDPM, 50 (or all, if fewer) for DDIM."""
    if config.sample.steps is not None:
        return config.sample.steps
    return config.diffusion.steps if config.sample.sampler == "ddpm" else min(50, config.diffusion.steps)


def build_pairs(config: Config) -> Pairs:
    """The steps that the sampler visits."""
    return step_pairs(config.sample.spacing, config.diffusion.steps, sampling_steps(config))


def build_sampler(config: Config) -> Callable[..., Samples]:
    """Ddpm or ddim with its options set: (denoiser, schedule, x_T, keys, pairs, watch=...) -> Samples."""
    sample = config.sample
    variance = sample.variance or config.diffusion.variance

    def ddpm_sampler(*args, **watch) -> Samples:
        return ddpm(*args, variance=variance, clip=sample.clip, **watch)

    def ddim_sampler(*args, **watch) -> Samples:
        return ddim(*args, eta=sample.eta, clip=sample.clip, **watch)

    return {"ddpm": ddpm_sampler, "ddim": ddim_sampler}[sample.sampler]
