"""The metrics of a few samples during training, for curves that are comparable with each other only."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import PyTree

from ddpm_jax.commands.evaluation_inputs import inputs_to_sample, mean_restoration
from ddpm_jax.commands.evaluation_setup import open_setup
from ddpm_jax.config import Config
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.evaluation.statistics import compare, measure
from ddpm_jax.generation.draw import compile_sampler, sample_batches
from ddpm_jax.generation.requests import only_images, reset, with_sampler
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.urls import AnyPath


def light_config(config: Config) -> Config:
    """The configuration of the few images that are sampled and measured during training."""
    plain = dataclasses.replace(config, sample=reset(only_images(config.sample), "ema_width"))
    return with_sampler(plain, config.evaluate.light_sampler, config.evaluate.light_count, "evaluate.light_sampler")


def build_light_evaluation(config: Config, workdir: AnyPath, dataset: Dataset) -> Callable[[PyTree], dict[str, float]]:
    """A function from parameters to the metrics of a few samples, for curves during training."""
    settings, mesh = config.evaluate, data_mesh()
    one, setup = light_config(config), open_setup(config, dataset, settings.light_count)
    sampler, inputs = compile_sampler(one, mesh), inputs_to_sample(one, workdir, dataset)

    def metrics_of(params: PyTree) -> dict[str, float]:
        batches = sample_batches(one, sampler, params, inputs.labels, mesh, conditions=inputs.conditions)
        images = np.concatenate([samples.images for samples in batches])
        if setup is None or not np.isfinite(images).all():
            return {}
        pixels = to_pixels(images, config.data.depth)
        fake = measure(setup.extractor, pixels, "Generated images", limit=settings.neighbours)
        metrics = {**compare(setup.reference, fake), **mean_restoration(one, pixels, inputs)}
        metrics[setup.extractor.distance] = metrics.pop("fid")
        return {name: value for name, value in metrics.items() if value is not None}

    return metrics_of
