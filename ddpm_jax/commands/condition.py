"""--mode=sample --config.sample.task=condition: images for given conditions, by an image-to-image model.

sample.images                     the conditions themselves: of the low size, grey, or images beside sample.mask
sample.originals                  clean images, whose conditions are made as in training
both                              conditions, and the originals with which the results are compared

conditions, seed, i -> sampled batch by batch -> grid, PNG files, npz, metrics
"""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ddpm_jax.commands.image_files import assign_in_turn, files_of, read_images, read_mask
from ddpm_jax.commands.output_folder import output_folder
from ddpm_jax.config import Config
from ddpm_jax.data.decode import decoding_of
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.conditional import restoration_metrics
from ddpm_jax.evaluation.restoration import means_of
from ddpm_jax.generation.conditions import conditions_of, is_painted, shown_conditions
from ddpm_jax.generation.draw import load_params
from ddpm_jax.generation.guides import with_guide_step
from ddpm_jax.generation.labels import choose_labels, label_names
from ddpm_jax.generation.output import GRID_IMAGES, published, sample_to_disk, unfinished_folder, write_files
from ddpm_jax.generation.requests import sample_name
from ddpm_jax.reporting.images import save_png, stacked_grid
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.shapes import ConditionPixels, Pixels

BASELINES = {
    "low_resolution": "bicubic enlargement",
    "grey": "grey images",
    "mask": "mean colour of the known part",
}
"""The baseline of each model.condition, in words."""

logger = logging.getLogger(__name__)


def sample_conditions(config: Config, workdir: AnyPath) -> AnyPath:
    """Samples sample.count images for conditions, in turn, and writes them to <workdir>/samples/<name>/, its result.

    Images are written batch by batch; after an interruption the same call resumes where it stopped.
    """
    conditions, originals = read_conditions(config)
    turn = assign_in_turn(config, "sample.images" if config.sample.images else "sample.originals")
    labels = choose_labels(config, label_names(config, workdir), np.arange(len(turn)))
    params, step = load_params(config, workdir, data_mesh())
    given = conditions.tobytes() + (b"" if originals is None else originals.tobytes())
    name = sample_name(with_guide_step(config, params), step, len(turn), given)
    target = output_folder(config, workdir) / "samples" / name
    logger.info("Sampling %d images, conditions: %d, from step %d", len(turn), len(conditions), step)
    with unfinished_folder(target) as folder:
        store = sample_to_disk(config, params, labels, folder.path, conditions=conditions[turn])
        if store:
            folder.upload()  # At a URL, before the many files of the target.
            images = store.images()
            with published(folder.path, target, images) as out:
                _write_conditions(config, conditions, out)
                sets = [shown_conditions(config, conditions[turn[:GRID_IMAGES]]), images[:GRID_IMAGES]]
                if originals is not None:
                    sets.append(originals[turn[:GRID_IMAGES]])
                    metrics = restoration_metrics(config, images, conditions[turn], originals[turn])
                    _report(config, metrics, out / "metrics.json")
                save_png(stacked_grid(*sets), out / "grid.png")
    return target


def read_conditions(config: Config) -> tuple[ConditionPixels, Pixels | None]:
    """The conditions that sample.images or sample.originals name, and the originals, if they are known."""
    sample, kind = config.sample, config.model.condition
    if sample.mask and kind != "mask":
        raise UserError(f"sample.mask={sample.mask} has no effect with model.condition={kind!r}; leave it out.")
    originals = read_images(config, "sample.originals", most=sample.count) if sample.originals else None
    if sample.images:
        conditions = _read_given(config)
    elif originals is None:
        raise UserError(
            "sample.task='condition' needs sample.images, the conditions, or sample.originals, of which they are made; "
            "set one of them to a folder or to files separated by commas."
        )
    else:
        conditions = _with_mask(config, originals) if sample.mask else conditions_of(config, originals, sample.seed)
    if sample.images and sample.originals:  # Both are cut to sample.count.
        given, known = (len(files_of(config, f"sample.{name}")) for name in ("images", "originals"))
        if given != known:
            raise UserError(
                f"sample.originals names {known} images and sample.images {given}; expected as many, in the same order."
            )
    return conditions, originals


def _read_given(config: Config) -> ConditionPixels:
    decoding, shape, most = decoding_of(config.data), config.condition_shape, config.sample.count
    assert shape is not None
    match config.model.condition:
        case "low_resolution":
            remedy = "shrink it, or name images of the full size in sample.originals, which are shrunk as in training"
            low = dataclasses.replace(decoding, image_size=shape[:2], crop=())
            return read_images(config, decoding=low, most=most, remedy=remedy)
        case "grey":
            return read_images(config, decoding=dataclasses.replace(decoding, channels=1), most=most)
    return _with_mask(config, read_images(config, most=most))


def _with_mask(config: Config, images: Pixels) -> ConditionPixels:
    """Images with sample.mask as their last channel."""
    mask = (read_mask(config) * np.iinfo(images.dtype).max).astype(images.dtype)
    return np.concatenate([images, np.broadcast_to(mask, (*images.shape[:3], 1))], axis=3)


def _write_conditions(config: Config, conditions: ConditionPixels, out: Path) -> None:
    """Writes conditions/ and, for a model that inpaints, masks/; in the former masked parts are grey."""
    if config.model.condition == "mask":
        write_files(out / "masks", np.where(is_painted(conditions[..., -1:]), 255, 0).astype(np.uint8))
        conditions = shown_conditions(config, conditions)
    write_files(out / "conditions", conditions)


def _report(config: Config, metrics: dict[str, Float[np.ndarray, "N"]], path: Path) -> None:
    """Logs the means in one line, and writes them and each image's values, null where infinite."""
    means = means_of(metrics)
    logger.info(
        "PSNR %.2f dB, SSIM %.3f (%s: %.2f dB, %.3f)%s; means of %d images",
        *(means[name] for name in ("psnr", "ssim")),
        BASELINES[config.model.condition],
        *(means[name] for name in ("baseline_psnr", "baseline_ssim")),
        f", consistency {means['consistency']:.2f} dB" if "consistency" in means else "",
        len(metrics["psnr"]),
    )
    each = {name: [_finite(value) for value in values.tolist()] for name, values in metrics.items()}
    table = {"images": len(metrics["psnr"]), **means, "each": each}
    path.write_text(json.dumps(table, indent=2, allow_nan=False) + "\n")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
