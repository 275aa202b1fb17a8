"""The fixed side of an evaluation: the extractor, the reference to compare with, and the protocol of a result."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ddpm_jax.builders import build_pairs, sampling_variance
from ddpm_jax.commands.evaluation_inputs import Inputs
from ddpm_jax.config import Config, fields_fixed_by, flatten
from ddpm_jax.data.cache import key_of, open_cache, remembered
from ddpm_jax.data.dataset import Dataset, traits
from ddpm_jax.data.stream import Streamed
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import Extractor, open_extractor
from ddpm_jax.evaluation.statistics import (
    Statistics,
    arrays_of,
    load_statistics,
    measure,
    metrics_protocol,
    statistics_of,
    warn_of_small_sets,
)
from ddpm_jax.generation.guides import GuidedParams, with_guide_step, without_guide
from ddpm_jax.generation.output import checksum
from ddpm_jax.generation.requests import image_fields
from ddpm_jax.runtime.files import sha256
from ddpm_jax.runtime.urls import local_file

RANDOM_KEYS = 2
"""Version of how random keys follow from a seed; images of version 1 shared keys with training."""
VERSION = "1"
"""Version of the measurement; cached statistics of other versions are not used."""


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


def protocol_of(config: Config, step: int, params: PyTree, inputs: Inputs, setup: EvaluationSetup) -> dict[str, Any]:
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
            "parameters_crc32": checksum(without_guide(params)),
            **guide_protocol(config, params),
            **sample_protocol(config, image_fields(sample)),
            "labels_crc32": None if inputs.labels is None else checksum(inputs.labels),
            "steps": len(build_pairs(config)),
            # Defaults of versions to come, and other random keys, must not pass for what was measured here.
            "steps_crc32": checksum(build_pairs(config)),
            "effective_variance": sampling_variance(config) if sample.sampler == "ddpm" else None,
            "random_keys": RANDOM_KEYS,
        },
        **condition_protocol(config),
    }
    if inputs.originals:
        protocol["condition"] |= {"originals": inputs.originals.split, "originals_crc32": inputs.originals.crc32}
        protocol["condition"]["conditions_crc32"] = checksum(inputs.conditions)  # Later versions may make others.
    return json.loads(json.dumps(protocol))  # As read from disk, where tuples are lists.


def sample_protocol(config: Config, names: Sequence[str]) -> dict[str, Any]:
    """Fields of config.sample for a protocol, without the guide.

    Older results have neither condition_noise nor ema_width.
    """
    sample = config.sample
    unused = {"guide"} | ({"ema_width"} if sample.ema_width is None else set())
    unused |= set() if config.condition_shape else {"condition_noise"}
    return {name: getattr(sample, name) for name in names if name not in unused}


def guide_protocol(config: Config, params: PyTree) -> dict[str, Any]:
    """The guide, and the fields in which its network differs from the model's, for a protocol; nothing without."""
    if not isinstance(params, GuidedParams):
        return {}
    own, other, fixed = flatten(config), flatten(params.guide_config), fields_fixed_by("parameters")
    return {
        "guide": {
            "from": with_guide_step(config, params).sample.guide,  # The same for two ways to write a path.
            "training_step": params.guide_step,
            "parameters_crc32": checksum(params.guide),
            **{name: other[name] for name in fixed if other[name] != own[name]},
        }
    }


def condition_protocol(config: Config) -> dict[str, Any]:
    """How the conditions of an image-to-image model are made, for a protocol; nothing for other models."""
    kind = config.model.condition
    if kind == "none":
        return {}
    return {"condition": {"kind": kind, **(vars(config.degradation) if kind == "low_resolution" else {})}}
