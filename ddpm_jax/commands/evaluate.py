"""--mode=evaluate: how near a run's samples come to its images, and what figures say so, each with its protocol.

    checkpoints x samplers -> images on disk -> statistics -> compared with those of the training split
        -> <workdir>/evaluation/<step>.json, a table, TensorBoard, charts (evaluation/results.py)

What was measured under the same protocol is not measured again, nor are images drawn again after an interruption.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from ddpm_jax.builders import build_constraint, build_pairs, build_schedule, sampling_variance
from ddpm_jax.config import Config, checked, split_names
from ddpm_jax.config.fields import fields_where
from ddpm_jax.data.cache import key_of, open_cache, remembered
from ddpm_jax.data.dataset import Dataset, hold_out, traits
from ddpm_jax.data.open import open_dataset
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
    figures_protocol,
    load_statistics,
    measure,
    statistics_of,
    warn_of_few,
)
from ddpm_jax.generation.draw import compile_sampler, compile_work, load_params, run_batches, sample_batches
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import checksum, sample_to_disk, unfinished_folder
from ddpm_jax.generation.requests import image_fields, only_images, sample_name, with_sampler
from ddpm_jax.runtime.devices import agreed_by_all, data_mesh, wait_for_all
from ddpm_jax.runtime.files import sha256
from ddpm_jax.shapes import ImageKeys, Labels, Pixels
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint

VERSION = "1"
"""Of how statistics are measured; what another version measured and kept is not used."""
BOUND_BATCH = 16

logger = logging.getLogger(__name__)


def evaluate(config: Config, workdir: Path) -> Path:
    """Measures what config.evaluate asks for; returns the folder with the results."""
    settings, folder = config.evaluate, workdir / "evaluation"
    kinds, steps = sampler_configs(config), chosen_steps(config, workdir)
    as_data = bool(config.label_width) and config.sample.label is None
    needed = settings.reference is None or settings.bound_images or as_data
    try:
        dataset = open_dataset(config) if needed else None
    except UserError as error:
        if settings.reference is None or settings.bound_images:
            raise
        raise UserError(
            f"{error} Labels are drawn as the data has them; --config.sample.label=… needs none."
        ) from error
    rows = held_out_rows(config, dataset) if settings.bound_images and dataset else np.arange(0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{folder} is a file; it should be a folder for results. Move it away.") from error
    found: list[tuple[int, str]] = []
    setup = open_setup(config, dataset, settings.count)
    for step in steps:
        at = dataclasses.replace(config, sample=dataclasses.replace(config.sample, checkpoint=step))
        try:
            params, _ = load_params(at, workdir, data_mesh())
        except UserError as error:
            if not settings.every_checkpoint or jax.process_count() > 1:  # Others may have read it.
                raise
            logger.warning("Step %d is passed over: %s", step, error)
            continue
        for one in kinds:
            found.append((step, evaluate_sampler(one, workdir, step, params, dataset, setup)))
        if dataset is not None and len(rows):
            found.append((step, evaluate_bound(config, workdir, step, params, dataset, rows)))
    if not found:
        raise UserError(f"{workdir} has no checkpoint that could be measured; each is named above.")
    if jax.process_index() == 0:
        draw_charts(folder)
        text = table([row for row in all_results(folder) if (row.step, row.name) in found])
        print(text)
        logger.debug("\n%s", text)  # For the log file.
        logger.info("Wrote %s", folder)
    return folder


def sampler_configs(config: Config) -> list[Config]:
    """A configuration for each sampler to measure."""
    count = config.evaluate.count
    config = dataclasses.replace(config, sample=only_images(config.sample))
    if config.evaluate.samplers is None:
        return [checked(dataclasses.replace(config, sample=dataclasses.replace(config.sample, count=count)))]
    field = "evaluate.samplers"
    return [with_sampler(config, name, count, field) for name in split_names(config.evaluate.samplers, field)]


def chosen_steps(config: Config, workdir: Path) -> list[int]:
    """The checkpoints to measure."""
    steps = checkpoint_steps(checkpoint_folder(workdir))
    if not steps:
        raise no_checkpoint(workdir)
    if config.evaluate.every_checkpoint:
        return steps
    return [steps[-1] if config.sample.checkpoint is None else config.sample.checkpoint]


class EvaluationSetup(NamedTuple):
    """What images are compared by, and with."""

    extractor: Extractor
    reference: Statistics
    identity: str
    """What tells the reference from others."""


def open_setup(config: Config, dataset: Dataset | None, count: int) -> EvaluationSetup | None:
    """For the process that measures; None on others. Refuses, before anything is drawn, what could not be compared."""
    if jax.process_index():
        return None
    settings, data = config.evaluate, config.data
    extractor = open_extractor(settings.features, Path(settings.weights).expanduser() if settings.weights else None)
    reference, identity = reference_statistics(config, extractor, dataset)
    dimensions, found = extractor.dimensions or data.image_size**2 * data.channels, len(reference.moments.mean)
    if (reference.extractor, found) != (extractor.name, dimensions):
        raise UserError(
            f"evaluate.reference holds statistics of {reference.extractor} with {found} dimensions; expected "
            f"{extractor.name} with {dimensions}. scripts/evaluate_images.py --save makes them"
            + (" (--grey for grey images)." if extractor.name == "pixels" and data.channels == 1 else ".")
        )
    warn_of_few(reference.moments.images, count, dimensions, "drawn")
    return EvaluationSetup(extractor, reference, identity)


def reference_statistics(config: Config, extractor: Extractor, dataset: Dataset | None) -> tuple[Statistics, str]:
    """Of evaluate.reference, or of all images of the run's split, which are kept; and what tells them from others."""
    settings = config.evaluate
    if settings.reference is not None:
        path = Path(settings.reference).expanduser()
        return load_statistics(path, extractor.name), sha256(path)
    assert dataset is not None
    real = dataset.images
    # The name of a folder of the cache covers all that shapes its pixels, wherever the cache lies.
    images = Path(str(real.filename)).parent.name if isinstance(real, np.memmap) else ""
    parts = (extractor.name, extractor.weights or "", images, repr(traits(dataset)), str(settings.neighbours), VERSION)

    def measured() -> dict[str, np.ndarray]:
        return arrays_of(measure(extractor, real, "Real images", limit=settings.neighbours))

    key = key_of(parts)
    kept = remembered(open_cache(config.data.cache), f"statistics-{key}", measured)
    return statistics_of(kept, extractor.name, "The cache"), key


def labels_to_draw(config: Config, workdir: Path, dataset: Dataset | None) -> Labels | None:
    """Those of sample.label, or else as the data has them: each image's in a shuffled order, over and over.

    Images of other classes, or of the same in other shares, would be far from the data however good the model is.
    """
    count = config.sample.count
    if not config.label_width or config.sample.label is not None:
        return choose_labels(config, label_names(config, workdir), np.arange(count))
    assert dataset is not None
    order = np.random.default_rng(config.sample.seed).permutation(len(dataset.labels))
    return dataset.labels[np.resize(order, count)]


def evaluate_sampler(
    config: Config, workdir: Path, step: int, params: PyTree, dataset: Dataset | None, setup: EvaluationSetup | None
) -> str:
    """Draws images from a checkpoint's parameters, measures them, and adds the figures to <step>.json by a name."""
    labels = labels_to_draw(config, workdir, dataset)
    folder, name = workdir / "evaluation", sample_name(config, step, config.sample.count).partition("-")[2]
    protocol = protocol_of(config, step, params, labels, setup) if setup else {}
    key = result_name(name, protocol)
    # Where another job measures the same, this one waits, and finds the result.
    with unfinished_folder(folder / f"{step}-{key}", wait=jax.process_count() == 1) as unfinished:
        if agreed_by_all(int(key in read_results(folder, step))):
            logger.info("%s of step %d was measured before", name, step)
            shutil.rmtree(unfinished, ignore_errors=True)
            return key
        logger.info("Drawing %d images, %s, from step %d", config.sample.count, name, step)
        store = sample_to_disk(config, params, labels, unfinished)
        if store and setup:
            fake = measure(setup.extractor, store.images(), "Drawn images", limit=config.evaluate.neighbours)
            add_result(folder, step, name, {**compare(setup.reference, fake), "protocol": protocol})
            shutil.rmtree(unfinished)
    wait_for_all(name)
    return key


def protocol_of(
    config: Config, step: int, params: PyTree, labels: Labels | None, setup: EvaluationSetup
) -> dict[str, Any]:
    """All that a figure depends on, so that it can be compared with others, or cannot."""
    data, sample, other = config.data, config.sample, config.evaluate.reference
    own = {"split": data.split or "training", "image_size": data.image_size, "resize": data.resize, "crop": data.crop}
    some, most = setup.reference.subset, config.evaluate.neighbours
    kept = None if some is None else len(some)
    protocol = {
        **figures_protocol(setup.extractor, kept, min(sample.count, most), most),
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
        },
    }
    return json.loads(json.dumps(protocol))  # As it is read again, without tuples.


def light_config(config: Config) -> Config:
    """The configuration that a few images are drawn with while training."""
    plain = dataclasses.replace(config, sample=only_images(config.sample))
    return with_sampler(plain, config.evaluate.light_sampler, config.evaluate.light_count, "evaluate.light_sampler")


def build_light_evaluation(config: Config, workdir: Path, dataset: Dataset) -> Callable[[PyTree], dict[str, float]]:
    """A function from parameters to the figures of a few images of one sampler, for curves while training."""
    settings, mesh = config.evaluate, data_mesh()
    one, setup = light_config(config), open_setup(config, dataset, settings.light_count)
    sampler, labels = compile_sampler(one, mesh), labels_to_draw(one, workdir, dataset)

    def figures(params: PyTree) -> dict[str, float]:
        images = np.concatenate([s.images for s in sample_batches(one, sampler, params, labels, mesh)])
        if setup is None or not np.isfinite(images).all():
            return {}
        fake = measure(setup.extractor, to_pixels(images), "Drawn images", limit=settings.neighbours)
        found = compare(setup.reference, fake)
        found[setup.extractor.distance] = found.pop("fid")
        return {name: value for name, value in found.items() if value is not None}

    return figures


def held_out_rows(config: Config, dataset: Dataset) -> np.ndarray:
    """The images whose bits per dimension are measured."""
    _, held = hold_out(dataset, config.data.holdout)
    if not len(held):
        raise UserError("evaluate.bound_images needs held-out images; data.holdout=0 left none.")
    return held[: config.evaluate.bound_images]


def evaluate_bound(config: Config, workdir: Path, step: int, params: PyTree, dataset: Dataset, rows: np.ndarray) -> str:
    """Measures bits per dimension of held-out images, with its parts and terms by t, and adds them by a name."""
    folder, sample = workdir / "evaluation", config.sample
    protocol = {
        "images": len(rows),
        "split": "held out",
        "data_crc32": traits(dataset).crc32,
        "training_step": step,
        "parameters_crc32": checksum(params),
        **{name: getattr(sample, name) for name in fields_where(sample, lambda meaning: meaning.bound)},
        "variance": sampling_variance(config),
        "steps": config.diffusion.steps,
    }
    key = result_name("bound", protocol)
    if agreed_by_all(int(key in read_results(folder, step))):
        logger.info("The bound of step %d was measured before", step)
        return key
    total, terms, prior = bound_of(config, params, dataset, rows)
    if jax.process_index() == 0:
        by_t = terms.mean(axis=0)
        figures = {
            "bits_per_dim": float(total.mean()),
            "standard_error": float(total.std(ddof=1) / np.sqrt(len(total))) if len(total) > 1 else None,
            "L_0": float(by_t[0]),
            "L_1_to_T-1": float(by_t[1:].sum()),
            "L_T": float(prior.mean()),
            "L_by_t": by_t.tolist(),
        }
        add_result(folder, step, "bound", {**figures, "protocol": protocol})
    return key


def bound_of(
    config: Config, params: PyTree, dataset: Dataset, rows: np.ndarray
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N T"], Float[np.ndarray, "N"]]:
    """Bits per dimension, its terms by t = 1..T, and L_T, of each image; x_0 is kept in range as in sampling."""
    mesh, schedule, constraint = data_mesh(), build_schedule(config), build_constraint(config)

    def work(denoiser: Denoiser, keys: ImageKeys, pixels: Pixels) -> tuple[Array, Array, Array]:
        x0, variance = from_pixels(pixels), sampling_variance(config)
        total, terms, prior = bits_per_dim(constraint(denoiser), schedule, x0, keys, variance=variance)
        return total, terms.T, prior

    batches = run_batches(
        compile_work(config, mesh, work, UNGUIDED, Purpose.LIKELIHOOD),
        params,
        config.sample.seed,
        range(0, len(rows), BOUND_BATCH * mesh.size),
        labels=dataset.labels[rows] if config.label_width else None,
        inputs=dataset.images[rows],
        progress_label="Bits per dimension",
    )
    parts = [[output[:kept] for output in outputs] for outputs, kept in batches]
    total, terms, prior = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    return total, terms, prior
