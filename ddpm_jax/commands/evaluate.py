"""--mode=evaluate: metrics of a run's samples, each with its protocol.

    checkpoints x samplers -> images on disk -> statistics -> compared with those of the training split
        -> <workdir>/evaluation/<step>.json, a table, TensorBoard, charts (evaluation/results.py)

A result under the same protocol is not measured again, and an interrupted command keeps the images that it generated.
"""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from ddpm_jax.builders import build_constraint, build_pairs, build_schedule, sampling_variance
from ddpm_jax.commands.output_folder import output_folder
from ddpm_jax.config import Config, checked, split_names
from ddpm_jax.config.fields import fields_where
from ddpm_jax.data.cache import key_of, open_cache, remembered
from ddpm_jax.data.dataset import Dataset, hold_out, traits
from ddpm_jax.data.dataset import checksum as data_checksum
from ddpm_jax.data.open import open_dataset
from ddpm_jax.data.stream import Streamed
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.guidance import UNGUIDED
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
from ddpm_jax.diffusion.randomness import Purpose
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import Extractor, open_extractor
from ddpm_jax.evaluation.results import add_result, all_results, draw_charts, read_results, result_name, table
from ddpm_jax.evaluation.statistics import (
    Statistics,
    arrays_of,
    compare,
    load_statistics,
    measure,
    metrics_protocol,
    statistics_of,
    warn_of_small_sets,
)
from ddpm_jax.generation.draw import compile_sampler, compile_work, load_params, run_batches, sample_batches
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import checksum, sample_to_disk, unfinished_folder
from ddpm_jax.generation.requests import image_fields, only_images, sample_name, with_sampler
from ddpm_jax.runtime.devices import agreed_by_all, data_mesh, wait_for_all
from ddpm_jax.runtime.files import sha256
from ddpm_jax.runtime.locks import newest_job
from ddpm_jax.runtime.urls import AnyPath, local_file
from ddpm_jax.shapes import ImageKeys, Labels, Pixels
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint

RANDOM_KEYS = 2
"""Version of how random keys follow from a seed; images of version 1 shared keys with training."""
VERSION = "1"
"""Version of the measurement; cached statistics of other versions are not used."""
BOUND_BATCH = 16

logger = logging.getLogger(__name__)


def evaluate(config: Config, workdir: AnyPath) -> AnyPath:
    """Measures every chosen checkpoint by config.evaluate; returns the folder with the results."""
    settings, folder = config.evaluate, output_folder(config, workdir) / "evaluation"
    each, steps = sampler_configs(config), chosen_steps(config, workdir)
    dataset = open_needed_dataset(config)
    rows = held_out_rows(config, dataset) if settings.bound_images and dataset else np.arange(0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{folder} is a file; expected a folder for results. Move it away.") from error
    found: list[tuple[int, str]] = []
    setup = open_setup(config, dataset, settings.count)
    with only_evaluation(folder) as confirm:
        for chosen in steps:
            at_step = dataclasses.replace(config, sample=dataclasses.replace(config.sample, checkpoint=chosen))
            try:
                params, step = load_params(at_step, workdir, data_mesh())
            except UserError as error:
                if not settings.every_checkpoint or jax.process_count() > 1:  # Other processes may have read it.
                    raise
                logger.warning("Step %s is skipped: %s", chosen, error)
                continue
            for one in each:
                found.append((step, evaluate_sampler(one, workdir, step, params, dataset, setup, confirm)))
            if dataset is not None and len(rows):
                found.append((step, evaluate_bound(config, workdir, step, params, dataset, rows, confirm)))
    if not found:
        raise UserError(f"No checkpoint of {workdir} can be measured; the warnings above name the reasons.")
    if jax.process_index() == 0:
        draw_charts(folder)
        text = table([row for row in all_results(folder) if (row.step, row.name) in found])
        print(text)
        logger.debug("\n%s", text)  # For the log file.
        logger.info("Wrote %s", folder)
    return folder


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
    """The run's data set, for the reference, the bound or the labels; None if none of them needs it."""
    settings = config.evaluate
    if settings.reference is None or settings.bound_images:
        return open_dataset(config)
    if not config.label_width or config.sample.label is not None:
        return None
    try:
        return open_dataset(config)
    except UserError as error:
        raise UserError(f"{error} Labels are those of the data; --config.sample.label=… needs no data.") from error


def sampler_configs(config: Config) -> list[Config]:
    """One configuration for each sampler to measure."""
    count = config.evaluate.count
    config = dataclasses.replace(config, sample=only_images(config.sample))
    if config.evaluate.samplers is None:
        return [checked(dataclasses.replace(config, sample=dataclasses.replace(config.sample, count=count)))]
    field = "evaluate.samplers"
    return [with_sampler(config, name, count, field) for name in split_names(config.evaluate.samplers, field)]


def chosen_steps(config: Config, workdir: AnyPath) -> Sequence[int | None]:
    """The checkpoints to measure, as the first process finds them: a job that trains may be replacing some.

    None stands for the newest at the time when it is read, which may be long after.
    """
    found = checkpoint_steps(checkpoint_folder(workdir))
    steps = [agreed_by_all(found[i] if i < len(found) else 0) for i in range(agreed_by_all(len(found)))]
    if not steps:
        raise no_checkpoint(workdir)
    return steps if config.evaluate.every_checkpoint else [config.sample.checkpoint]


class EvaluationSetup(NamedTuple):
    """The extractor of features, and the statistics to compare with."""

    extractor: Extractor
    reference: Statistics
    identity: str
    """A checksum that identifies the reference."""


def open_setup(config: Config, dataset: Dataset | None, count: int) -> EvaluationSetup | None:
    """The setup on the process that measures, None on others; raises UserError for a reference that does not fit.

    count: the number of images to be generated.
    """
    if jax.process_index():
        return None
    settings = config.evaluate
    extractor = open_extractor(
        settings.features, local_file(settings.weights, "evaluate.weights") if settings.weights else None
    )
    reference, identity = reference_statistics(config, extractor, dataset)
    dimensions, found = extractor.dimensions or math.prod(config.image_shape), len(reference.moments.mean)
    if (reference.extractor, found) != (extractor.name, dimensions):
        raise UserError(
            f"evaluate.reference holds statistics of {reference.extractor} with {found} dimensions; expected "
            f"{extractor.name} with {dimensions}. scripts/evaluate_images.py --save makes them"
            + (" (--grey for grey images)." if extractor.name == "pixels" and config.image_shape[2] == 1 else ".")
        )
    warn_of_small_sets({"real": reference.moments.images, "generated": count}, dimensions)
    return EvaluationSetup(extractor, reference, identity)


def reference_statistics(config: Config, extractor: Extractor, dataset: Dataset | None) -> tuple[Statistics, str]:
    """The statistics of evaluate.reference, or those of the run's split, which are cached; and their identity."""
    settings = config.evaluate
    if settings.reference is not None:
        path = local_file(settings.reference, "evaluate.reference")
        return load_statistics(path, extractor.name), sha256(path)
    assert dataset is not None
    real = dataset.images
    # The name of a cache folder covers everything that determines its pixels, wherever the cache is.
    images = Path(str(real.filename)).parent.name if isinstance(real, np.memmap) else ""
    if isinstance(real, Streamed):
        images = repr(real.fingerprints)
    parts = (extractor.name, extractor.weights or "", images, repr(traits(dataset)), str(settings.neighbours), VERSION)
    key = key_of(parts)
    arrays = remembered(
        open_cache(config.data.cache),
        f"statistics-{key}",
        lambda: arrays_of(measure(extractor, real, "Real images", limit=settings.neighbours)),
    )
    return statistics_of(arrays, extractor.name, "The cache"), key


def labels_to_sample(config: Config, workdir: AnyPath, dataset: Dataset | None) -> Labels | None:
    """Labels by sample.label, or else those of the data: each image's, in a shuffled order that repeats.

    With other labels, or the same in other proportions, even a perfect model would be far from the data.
    """
    count = config.sample.count
    if not config.label_width or config.sample.label is not None:
        return choose_labels(config, label_names(config, workdir), np.arange(count))
    assert dataset is not None
    order = np.random.default_rng(config.sample.seed).permutation(len(dataset.labels))
    return dataset.labels[np.resize(order, count)]


def evaluate_sampler(
    config: Config,
    workdir: AnyPath,
    step: int,
    params: PyTree,
    dataset: Dataset | None,
    setup: EvaluationSetup | None,
    confirm: Callable[[], None] = lambda: None,
) -> str:
    """Samples images from a checkpoint's parameters, measures them, and adds a result to <step>.json; its name.

    confirm: as `only_evaluation` yields it.
    """
    labels = labels_to_sample(config, workdir, dataset)
    folder = output_folder(config, workdir) / "evaluation"
    name = sample_name(config, step, config.sample.count).partition("-")[2]
    protocol = protocol_of(config, step, params, labels, setup) if setup else {}
    key = result_name(name, protocol)
    # If another job measures the same, this one waits and finds its result.
    with unfinished_folder(folder / f"{step}-{key}", wait=jax.process_count() == 1) as unfinished:
        if agreed_by_all(int(key in read_results(folder, step))):
            logger.info("%s of step %d was measured before", name, step)
            shutil.rmtree(unfinished.path, ignore_errors=True)
            return key
        logger.info("Sampling %d images, %s, from step %d", config.sample.count, name, step)
        store = sample_to_disk(config, params, labels, unfinished.path)
        if store and setup:
            fake = measure(setup.extractor, store.images(), "Generated images", limit=config.evaluate.neighbours)
            confirm()
            add_result(folder, step, name, {**compare(setup.reference, fake), "protocol": protocol})
            shutil.rmtree(unfinished.path)
    wait_for_all(name)
    return key


def protocol_of(
    config: Config, step: int, params: PyTree, labels: Labels | None, setup: EvaluationSetup
) -> dict[str, Any]:
    """Everything that a result depends on: metrics are comparable only under protocols that agree."""
    data, sample, other = config.data, config.sample, config.evaluate.reference
    own = {"split": data.split or "training", "image_size": data.image_size, "resize": data.resize, "crop": data.crop}
    own |= {"depth": data.depth} if data.depth != 8 else {}  # Older results have no such entry, nor "alpha".
    alpha = {"alpha": "over white"} if data.channels in (2, 4) and setup.extractor.dimensions else {}
    subset, most = setup.reference.subset, config.evaluate.neighbours
    kept = None if subset is None else len(subset)
    protocol = {
        **metrics_protocol(setup.extractor, kept, min(sample.count, most), most),
        **alpha,
        "real": {
            "images": setup.reference.moments.images,
            "from": other or data.path or data.name or data.source,
            "identity": setup.identity,
            **(dict.fromkeys(own) if other else own),
        },
        "drawn": {
            "images": sample.count,
            "training_step": step,
            "parameters_crc32": checksum(params),
            **{name: getattr(sample, name) for name in image_fields(sample)},
            "labels_crc32": None if labels is None else checksum(labels),
            "steps": len(build_pairs(config)),
            # Defaults of versions to come, and other random keys, must not pass for what was measured here.
            "steps_crc32": checksum(build_pairs(config)),
            "effective_variance": sampling_variance(config) if sample.sampler == "ddpm" else None,
            "random_keys": RANDOM_KEYS,
        },
    }
    return json.loads(json.dumps(protocol))  # As read from disk, where tuples are lists.


def light_config(config: Config) -> Config:
    """The configuration of the few images that are sampled and measured during training."""
    plain = dataclasses.replace(config, sample=only_images(config.sample))
    return with_sampler(plain, config.evaluate.light_sampler, config.evaluate.light_count, "evaluate.light_sampler")


def build_light_evaluation(config: Config, workdir: AnyPath, dataset: Dataset) -> Callable[[PyTree], dict[str, float]]:
    """A function from parameters to the metrics of a few samples, for curves during training."""
    settings, mesh = config.evaluate, data_mesh()
    one, setup = light_config(config), open_setup(config, dataset, settings.light_count)
    sampler, labels = compile_sampler(one, mesh), labels_to_sample(one, workdir, dataset)

    def metrics_of(params: PyTree) -> dict[str, float]:
        images = np.concatenate([s.images for s in sample_batches(one, sampler, params, labels, mesh)])
        if setup is None or not np.isfinite(images).all():
            return {}
        fake = measure(
            setup.extractor, to_pixels(images, config.data.depth), "Generated images", limit=settings.neighbours
        )
        metrics = compare(setup.reference, fake)
        metrics[setup.extractor.distance] = metrics.pop("fid")
        return {name: value for name, value in metrics.items() if value is not None}

    return metrics_of


def held_out_rows(config: Config, dataset: Dataset) -> np.ndarray:
    """Indices of the images whose bits per dimension are measured."""
    _, held = hold_out(dataset, config.data.holdout)
    if not len(held):
        raise UserError("evaluate.bound_images needs held-out images; data.holdout=0 left none.")
    return held[: config.evaluate.bound_images]


def evaluate_bound(
    config: Config,
    workdir: AnyPath,
    step: int,
    params: PyTree,
    dataset: Dataset,
    rows: np.ndarray,
    confirm: Callable[[], None] = lambda: None,
) -> str:
    """Measures bits per dimension of held-out images, with all terms, and adds a result to <step>.json; its name."""
    folder, sample = output_folder(config, workdir) / "evaluation", config.sample
    protocol = {
        "images": len(rows),
        "split": "held out",
        "data_crc32": data_checksum(dataset, rows),
        "training_step": step,
        "parameters_crc32": checksum(params),
        **{name: getattr(sample, name) for name in fields_where(sample, lambda meaning: meaning.bound)},
        "variance": sampling_variance(config),
        "steps": config.diffusion.steps,
        **({"depth": config.data.depth} if config.data.depth != 8 else {}),  # Older results have no such entry.
    }
    key = result_name("bound", protocol)
    if agreed_by_all(int(key in read_results(folder, step))):
        logger.info("The bound of step %d was measured before", step)
        return key
    total, terms, prior = bound_of(config, params, dataset, rows)
    if jax.process_index() == 0:
        by_t = terms.mean(axis=0)
        metrics = {
            "bits_per_dim": float(total.mean()),
            "standard_error": float(total.std(ddof=1) / np.sqrt(len(total))) if len(total) > 1 else None,
            "L_0": float(by_t[0]),
            "L_1_to_T-1": float(by_t[1:].sum()),
            "L_T": float(prior.mean()),
            "L_by_t": by_t.tolist(),
        }
        confirm()
        add_result(folder, step, "bound", {**metrics, "protocol": protocol})
    return key


def bound_of(
    config: Config, params: PyTree, dataset: Dataset, rows: np.ndarray
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N T"], Float[np.ndarray, "N"]]:
    """Each image's bits per dimension, their terms by t = 1..T, and L_T; x_0 is kept in range as in sampling."""
    mesh, schedule, constraint = data_mesh(), build_schedule(config), build_constraint(config)
    variance = sampling_variance(config)

    def work(denoiser: Denoiser, keys: ImageKeys, pixels: Pixels) -> tuple[Array, Array, Array]:
        x0 = from_pixels(pixels)
        total, terms, prior = bits_per_dim(
            constraint(denoiser), schedule, x0, keys, variance=variance, depth=config.data.depth
        )
        return total, terms.T, prior

    batches = run_batches(
        # Winograd's convolutions round more than direct ones (network/winograd.py).
        compile_work(config, mesh, work, UNGUIDED, Purpose.LIKELIHOOD, exact=True),
        params,
        config.sample.seed,
        range(0, len(rows), BOUND_BATCH * mesh.size),
        labels=dataset.labels[rows] if config.label_width else None,
        inputs=dataset.images[rows],
        progress_label="Bits per dimension",
    )
    kept_outputs = [[output[:kept] for output in outputs] for outputs, kept in batches]
    total, terms, prior = (np.concatenate(column).astype(np.float64) for column in zip(*kept_outputs, strict=True))
    return total, terms, prior
