"""Selection of the images of a source, and of the labels that the model is conditioned on."""

import logging

import numpy as np
from jaxtyping import Bool, Int

from ddpm_jax.config import Config, split_names
from ddpm_jax.config.sections import Data
from ddpm_jax.data.annotations import Annotations
from ddpm_jax.data.dataset import Labels
from ddpm_jax.data.filters import evaluate_filter
from ddpm_jax.errors import UserError, abbreviated, nearest

logger = logging.getLogger(__name__)


def select_rows(data: Data, annotations: Annotations, origin: str) -> Int[np.ndarray, "M"]:
    """The rows that data.classes, filter, fraction and first select, in order; UserError if they select none."""
    rows = np.arange(len(annotations))
    if data.classes is not None:
        wanted = named(data.classes, annotations.class_names, "data.classes", origin)
        rows = rows[np.isin(annotations.classes, wanted)]
    if data.filter is not None:
        rows = rows[_filtered(data.filter, annotations, origin)[rows]]
    if not len(rows):
        limits = {"data.classes": data.classes, "data.filter": data.filter}
        raise UserError(
            f"{' and '.join(f'{name}={value!r}' for name, value in limits.items() if value is not None) or origin} "
            f"selects none of the {len(annotations)} images of {origin}; loosen it."
        )
    if data.fraction < 1.0:
        count = max(1, round(data.fraction * len(rows)))
        rows = np.sort(np.random.default_rng(data.fraction_seed).permutation(rows)[:count])
    if data.first is not None and data.first < len(rows):
        before, rows = rows, rows[: data.first]
        lost = set(annotations.classes[before]) - set(annotations.classes[rows])
        if lost:
            logger.warning(
                "data.first=%d leaves out %d classes, since images are sorted by class; data.fraction samples from all",
                data.first,
                len(lost),
            )
    return rows


def conditions(config: Config, annotations: Annotations, origin: str) -> tuple[Labels, tuple[str, ...]]:
    """The labels that the model is conditioned on, and their names: chosen attributes, or classes."""
    wanted, data = config.model.attributes, config.data
    if wanted:
        names = annotations.attribute_names
        if not names:
            raise UserError(
                f"model.attributes={wanted}, but {origin} has no attributes; set it to 0, or use model.classes."
            )
        chosen = list(range(len(names)))
        if data.attributes is not None:
            chosen = named(data.attributes, names, "data.attributes", origin)
        if len(chosen) != wanted:
            raise UserError(
                f"model.attributes={wanted}, but the data has {len(chosen)} ({abbreviated(names[i] for i in chosen)}); "
                f"set it to {len(chosen)}, or choose attributes with data.attributes."
            )
        return annotations.attributes[:, chosen], tuple(names[i] for i in chosen)
    names, labels = annotations.class_names, annotations.classes
    if data.classes is not None:
        kept = np.sort(named(data.classes, names, "data.classes", origin))
        names, labels = tuple(names[i] for i in kept), np.searchsorted(kept, labels).astype(np.int32)
    if config.model.classes and config.model.classes != len(names):
        found = f"the data has {len(names)} ({abbreviated(names, 10)})" if names else f"{origin} has no classes"
        raise UserError(f"model.classes={config.model.classes}, but {found}; set it to {len(names)}.")
    return labels, names


def named(text: str, names: tuple[str, ...], field: str, origin: str) -> list[int]:
    """The indices of comma-separated names; UserError for unknown ones."""
    if not names:
        raise UserError(f"{field}={text!r}: {origin} has no {field.rpartition('.')[2]}.")
    wanted = split_names(text, field, names.__contains__)
    for name in wanted:
        if name not in names:
            raise UserError(f"{field}={text!r}: there is no {name!r}; {nearest(name, names)}")
    return [names.index(name) for name in dict.fromkeys(wanted)]


def _filtered(text: str, annotations: Annotations, origin: str) -> Bool[np.ndarray, "N"]:
    """The images that match a filter; a name that is both an attribute and a class means the attribute."""
    classes, attributes = annotations.class_names, annotations.attribute_names
    if not classes and not attributes:
        raise UserError(f"data.filter={text!r} needs classes or attributes, and {origin} has none; leave it out.")

    def holds(name: str) -> Bool[np.ndarray, "N"]:
        if name in attributes:
            return annotations.attributes[:, attributes.index(name)] == 1
        return annotations.classes == classes.index(name)

    return evaluate_filter(text, {*classes, *attributes}, holds)
