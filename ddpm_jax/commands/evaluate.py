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
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ddpm_jax.builders import build_constraint, build_pairs, build_schedule, build_unet, sampling_variance
from ddpm_jax.config import Config, checked
from ddpm_jax.data.cache import key_of, open_cache, remembered
from ddpm_jax.data.dataset import Dataset, hold_out, traits
from ddpm_jax.data.open import open_dataset
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.diffusion.pixels import from_pixels, to_pixels
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
    warn_of_few,
)
from ddpm_jax.generation.draw import compile_sampler, draw_all, load_params
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import building_of, checksum, draw_to_disk
from ddpm_jax.generation.requests import names_in, only_images, sample_name, with_sampler
from ddpm_jax.network.bind import bind
from ddpm_jax.runtime.devices import agreed_by_all, along_batch, data_mesh, replicated, wait_for_all
from ddpm_jax.runtime.files import sha256
from ddpm_jax.runtime.progress import progress
from ddpm_jax.sampling.noise import image_keys
from ddpm_jax.shapes import Labels
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.workdir import checkpoint_folder, no_checkpoint

VERSION = "1"
"""Of how statistics are measured; what another version measured and kept is not used."""
BOUND_BATCH = 16
PROTOCOL_FIELDS = (
    *("sampler", "spacing", "timesteps", "final", "order", "eta", "variance", "threshold", "percentile"),
    *("percentile_max", "keep_eps", "seed", "label", "guidance", "guidance_interval", "guidance_rescale", "ema"),
)
"""Of config.sample, what figures depend on besides the number of images and steps."""

logger = logging.getLogger(__name__)


def evaluate(config: Config, workdir: Path) -> Path:
    """Measures what config.evaluate asks for; returns the folder with the results."""
    settings, folder = config.evaluate, workdir / "evaluation"
    kinds, steps = sampler_configs(config), chosen_steps(config, workdir)
    as_data = bool(config.model.classes or config.model.attributes) and config.sample.label is None
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
    return [with_sampler(config, name, count, field) for name in names_in(config.evaluate.samplers, field)]


def chosen_steps(config: Config, workdir: Path) -> list[int]:
    """The checkpoints to measure."""
    with Checkpoints(checkpoint_folder(workdir)) as checkpoints:
        steps = checkpoints.steps()
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
    if not (config.model.classes or config.model.attributes) or config.sample.label is not None:
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
    with building_of(folder / f"{step}-{key}", wait=jax.process_count() == 1) as building:
        if agreed_by_all(int(key in read_results(folder, step))):
            logger.info("%s of step %d was measured before", name, step)
            shutil.rmtree(building, ignore_errors=True)
            return key
        logger.info("Drawing %d images, %s, from step %d", config.sample.count, name, step)
        store = draw_to_disk(config, params, labels, building)
        if store and setup:
            fake = measure(setup.extractor, store.images(), "Drawn images", limit=config.evaluate.neighbours)
            add_result(folder, step, name, {**compare(setup.reference, fake), "protocol": protocol})
            shutil.rmtree(building)
    wait_for_all(name)
    return key


def protocol_of(
    config: Config, step: int, params: PyTree, labels: Labels | None, setup: EvaluationSetup
) -> dict[str, Any]:
    """All that a figure depends on, so that it can be compared with others, or cannot."""
    data, sample, other = config.data, dataclasses.asdict(config.sample), config.evaluate.reference
    own = {"split": data.split or "training", "image_size": data.image_size, "resize": data.resize, "crop": data.crop}
    some, most = setup.reference.subset, config.evaluate.neighbours
    kept = None if some is None else len(some)
    protocol = {
        **metrics_protocol(setup.extractor, kept, min(sample["count"], most), most),
        "real": {
            "images": setup.reference.moments.images,
            "from": other or data.path or data.name or data.source,
            "identity": setup.identity,
            **(dict.fromkeys(own) if other else own),
        },
        "drawn": {
            "images": sample["count"],
            "training_step": step,
            "parameters_crc32": checksum(params),
            **{name: sample[name] for name in PROTOCOL_FIELDS},
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
    draw, labels = compile_sampler(one, mesh), labels_to_draw(one, workdir, dataset)

    def figures(params: PyTree) -> dict[str, float]:
        images = np.concatenate([s.images for s in draw_all(one, draw, params, labels, mesh, quiet=True)])
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
        "training_step": step,
        "parameters_crc32": checksum(params),
        "ema": sample.ema,
        "seed": sample.seed,
        "threshold": sample.threshold,
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
    mesh, unet, schedule = data_mesh(), build_unet(config), build_schedule(config)
    told, constraint = config.model.classes or config.model.attributes, build_constraint(config)

    def work(params: PyTree, x0: Array, indices: Array, labels: Array | None) -> tuple[Array, Array, Array]:
        x0, indices, labels = jax.lax.with_sharding_constraint((x0, indices, labels), along_batch(mesh))
        denoiser = constraint(bind(unet, params, schedule, config.diffusion.prediction, labels))
        keys = image_keys(config.sample.seed, indices)
        return bits_per_dim(denoiser, schedule, x0, keys, variance=sampling_variance(config))

    compiled, size, parts = jax.jit(work, out_shardings=replicated(mesh)), BOUND_BATCH * mesh.size, []
    starts = range(0, len(rows), size)
    for start in progress(starts, "Bits per dimension", total=len(starts)):
        chosen = rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
        labels = jnp.asarray(dataset.labels[chosen]) if told else None
        total, terms, prior = jax.device_get(
            compiled(params, from_pixels(dataset.images[chosen]), np.arange(start, start + size), labels)
        )
        kept = len(rows) - start
        parts.append((total[:kept], terms.T[:kept], prior[:kept]))
    total, terms, prior = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    return total, terms, prior
