"""Variants of a recipe: --config=FILE:VARIANT."""

from collections.abc import Callable, Mapping
from typing import Any

from ddpm_jax.config.fields import sides
from ddpm_jax.errors import UserError, nearest

Recipe = Any  # A ConfigDict, whose fields a type checker cannot know.
Change = Callable[[Recipe], Recipe]


def apply_variant(config: Recipe, variant: str, others: Mapping[str, Change] | None = None) -> Recipe:
    """The recipe itself for "", its toy version for "smoke", the tuning of its model to few steps for "consistency", or
    one of `others`, the recipe's own variants.
    """
    variants: dict[str, Change] = {"": lambda config: config, "smoke": smoke, "consistency": tune_consistency}
    variants |= others or {}
    if variant not in variants:
        raise UserError(f"This recipe has no variant {variant!r}; {nearest(variant, [v for v in variants if v])}")
    return variants[variant](config)


def tune_consistency(config: Recipe) -> Recipe:
    """The same model tuned to sample in one to four steps; train.start_from names the trained one."""
    config.diffusion.objective = "consistency"
    config.sample.sampler = "consistency"
    config.log.preview_samplers = "consistency:1,consistency:2,consistency:4"
    config.evaluate.light_sampler = "consistency:2"
    return config


def smoke(config: Recipe) -> Recipe:
    """The same code path at toy size: 3 steps of a narrow network on synthetic images of the recipe's shape."""
    if config.data.source != "digits":
        config.data.source, config.data.label_column, config.data.value_range = "synthetic", None, ()
    config.train.accumulate = min(config.train.accumulate, 2)
    config.data.batch_size = (8 if max(sides(config.data.image_size)) <= 64 else 2) * config.train.accumulate
    config.data.holdout = 0.1
    config.model.channels = 8
    config.model.norm_groups = 4
    config.model.blocks = 1
    if config.model.head_channels:
        config.model.head_channels = 8
    config.diffusion.steps = 8
    config.degradation.noise = min(config.degradation.noise, config.diffusion.steps)
    config.optimizer.warmup = 1
    config.train.steps = 3
    config.sample.count = 4
    config.sample.gif = 4
    config.sample.strip = 4
    config.checkpoint.every = 2
    config.log.every = 1
    config.log.validate_every = 3
    config.log.preview_every = 3
    config.log.preview_count = 4
    config.log.preview_steps = 4
    return config
