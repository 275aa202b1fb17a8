"""The labels that generated images are conditioned on."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ddpm_jax.config import Config, split_names
from ddpm_jax.errors import UserError, abbreviated, nearest
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.shapes import Labels
from ddpm_jax.workdir import read_label_names


def label_names(config: Config, workdir: AnyPath) -> tuple[str, ...]:
    """The names of the classes or attributes that a run's model is conditioned on."""
    return read_label_names(workdir) if config.label_width else ()


def choose_labels(config: Config, names: Sequence[str], indices: Int[np.ndarray, "batch"]) -> Labels | None:
    """The labels of the images at `indices`; None to generate without labels.

    sample.label applies to all images: one class, or the attributes that the images have, and no others. If it is None,
    images of a class-conditional model take each class in turn, unless they are made of conditions, whose classes are
    unknown; and those of a model with attributes have no label; or none of the attributes, if the model was never
    trained without labels (train.label_dropout=0).

    names: names of the classes or attributes.
    """
    width, label = config.label_width, config.sample.label
    if label is None and config.model.attributes:
        return None if config.train.label_dropout else np.zeros((len(indices), width), np.uint8)
    if label is None and width and config.condition_shape:
        if config.train.label_dropout or config.train.condition_dropout:
            return None
        raise UserError(
            "sample.label is missing: the class of a condition is unknown, and the model was never trained without "
            f"(train.label_dropout=0); expected one of {abbreviated(names)}."
        )
    if label is None:
        return (indices % width).astype(np.int32) if width else None
    numbers = [_label_number(name, names, width) for name in split_names(label, "sample.label", names.__contains__)]
    if config.model.attributes:
        return np.tile(np.isin(np.arange(width), numbers).astype(np.uint8), (len(indices), 1))
    if len(numbers) > 1:
        raise UserError(
            f"sample.label={label!r} names {len(numbers)} classes; expected one, as an image has one class."
        )
    return np.full(len(indices), numbers[0], np.int32)


def labels_if_set(config: Config, workdir: AnyPath, count: int) -> Labels | None:
    """The labels of `count` images that are made from given ones: sample.label, or None without."""
    if config.sample.label is None:
        return None
    return choose_labels(config, label_names(config, workdir), np.arange(count))


def _label_number(name: str, names: Sequence[str], width: int) -> int:
    if name in names:
        return names.index(name)
    # If names are numbers, another number is a mistake rather than an index.
    if name.isdecimal() and int(name) < width and not any(known.isdecimal() for known in names):
        return int(name)
    raise UserError(f"sample.label={name!r} is not a label of this run; {nearest(name, names)}")
