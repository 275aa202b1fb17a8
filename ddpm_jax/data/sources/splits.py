"""Names of splits, and the choice of the one to read."""

import logging
from collections.abc import Sequence

from ddpm_jax.errors import UserError, nearest

SPLITS = {
    name: split
    for split, names in {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "val"),
        "test": ("test", "testing"),
    }.items()
    for name in names
}
"""Folder names that mean a split, and which."""
ALL = "all"

logger = logging.getLogger(__name__)


def choose_split(wanted: str | None, splits: Sequence[str], origin: str) -> str:
    """The split to read of those there are: the one asked for, else the training split; or "all"."""
    if wanted == ALL or (wanted is None and not splits):
        return ALL
    if not splits:
        raise UserError(f"data.split={wanted!r}: {origin} has no splits; leave it out.")
    if wanted is None:
        chosen = "train" if "train" in splits else ALL
        logger.info("Split: %s, of %s (data.split chooses another, or all)", chosen, ", ".join(splits))
        return chosen
    meant = wanted if wanted in splits else SPLITS.get(wanted.lower(), wanted)
    if meant not in splits:
        raise UserError(f"data.split={wanted!r} is not in {origin}; {nearest(wanted, [*splits, ALL])}")
    return meant
