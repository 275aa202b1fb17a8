"""--mode=sample: images from a run's checkpoint, as pictures and files.

    seed, i -> key -> x_T -> sampler (one scan over the Denoiser) -> uint8 -> grid, strip, GIF, PNG files, npz

`run.py` offers the same to Python.
"""

import logging

import numpy as np

from ddpm_jax.commands.cascade import sample_cascade
from ddpm_jax.commands.output_folder import output_folder
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.generation.draw import load_params
from ddpm_jax.generation.guides import with_guide_step
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import GIF_IMAGES, STRIP_IMAGES, publish_samples, sample_to_disk, unfinished_folder
from ddpm_jax.generation.requests import sample_name
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.sampling.loop import FrameSpec

logger = logging.getLogger(__name__)


def sample(config: Config, workdir: AnyPath) -> AnyPath:
    """Samples sample.count images and writes them to <workdir>/samples/<name>/ (or in sample.out), which it returns.

    Images are written batch by batch; after an interruption the same call resumes where it stopped.
    """
    settings = config.sample
    if settings.cascade:
        return sample_cascade(config, workdir)
    if config.condition_shape:
        raise UserError(
            f"{workdir} is an image-to-image model (model.condition={config.model.condition!r}); set sample.task="
            "'condition' and sample.images or sample.originals."
        )
    labels = choose_labels(config, label_names(config, workdir), np.arange(settings.count))
    params, step = load_params(config, workdir, data_mesh())
    name = sample_name(with_guide_step(config, params), step, settings.count)
    target = output_folder(config, workdir) / "samples" / name
    logger.info("Sampling %d images, %s, from step %d", settings.count, target.name.split("-", 1)[1], step)
    frames = FrameSpec(max(settings.strip, settings.gif), max(STRIP_IMAGES, GIF_IMAGES), settings.frames == "x0")
    with unfinished_folder(target) as folder:
        store = sample_to_disk(config, params, labels, folder.path, frames)
        if store:
            folder.upload()  # At a URL, before the many files of the target.
            publish_samples(config, folder.path, store, target)
    return target
