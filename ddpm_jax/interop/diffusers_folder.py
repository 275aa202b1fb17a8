"""Folders in diffusers' format: a DDPMPipeline, a DDIMPipeline, or a single UNet2DModel.

    model_index.json  unet/config.json  unet/diffusion_pytorch_model.safetensors  scheduler/scheduler_config.json

All files may also be in one folder, as in google/ddpm-*. Exported folders also have a model card, a grid of samples and
labels.json, the names of the classes.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from ddpm_jax.builders import param_shapes
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.interop.diffusers import params_of, tensors_of
from ddpm_jax.interop.diffusers_card import condition_flags, is_pipeline
from ddpm_jax.interop.diffusers_options import (
    checked_options,
    fields_of,
    has_null_class,
    image_channels,
    options_of,
)
from ddpm_jax.interop.diffusers_scheduler import noise_of, scheduler_of
from ddpm_jax.interop.runs import new_folder, numbered
from ddpm_jax.interop.tensors import PICKLED, TensorFile, refuse_pickle, write_tensors
from ddpm_jax.reporting.images import Picture, save_png
from ddpm_jax.workdir import read_label_names

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIPELINES = ("DDPMPipeline", "DDIMPipeline")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Found:
    """A model in a folder: the fields of the configuration that it determines, and its parameters, not yet loaded."""

    fields: dict[str, Any]
    options: dict[str, Any]
    file: TensorFile
    names: Sequence[str] | None

    def params(self, config: Config) -> PyTree:
        """The parameters, float32."""
        return params_of(self.file, self.options, param_shapes(config))

    def labels(self, config: Config) -> Sequence[str]:
        """Names of the classes, or their numbers."""
        if self.names is None or len(self.names) == config.model.classes:
            return self.names or numbered(config)
        logger.warning("labels.json has %d names for %d classes; using numbers", len(self.names), config.model.classes)
        return numbered(config)


def fetch_folder(name: str) -> Path:
    """The local folder of this name, or else a download of the model of this name from the Hugging Face hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    refuse_pickle(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(
            f"{name} is not a folder; give one that diffusers wrote, or a name on the hub such as owner/model."
        )
    try:
        from huggingface_hub import errors, snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"{name} is not a folder, and downloading it needs huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        described = Path(snapshot_download(name, allow_patterns=["*.json"]))
        _refuse_other_pipelines(described)  # Before gigabytes of weights are downloaded in vain.
        return Path(snapshot_download(name, allow_patterns=["*.json", f"*{WEIGHTS}"]))
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is not a folder, and cannot be downloaded from the hub ({reason}).") from error


def read_folder(folder: Path, condition: str = "none") -> Found:
    """The model in a folder; raises UserError for features that our network does not have.

    condition: the kind of the model, model.condition, which no folder tells.
    """
    _refuse_other_pipelines(folder)
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    where = str(unet / "config.json")
    options = checked_options(read_json(unet / "config.json"), where)
    channels = image_channels(options, condition, where)
    file = TensorFile(_weights(unet))
    learned = options["out_channels"] > channels
    classes = _classes(options, file)
    fields = fields_of(options, classes, channels, condition) | noise_of(*_scheduler(folder, learned), learned)
    if options["num_class_embeds"] == classes:  # It was not trained without labels.
        fields["train.label_dropout"] = 0.0
        if classes:
            logger.warning("None of its %d classes means no label, so sample.guidance has no effect", classes)
    names = read_label_names(folder) if (folder / "labels.json").exists() else None
    return Found(fields, options, file, names)


def _refuse_other_pipelines(folder: Path) -> None:
    index = folder / "model_index.json"
    if index.exists():
        pipeline = read_json(index).get("_class_name")
        if pipeline not in PIPELINES:
            raise UserError(f"{index} describes a {pipeline}; only {' and '.join(PIPELINES)} can be imported.")


def _weights(unet: Path) -> Path:
    path = unet / WEIGHTS
    if not path.exists():
        for pickled in sorted(unet.glob("diffusion_pytorch_model.*")):
            if pickled.suffix in PICKLED:
                refuse_pickle(pickled)
        others = ", ".join(sorted(other.name for other in unet.glob("*.safetensors*"))) or "none"
        raise UserError(
            f"{unet} contains no {WEIGHTS}; its .safetensors files: {others}. Save the model in one file, without a "
            "variant."
        )
    return path


def _classes(options: Mapping[str, Any], file: TensorFile) -> int:
    """The number of classes, without a last one whose embedding is zero: it means no label."""
    rows, name = options["num_class_embeds"] or 0, "class_embedding.weight"
    if rows < 2 or file.shapes.get(name) != (rows, 4 * options["block_out_channels"][0]):
        return rows
    return rows if np.any(file.load(name)[-1]) else rows - 1


def _scheduler(folder: Path, learned: bool) -> tuple[dict[str, Any], str]:
    for path in (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"):
        if path.exists():
            return read_json(path), str(path)
    logger.warning("%s has no scheduler_config.json; assuming the linear schedule of DDPM with 1,000 steps", folder)
    return {"variance_type": "learned_range" if learned else "fixed_large"}, str(folder / "scheduler_config.json")


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; expected a folder that diffusers' save_pretrained wrote.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected JSON.") from error
    if not isinstance(table, dict):
        raise UserError(f"{path} contains a {type(table).__name__}; expected a table of options.")
    return table


def write_folder(
    config: Config, params: PyTree, out: Path, *, names: Sequence[str], card: str, grid: Picture | None
) -> None:
    """Writes a folder for diffusers' from_pretrained: a DDPMPipeline, or the UNet2DModel of a conditional model.

    card: by `diffusers_card.model_card`, which says what a UNet2DModel does not hold.
    """
    options, scheduler = options_of(config), scheduler_of(config)
    if config.data.augment:
        logger.info("Left out the layer of data.augment=%s: sampling multiplies it by zeros", config.data.augment)
    if config.data.depth != 8:
        logger.info("The model was trained on images of %d bits; diffusers returns 8", config.data.depth)
    if config.condition_shape:
        logger.info(
            "diffusers does not know that %d of the %d input channels are the condition, %r, nor how it is made; "
            "README.md says how, and import needs %s",
            options["in_channels"] - config.data.channels,
            options["in_channels"],
            config.model.condition,
            " ".join(condition_flags(config)),
        )
    tensors = tensors_of(params, len(config.model.multipliers), has_null_class(config))
    with new_folder(out) as building:
        pipeline = is_pipeline(config)
        unet, noise = (building / "unet", building / "scheduler") if pipeline else (building, building)
        tables: dict[Path, Any] = {unet / "config.json": options, noise / "scheduler_config.json": scheduler}
        if pipeline:
            parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", scheduler["_class_name"]]}
            tables[building / "model_index.json"] = {"_class_name": "DDPMPipeline", **parts}
        if config.model.classes:
            tables[building / "labels.json"] = list(names)
        for path, table in tables.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_tensors(unet / WEIGHTS, tensors, {"format": "pt"})
        (building / "README.md").write_text(card, encoding="utf-8")
        if grid is not None:
            save_png(grid, building / "grid.png")
