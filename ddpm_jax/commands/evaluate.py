"""--mode=evaluate: metrics of a run's samples, each with its protocol.

    checkpoints x EMA widths x samplers -> images on disk -> statistics -> compared with those of the training split
        -> <workdir>/evaluation/<step>.json, a table, TensorBoard, charts (evaluation/results.py)

A result under the same protocol is not measured again, and an interrupted command keeps the images that it generated.
"""

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ddpm_jax.commands.bound import evaluate_bound, held_out_rows
from ddpm_jax.commands.evaluation_inputs import Inputs, inputs_to_sample, mean_restoration
from ddpm_jax.commands.evaluation_setup import EvaluationSetup, open_setup, protocol_of
from ddpm_jax.commands.output_folder import output_folder
from ddpm_jax.config import Config, checked, split_names
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.data.open import open_dataset
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.results import add_result, all_results, draw_charts, read_results, result_name, table
from ddpm_jax.evaluation.statistics import compare, measure
from ddpm_jax.generation.draw import check_params, load_params
from ddpm_jax.generation.guides import with_guide_step
from ddpm_jax.generation.output import sample_to_disk, unfinished_folder
from ddpm_jax.generation.requests import only_images, sample_name, with_sampler
from ddpm_jax.runtime.devices import agreed_by_all, all_agreed, data_mesh, wait_for_all
from ddpm_jax.runtime.locks import newest_job
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint

logger = logging.getLogger(__name__)


def evaluate(config: Config, workdir: AnyPath) -> AnyPath:
    """Measures every chosen checkpoint by config.evaluate; returns the folder with the results."""
    settings, folder = config.evaluate, output_folder(config, workdir) / "evaluation"
    each, measured = sampler_configs(config), measured_configs(config, workdir)
    dataset = open_needed_dataset(config)
    rows = held_out_rows(config, dataset) if settings.bound_images and dataset else np.arange(0)
    inputs = inputs_to_sample(each[0], workdir, dataset)  # Samplers differ in neither count, seed nor label.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{folder} is a file; expected a folder for results. Move it away.") from error
    found: list[tuple[int, str]] = []
    setup = open_setup(config, dataset, settings.count)
    with only_evaluation(folder) as confirm:
        for chosen in measured:
            try:
                params, step = load_params(chosen, workdir, data_mesh())
            except UserError as error:
                if not settings.every_checkpoint or jax.process_count() > 1:  # Other processes may have read it.
                    raise
                log_skipped(chosen, error)
                continue
            for one in each:
                one = with_fields(one, ema_width=chosen.sample.ema_width)
                found.append((step, evaluate_sampler(one, workdir, step, params, inputs, setup, confirm)))
            if dataset is not None and len(rows):
                found.append((step, evaluate_bound(chosen, workdir, step, params, dataset, rows, confirm)))
    if not found:
        raise none_measured(workdir)
    if jax.process_index() == 0:
        draw_charts(folder)
        text = table([row for row in all_results(folder) if (row.step, row.name) in found])
        print(text)
        logger.debug("\n%s", text)  # For the log file.
        logger.info("Wrote %s", folder)
    return folder


def with_fields(config: Config, **fields: Any) -> Config:
    """The configuration with some fields of `sample` replaced."""
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, **fields))


@contextmanager
def only_evaluation(folder: AnyPath) -> Iterator[Callable[[], None]]:
    """At a URL, which has no locks for the results there, makes this the job that evaluates.

    Yields a function to call before each result is written, as `newest_job` does.
    """
    if isinstance(folder, Path) or jax.process_index() > 0:
        yield lambda: None
        return
    with newest_job(folder / ".evaluate.holder.json") as confirm:
        yield confirm


def open_needed_dataset(config: Config) -> Dataset | None:
    """The run's data set, for the reference, the bound, conditions or labels; None if none of them needs it."""
    settings = config.evaluate
    needs_originals = config.condition_shape is not None and settings.condition_split is None
    if settings.reference is None or settings.bound_images or needs_originals:
        return open_dataset(config)
    if config.condition_shape or not config.label_width or config.sample.label is not None:
        return None
    try:
        return open_dataset(config)
    except UserError as error:
        raise UserError(f"{error} Labels are those of the data; --config.sample.label=… needs no data.") from error


def sampler_configs(config: Config) -> list[Config]:
    """One configuration for each sampler to measure."""
    count = config.evaluate.count
    for name in ("cascade", "originals", "images", "mask"):
        if (value := getattr(config.sample, name)) is not None:
            raise UserError(
                f"sample.{name}={value} is for --mode=sample; leave it out, and measure the images that it writes with "
                "scripts/evaluate_images.py."
            )
    config = dataclasses.replace(config, sample=only_images(config.sample))
    if config.evaluate.samplers is None:
        return [checked(dataclasses.replace(config, sample=dataclasses.replace(config.sample, count=count)))]
    field = "evaluate.samplers"
    return [with_sampler(config, name, count, field) for name in split_names(config.evaluate.samplers, field)]


def chosen_steps(config: Config, workdir: AnyPath) -> Sequence[int | None]:
    """The checkpoints to measure, as the first process finds them: a job that trains may be replacing some.

    None stands for the newest at the time when it is read, which may be long after.
    """
    steps = all_agreed(checkpoint_steps(checkpoint_folder(workdir)))
    if not steps:
        raise no_checkpoint(workdir)
    return steps if config.evaluate.every_checkpoint else [config.sample.checkpoint]


def measured_configs(config: Config, workdir: AnyPath) -> list[Config]:
    """One configuration for each checkpoint and EMA width to measure, as the first process finds them.

    Raises UserError for one that cannot be measured, before anything is; evaluate.every_checkpoint skips it instead.
    """
    widths, every, sample = config.evaluate.ema_widths, config.evaluate.every_checkpoint, config.sample
    for name in ("ema", "ema_width"):
        if widths and (value := getattr(sample, name)) != getattr(type(sample)(), name):
            raise UserError(f"evaluate.ema_widths={widths} replaces sample.{name}={value}; leave out one of them.")
    chosen = itertools.product(chosen_steps(config, workdir), widths or [sample.ema_width])
    each = [with_fields(config, checkpoint=step, ema_width=width) for step, width in chosen]
    sound, refusal = [], None
    for i, one in enumerate(each) if jax.process_index() == 0 else ():
        try:
            check_params(one, workdir)
            sound.append(i)
        except UserError as error:
            refusal = error
            if every:
                log_skipped(one, error)
    sound = all_agreed(sound)
    if every and not sound:
        raise none_measured(workdir)
    if not every and len(sound) < len(each):
        raise refusal or UserError(f"{workdir} cannot be measured; see the message of the first process.")
    return [each[i] for i in sound]


def log_skipped(config: Config, error: UserError) -> None:
    """Warns of a checkpoint that cannot be measured."""
    logger.warning("Step %s is skipped: %s", config.sample.checkpoint, error)


def none_measured(workdir: AnyPath) -> UserError:
    """The error for a run of which all checkpoints were skipped."""
    return UserError(f"No checkpoint of {workdir} can be measured; the warnings above name the reasons.")


def evaluate_sampler(
    config: Config,
    workdir: AnyPath,
    step: int,
    params: PyTree,
    inputs: Inputs,
    setup: EvaluationSetup | None,
    confirm: Callable[[], None] = lambda: None,
) -> str:
    """Samples images from a checkpoint's parameters, measures them, and adds a result to <step>.json; its name.

    confirm: as `only_evaluation` yields it.
    """
    folder = output_folder(config, workdir) / "evaluation"
    name = sample_name(with_guide_step(config, params), step, config.sample.count).partition("-")[2]
    protocol = protocol_of(config, step, params, inputs, setup) if setup else {}
    key = result_name(name, protocol)
    # If another job measures the same, this one waits and finds its result.
    with unfinished_folder(folder / f"{step}-{key}", wait=jax.process_count() == 1) as unfinished:
        if agreed_by_all(int(key in read_results(folder, step))):
            logger.info("%s of step %d was measured before", name, step)
            shutil.rmtree(unfinished.path, ignore_errors=True)
            return key
        logger.info("Sampling %d images, %s, from step %d", config.sample.count, name, step)
        store = sample_to_disk(config, params, inputs.labels, unfinished.path, conditions=inputs.conditions)
        if store and setup:
            fake = measure(setup.extractor, store.images(), "Generated images", limit=config.evaluate.neighbours)
            metrics = {**compare(setup.reference, fake), **mean_restoration(config, store.images(), inputs)}
            confirm()
            add_result(folder, step, name, {**metrics, "protocol": protocol})
            shutil.rmtree(unfinished.path)
    wait_for_all(name)
    return key
