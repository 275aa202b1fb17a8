"""Names of splits, and the choice of the split to read."""

import logging
from collections.abc import Sequence

from ddpm_jax.errors import UserError, nearest

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The split that a folder's name stands for."""
ALL = "all"

logger = logging.getLogger(__name__)


def choose_split(wanted: str | None, splits: Sequence[str], origin: str) -> str:
    """The split to read: `wanted`, or by default the training split, or "all" if there is none."""
    if wanted == ALL or (wanted is None and not splits):
        return ALL
    if not splits:
        raise UserError(f"data.split={wanted!r}: {origin} has no splits; leave it out.")
    if wanted is None:
        chosen = "train" if "train" in splits else ALL
        logger.info("Split: %s, out of %s (set data.split to another, or to all)", chosen, ", ".join(splits))
        return chosen
    split = wanted if wanted in splits else SPLITS.get(wanted.lower(), wanted)
    if split not in splits:
        raise UserError(f"data.split={wanted!r} is not in {origin}; {nearest(wanted, [*splits, ALL])}")
    return split
