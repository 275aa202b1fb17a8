"""Bits per dimension of a run's held-out images, with all terms, as a result of --mode=evaluate.

held-out images -> bound_of (diffusion/likelihood.py, batch by batch) -> <workdir>/evaluation/<step>.json

The bound of an image-to-image model is conditional: each image is measured given its own condition.
"""

import logging
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from ddpm_jax.builders import build_constraint, build_schedule, sampling_variance
from ddpm_jax.commands.evaluation_setup import condition_protocol, sample_protocol
from ddpm_jax.commands.output_folder import output_folder
from ddpm_jax.config import Config
from ddpm_jax.config.fields import fields_where
from ddpm_jax.data.dataset import Dataset, hold_out
from ddpm_jax.data.dataset import checksum as data_checksum
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.guidance import UNGUIDED
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.diffusion.pixels import from_pixels
from ddpm_jax.diffusion.randomness import Purpose
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.results import add_result, read_results, result_name
from ddpm_jax.generation.conditions import conditions_of
from ddpm_jax.generation.draw import compile_work, run_batches
from ddpm_jax.generation.guides import without_guide
from ddpm_jax.generation.output import checksum
from ddpm_jax.runtime.devices import agreed_by_all, data_mesh
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.shapes import ImageKeys, Pixels

BATCH = 16

logger = logging.getLogger(__name__)


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
    folder, params = output_folder(config, workdir) / "evaluation", without_guide(params)
    protocol = {
        "images": len(rows),
        "split": "held out",
        "data_crc32": data_checksum(dataset, rows),
        "training_step": step,
        "parameters_crc32": checksum(params),
        **sample_protocol(config, fields_where(config.sample, lambda meaning: meaning.bound)),
        "variance": sampling_variance(config),
        "steps": config.diffusion.steps,
        **({"depth": config.data.depth} if config.data.depth != 8 else {}),  # Older results have no such entry.
        **condition_protocol(config),
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
    variance, images, conditions = sampling_variance(config), dataset.images[rows], None
    if config.condition_shape:
        conditions = conditions_of(config, images, config.sample.seed)

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
        range(0, len(rows), BATCH * mesh.size),
        labels=dataset.labels[rows] if config.label_width else None,
        inputs=images,
        conditions=conditions,
        progress_label="Bits per dimension",
    )
    kept_outputs = [[output[:kept] for output in outputs] for outputs, kept in batches]
    total, terms, prior = (np.concatenate(column).astype(np.float64) for column in zip(*kept_outputs, strict=True))
    return total, terms, prior
