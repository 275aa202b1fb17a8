"""How good are images that an image-to-image model generates for given conditions?

    restoration    PSNR and SSIM of a result against its original, beside those of a baseline without a model
    consistency    PSNR of the result, degraded again, against the condition

A single result of a generative model is one of many that fit the condition, so its PSNR may be below the baseline's,
whose blur is close to their mean (Saharia et al. 2021, section 5.1).
"""

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from ddpm_jax.builders import build_condition
from ddpm_jax.config import Config
from ddpm_jax.diffusion.pixels import from_pixels
from ddpm_jax.evaluation.restoration import psnr, ssim
from ddpm_jax.generation.conditions import by_batches, conditions_of, is_painted, same_conditions
from ddpm_jax.runtime.compilation import jit
from ddpm_jax.shapes import ConditionPixels, Pixels


def restoration_metrics(
    config: Config, images: Pixels, conditions: ConditionPixels, originals: Pixels
) -> dict[str, Float[np.ndarray, "N"]]:
    """Values for each image: psnr, ssim, baseline_psnr, baseline_ssim and, unless it inpaints, consistency.

    PSNR and consistency are in dB, infinite where nothing differs.
    """
    simple = baseline(config, conditions)
    metrics = {
        "psnr": psnr(images, originals),
        "ssim": ssim(images, originals),
        "baseline_psnr": psnr(simple, originals),
        "baseline_ssim": ssim(simple, originals),
    }
    if config.model.condition != "mask":
        metrics["consistency"] = consistency(config, images, conditions)
    return metrics


def baseline(config: Config, conditions: ConditionPixels) -> Pixels:
    """Results without a model: a low resolution enlarged bicubically, or grey levels.

    For a model that inpaints, the masked part has the mean colour of the known part.
    """
    if config.model.condition == "mask":
        return _filled(conditions)
    compiled, channels = _network_input(same_conditions(config)), config.data.channels
    images = by_batches(lambda pixels, rows: compiled(pixels), conditions, config.data.depth)
    return images if images.shape[3] == channels else images.repeat(channels, axis=3)


@cache
def _network_input(config: Config) -> Any:
    condition = build_condition(config)
    assert condition is not None
    return jit(lambda conditions: condition.network_input(from_pixels(conditions)))


def _filled(conditions: ConditionPixels) -> Pixels:
    filled = np.array(conditions[..., :-1])
    for image, painted in zip(filled, is_painted(conditions[..., -1:])[..., 0], strict=True):
        image[painted] = np.round(image[~painted].mean(axis=0)).astype(image.dtype)
    return filled


def consistency(config: Config, images: Pixels, conditions: ConditionPixels) -> Float[np.ndarray, "N"]:
    """PSNR in dB of images, degraded again, against low resolutions or grey levels; infinite where they are equal."""
    return psnr(conditions_of(config, images, seed=0), conditions)
