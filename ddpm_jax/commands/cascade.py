"""--mode=sample --config.sample.cascade=…: the samples of each run are the conditions of the next (Ho et al. 2021).

    base run -> images -> conditions of the next run -> images -> … -> images of the last run

Each stage stores its images batch by batch; an interrupted call resumes in the stage where it stopped.
"""

import dataclasses
import logging
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from ddpm_jax.commands.image_files import is_path
from ddpm_jax.commands.output_folder import output_folder
from ddpm_jax.config import Config, checked, split_names
from ddpm_jax.errors import UserError
from ddpm_jax.generation.conditions import shown_conditions
from ddpm_jax.generation.draw import load_params
from ddpm_jax.generation.guides import with_guide_step
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import (
    GRID_IMAGES,
    STRIP_IMAGES,
    published,
    sample_to_disk,
    shown_grid,
    unfinished_folder,
)
from ddpm_jax.generation.requests import reset, sample_name
from ddpm_jax.reporting.images import save_png, stacked_grid
from ddpm_jax.runtime.devices import data_mesh, from_first_process
from ddpm_jax.runtime.urls import AnyPath, as_path, check_folder
from ddpm_jax.shapes import Labels
from ddpm_jax.workdir import read_config

BASE_ONLY = (
    *("cascade", "checkpoint", "ema_width", "label", "frames"),
    *("guidance", "guide", "guidance_interval", "guidance_rescale"),
)
"""Fields of sample that later stages do not take over."""

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """A run of a cascade, and how it is sampled."""

    workdir: AnyPath
    config: Config
    params: PyTree
    step: int
    labels: Labels | None


def sample_cascade(config: Config, workdir: AnyPath) -> AnyPath:
    """Samples sample.count images through all stages and writes them to <workdir>/samples/<name>/, which it returns."""
    stages = open_stages(config, workdir)
    last, count = stages[-1], config.sample.count
    target = output_folder(config, workdir) / "samples" / cascade_name(config, stages)
    with unfinished_folder(target) as folder:
        store, images = None, []
        for i, stage in enumerate(stages):
            logger.info("Stage %d of %d: %s, step %d", i + 1, len(stages), stage.workdir, stage.step)
            part, given = folder.path / f"stage{i + 1}", images[-1] if images else None
            store = sample_to_disk(stage.config, stage.params, stage.labels, part, conditions=given)
            shape, kind = (count, *stage.config.image_shape), stage.config.data.pixel_type
            images.append(from_first_process(store.images() if store else np.zeros(shape, kind)))
        if store:
            folder.upload()  # At a URL, before the many files of the target.
            with published(folder.path, target, images[-1]) as out:
                save_png(shown_grid(stages[0].config, images[-1][:GRID_IMAGES]), out / "grid.png")
                rows = (shown_conditions(last.config, each[:STRIP_IMAGES]) for each in images)
                save_png(stacked_grid(*rows), out / "stages.png")
    return target


def open_stages(config: Config, workdir: AnyPath) -> list[Stage]:
    """The base run and the runs of sample.cascade; raises UserError unless the images of each fit the next.

    config: that of the base run.
    """
    sample = config.sample
    if config.condition_shape:
        raise UserError(
            f"{workdir} is an image-to-image model (model.condition={config.model.condition!r}) and cannot begin a "
            "cascade; give the run that makes its conditions as --workdir, and this one in sample.cascade."
        )
    paths = [as_path(name, "sample.cascade") for name in split_names(sample.cascade or "", "sample.cascade", is_path)]
    for path in paths:
        check_folder(path)
    base = dataclasses.replace(config, sample=reset(sample, "cascade", "condition_noise"))
    configs = [base]
    for i, path in enumerate(paths):
        stage = stage_config(config, read_config(path), path, i + 1)
        _refuse_misfit(configs[-1], (workdir, *paths)[i], stage, path)
        configs.append(stage)
    if sample.condition_noise and not any(each.degradation.noise for each in configs):
        raise UserError(
            f"sample.condition_noise={sample.condition_noise} has no effect, since no run of sample.cascade was "
            "trained with degradation.noise; leave it out."
        )
    names, numbers, mesh = label_names(config, workdir), np.arange(sample.count), data_mesh()
    labels, stages = choose_labels(config, names, numbers), []
    for path, one in zip((workdir, *paths), configs, strict=True):
        own, each = label_names(one, path), labels
        if (_kinds(one), own) != (_kinds(config), names):
            each = choose_labels(one, own, numbers)
            if own:
                logger.warning("%s has other labels than %s, and samples without", path, workdir)
        stages.append(Stage(path, one, *load_params(one, path, mesh), each))
    return stages


def _kinds(config: Config) -> tuple[int, int]:
    return config.model.classes, config.model.attributes


def stage_config(config: Config, trained: Config, workdir: AnyPath, number: int) -> Config:
    """The configuration of a later stage, with the sample settings of the base run where they apply.

    number: from 1. Its seed is the base run's plus this number: of one seed, the noise of a larger image begins with
    that of a smaller one, and noise must be independent of the condition.
    """
    if trained.model.condition not in ("low_resolution", "grey"):
        raise UserError(
            f"sample.cascade: {workdir} has model.condition={trained.model.condition!r}; expected 'low_resolution' or "
            "'grey', whose conditions another run can make."
        )
    sample = dataclasses.replace(
        reset(config.sample, *BASE_ONLY),
        task="condition",
        seed=(config.sample.seed + number) % 2**31,
        condition_noise=config.sample.condition_noise if trained.degradation.noise else 0,
    )
    try:
        return checked(dataclasses.replace(trained, sample=sample))
    except UserError as error:
        raise UserError(f"sample.cascade: {workdir}: {error}") from error


def _refuse_misfit(before: Config, source: AnyPath, stage: Config, path: AnyPath) -> None:
    made, taken = (before.image_shape, before.data.depth), (stage.condition_shape, stage.data.depth)
    if made != taken:
        raise UserError(
            "sample.cascade: {} takes conditions of {} at {} bits, but {} makes images of {} at {} bits; expected the "
            "same height, width, channels and depth.".format(path, *taken, source, *made)
        )


def cascade_name(config: Config, stages: list[Stage]) -> str:
    """A folder name with the run and the step of each stage, and a checksum of their places."""
    later = ",".join(f"{stage.workdir.name}+{stage.step}" for stage in stages[1:])
    sample = reset(with_guide_step(config, stages[0].params).sample, "strip", "gif")  # Neither is made.
    named = dataclasses.replace(config, sample=dataclasses.replace(sample, cascade=later))
    places = "\n".join(str(stage.workdir) for stage in stages[1:])
    return sample_name(named, stages[0].step, config.sample.count, places.encode())
