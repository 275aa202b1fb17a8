"""--mode=evaluate: how near a run's samples come to its images, and what figures say so, each with its protocol.

    checkpoints x samplers -> images on disk -> statistics -> compared with those of the training split
        -> <workdir>/evaluation/<step>.json, a table, TensorBoard, FID against training and against sampling steps

A figure that was measured before is not measured again; images of a call that was broken off are not drawn again.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ddpm_jax.assemble import build_pairs, build_schedule, build_unet, sampling_variance
from ddpm_jax.config import Config, checked
from ddpm_jax.data.cache import cache_folder, key_of
from ddpm_jax.data.dataset import Dataset, hold_out, traits
from ddpm_jax.data.open import open_dataset
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import Extractor, open_extractor
from ddpm_jax.evaluation.statistics import Statistics, compare, few_images, load_statistics, measure, save_statistics
from ddpm_jax.network.bind import bind
from ddpm_jax.reporting.charts import line_chart
from ddpm_jax.reporting.images import to_pixels
from ddpm_jax.reporting.writer import TensorBoard
from ddpm_jax.sample import (
    building_of,
    choose_labels,
    compile_sampler,
    draw_all,
    draw_to_disk,
    load_params,
    names_in,
    only_images,
    sample_name,
    with_sampler,
)
from ddpm_jax.sampling.noise import image_keys
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.sharding import along_batch, data_mesh, replicated, wait_for_all
from ddpm_jax.training.step import from_pixels
from ddpm_jax.workdir import checkpoint_folder

BOUND_BATCH = 16
Results = dict[str, dict[str, Any]]
"""What <step>.json holds: figures and protocol by the name of the sampler."""

logger = logging.getLogger(__name__)


def evaluate(config: Config, workdir: Path) -> Path:
    """Measures what config.evaluate asks for; returns the folder with the results."""
    settings, folder = config.evaluate, workdir / "evaluation"
    kinds = sampler_configs(config)
    weights = Path(settings.weights).expanduser() if settings.weights else None
    extractor = open_extractor(settings.features, weights)
    dataset = open_dataset(config) if settings.reference is None or settings.bound_images else None
    folder.mkdir(parents=True, exist_ok=True)
    reference = reference_statistics(config, extractor, dataset) if jax.process_index() == 0 else None
    for step in chosen_steps(config, workdir):
        for one in kinds:
            at = dataclasses.replace(one, sample=dataclasses.replace(one.sample, checkpoint=step))
            evaluate_sampler(at, workdir, step, extractor, reference)
        if settings.bound_images and dataset is not None:
            evaluate_bound(config, workdir, step, dataset)
    if jax.process_index() == 0:
        draw_charts(folder)
        logger.info("%s", table(folder))
        logger.info("Wrote %s", folder)
    return folder


def build_light_evaluation(config: Config, workdir: Path, dataset: Dataset) -> Callable[[PyTree], dict[str, float]]:
    """A function from parameters to the figures of a few images of one sampler, for curves while training."""
    settings, mesh = config.evaluate, data_mesh()
    extractor = open_extractor(settings.features, Path(settings.weights).expanduser() if settings.weights else None)
    reference = reference_statistics(config, extractor, dataset) if jax.process_index() == 0 else None
    plain = dataclasses.replace(config, sample=only_images(config.sample))
    one = with_sampler(plain, settings.light_sampler, settings.light_count, "evaluate.light_sampler")
    draw, labels = compile_sampler(one, mesh), choose_labels(one, workdir, np.arange(settings.light_count))

    def figures(params: PyTree) -> dict[str, float]:
        batches = draw_all(one, draw, params, labels, mesh, quiet=True)
        images = np.concatenate([to_pixels(samples.images) for samples in batches])
        if reference is None:
            return {}
        fake = measure(extractor, images, "Drawn images", limit=settings.neighbours)
        return {name: value for name, value in compare(reference, fake).items() if value is not None}

    return figures


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
        raise UserError(
            f"{workdir} holds no checkpoint yet; train first: python main.py --config=… --workdir={workdir}"
        )
    if config.evaluate.every_checkpoint:
        return steps
    return [steps[-1] if config.sample.checkpoint is None else config.sample.checkpoint]


def reference_statistics(config: Config, extractor: Extractor, dataset: Dataset | None) -> Statistics:
    """Of evaluate.reference, or of all images of the run's split; those are kept beside the decoded images."""
    settings = config.evaluate
    if settings.reference is not None:
        return load_statistics(Path(settings.reference).expanduser(), extractor.name)
    assert dataset is not None
    parts = (
        extractor.name,
        extractor.weights or "",
        repr(traits(dataset)),
        repr(config.data),
        str(settings.neighbours),
    )
    path = cache_folder(config.data.cache) / f"statistics-{key_of(parts)}.npz"
    if path.exists():
        return load_statistics(path, extractor.name)
    statistics = measure(extractor, dataset.images, "Real images", limit=settings.neighbours)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_statistics(path, statistics)
    return statistics


def evaluate_sampler(
    config: Config, workdir: Path, step: int, extractor: Extractor, reference: Statistics | None
) -> None:
    """Draws images from a checkpoint, measures them, and adds the figures to <step>.json."""
    params, step = load_params(config, workdir, data_mesh())
    name = sample_name(config, step, config.sample.count).partition("-")[2]
    protocol = protocol_of(config, step, extractor, reference)
    if read_results(workdir, step).get(name, {}).get("protocol") == protocol:
        logger.info("%s of step %d was measured before", name, step)
        return
    logger.info("Drawing %d images, %s, from step %d", config.sample.count, name, step)
    with building_of(workdir / "evaluation" / f"{step}-{name}") as building:
        store = draw_to_disk(config, workdir, params, building)
        if store and reference:
            fake = measure(extractor, store.images(), "Drawn images", limit=config.evaluate.neighbours)
            figures = compare(reference, fake)
            few_images(reference, fake)
            add_result(workdir, step, name, {**figures, "protocol": protocol})
            shutil.rmtree(building)
    wait_for_all(name)


def protocol_of(config: Config, step: int, extractor: Extractor, reference: Statistics | None) -> dict[str, Any]:
    """All that a figure depends on, so that it can be compared with others, or cannot."""
    data, sample = config.data, dataclasses.asdict(config.sample)
    drawn = {name: sample[name] for name in PROTOCOL_FIELDS}
    protocol = {
        "features": extractor.name,
        "weights_sha256": extractor.weights,
        "real": {
            "images": reference.moments.images if reference else None,
            "from": config.evaluate.reference or data.path or data.name or data.source,
            "split": data.split or "train",
            "image_size": data.image_size,
            "resize": data.resize,
            "crop": list(data.crop),
        },
        "drawn": {"images": sample["count"], "training_step": step, **drawn, "steps": len(build_pairs(config))},
        "neighbours": config.evaluate.neighbours,
    }
    return json.loads(json.dumps(protocol))  # As it is read again, without tuples.


PROTOCOL_FIELDS = (
    *("sampler", "spacing", "timesteps", "final", "order", "eta", "variance", "threshold", "percentile"),
    *("percentile_max", "keep_eps", "seed", "label", "guidance", "guidance_interval", "guidance_rescale", "ema"),
)


def evaluate_bound(config: Config, workdir: Path, step: int, dataset: Dataset) -> None:
    """Measures bits per dimension of held-out images, with its parts, and draws the terms by t."""
    _, held = hold_out(dataset, config.data.holdout)
    rows = held[: config.evaluate.bound_images]
    if not len(rows):
        raise UserError("evaluate.bound_images needs held-out images; data.holdout=0 left none.")
    at = dataclasses.replace(config, sample=dataclasses.replace(config.sample, checkpoint=step))
    params, _ = load_params(at, workdir, data_mesh())
    mesh, unet, schedule = data_mesh(), build_unet(config), build_schedule(config)
    told = config.model.classes or config.model.attributes

    def work(params: Any, x0: Array, indices: Array, labels: Array | None) -> tuple[Array, Array, Array]:
        x0, indices, labels = jax.lax.with_sharding_constraint((x0, indices, labels), along_batch(mesh))
        denoiser = bind(unet, params, schedule, config.diffusion.prediction, labels)
        keys = image_keys(config.sample.seed, indices)
        return bits_per_dim(denoiser, schedule, x0, keys, variance=sampling_variance(config))

    compiled, size, parts = jax.jit(work, out_shardings=replicated(mesh)), BOUND_BATCH * mesh.size, []
    for start in range(0, len(rows), size):
        chosen = rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
        labels = jnp.asarray(dataset.labels[chosen]) if told else None
        total, terms, prior = jax.device_get(
            compiled(params, from_pixels(dataset.images[chosen]), np.arange(start, start + size), labels)
        )
        kept = len(rows) - start
        parts.append((total[:kept], terms.T[:kept], prior[:kept]))
    total, terms, prior = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    if jax.process_index() == 0:
        figures = {
            "bits_per_dim": float(total.mean()),
            "standard_error": float(total.std(ddof=1) / np.sqrt(len(total))) if len(total) > 1 else None,
            "L_0": float(terms[:, 0].mean()),
            "L_1_to_T-1": float(terms[:, 1:].sum(axis=1).mean()),
            "L_T": float(prior.mean()),
            "protocol": {"images": len(rows), "split": "held out", "ema": config.sample.ema, "training_step": step},
        }
        add_result(workdir, step, "bound", figures)
        curve = [(t, float(value)) for t, value in enumerate(terms.mean(axis=0), start=1)]
        line_chart(
            workdir / "evaluation" / f"{step}-bound.png", {"": curve}, "t", "bits per dimension at t", log_x=True
        )


def read_results(workdir: Path, step: int) -> Results:
    """What was measured of a checkpoint so far."""
    path = workdir / "evaluation" / f"{step}.json"
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away to measure anew.") from error
    return results if isinstance(results, dict) else {}


def add_result(workdir: Path, step: int, name: str, result: dict[str, Any]) -> None:
    """Writes a result to <step>.json, whole or not at all, and its figures to TensorBoard."""
    path = workdir / "evaluation" / f"{step}.json"
    results = read_results(workdir, step) | {name: result}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results, indent=2) + "\n")
    unfinished.replace(path)
    numbers = {f"evaluation-{name}/{key}": value for key, value in result.items() if isinstance(value, float)}
    writer = TensorBoard(workdir / "evaluation", step - 1)
    writer.scalars(step, numbers)
    writer.close()


def draw_charts(folder: Path) -> None:
    """FID against training steps, and against sampling steps, of all that was measured under the same protocol."""
    by_training: dict[str, list[tuple[float, float]]] = {}
    by_sampling: dict[str, list[tuple[float, float]]] = {}
    for step, name, result in all_results(folder):
        protocol = result["protocol"]
        label = f"{name} ({protocol['features']})"
        by_training.setdefault(label, []).append((step, result["fid"]))
        sampler = f"{protocol['drawn']['sampler']}, step {step} ({protocol['features']})"
        by_sampling.setdefault(sampler, []).append((protocol["drawn"]["steps"], result["fid"]))
    for curves, x_label, name in (
        (by_training, "training step", "training-steps"),
        (by_sampling, "sampling steps", "sampling-steps"),
    ):
        if any(len(points) > 1 for points in curves.values()):
            line_chart(
                folder / f"fid-by-{name}.png", curves, x_label, "Fréchet distance", log_x=name == "sampling-steps"
            )


def all_results(folder: Path) -> list[tuple[int, str, dict[str, Any]]]:
    """Step, name and result of all samplers that were measured, in order."""
    steps = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())
    return [
        (step, name, result)
        for step in steps
        for name, result in read_results(folder.parent, step).items()
        if "fid" in result
    ]


COLUMNS = {
    "fid": "Fréchet",
    "kid_mean": "KID x1000",
    "inception_score_mean": "IS",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}


def table(folder: Path) -> str:
    """All that was measured, a line each."""
    rows = [["step", "sampler", "features", *COLUMNS.values()]]
    for step, name, result in all_results(folder):
        scaled = {**result, "kid_mean": None if result["kid_mean"] is None else 1000 * result["kid_mean"]}
        figures = ["-" if scaled[key] is None else f"{scaled[key]:.4g}" for key in COLUMNS]
        rows.append([str(step), name, result["protocol"]["features"], *figures])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
