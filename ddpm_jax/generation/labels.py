"""Which labels the generated images are conditioned on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.shapes import Labels
from ddpm_jax.workdir import read_label_names


def label_names(config: Config, workdir: Path) -> tuple[str, ...]:
    """The names of the classes or attributes that a run's model is conditioned on."""
    return read_label_names(workdir) if config.label_width else ()


def choose_labels(config: Config, names: Sequence[str], indices: Int[np.ndarray, "batch"]) -> Labels | None:
    """The labels of the images at `indices`; None where they are to be generated without labels.

    sample.label holds for all of them: one class, or the attributes that the images have, and no others. Where it is
    None, a model of classes takes each class in turn, and a model of attributes generates without labels, or if it was
    never trained without them (train.label_dropout=0), images that have none of the attributes.

    names: names of the classes or attributes.
    """
    width, label = config.label_width, config.sample.label
    if label is None and config.model.attributes:
        return None if config.train.label_dropout else np.zeros((len(indices), width), np.uint8)
    if label is None:
        return (indices % width).astype(np.int32) if width else None
    numbers = [_label_number(name.strip(), names, width) for name in label.split(",")]
    if config.model.attributes:
        return np.tile(np.isin(np.arange(width), numbers).astype(np.uint8), (len(indices), 1))
    if len(numbers) > 1:
        raise UserError(
            f"sample.label={label!r} names {len(numbers)} classes; expected one, as an image has one class."
        )
    return np.full(len(indices), numbers[0], np.int32)


def _label_number(name: str, names: Sequence[str], width: int) -> int:
    if name in names:
        return names.index(name)
    # Among classes that have numbers for names, another number would be a mistake rather than a place in the list.
    if name.isdecimal() and int(name) < width and not any(known.isdecimal() for known in names):
        return int(name)
    raise UserError(f"sample.label={name!r} is not a label of this run; {nearest(name, names)}")
