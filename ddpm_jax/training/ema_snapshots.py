"""Snapshots of the power-function EMAs, and the EMA of any width that is rebuilt from them after training.

    <workdir>/ema_snapshots/<step>/   ema_0.05/  ema_0.1/  profile/ (number of updates)  config/  SHA256SUMS

A snapshot is sealed before any checkpoint of the same step or a later one, so that a run that resumes from that
checkpoint lacks none; those after it are written again. `power_ema.py` has the equations, `sealed_trees.py` the files.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import all_agreed
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.training.power_ema import WORST_FIT, fit_profile, fitted_widths
from ddpm_jax.training.sealed_trees import SealedTrees, delete
from ddpm_jax.training.seals import DamagedCheckpoint, sealed_steps, verify
from ddpm_jax.training.state import TrainState

MOST = 32
"""Snapshots that are kept besides the newest."""
PROFILE = "profile"

logger = logging.getLogger(__name__)


def retained_snapshots(steps: Sequence[int], every: int) -> set[int]:
    """The subset of these steps (oldest first) whose snapshots are kept: the newest, and multiples of `every`.

    Once these would be more than MOST, only multiples of twice (four times …) as many steps are kept.
    """
    spacing = every
    while steps[-1] // spacing > MOST:
        spacing *= 2
    return {steps[-1], *(step for step in steps if step % spacing == 0)}


class EmaSnapshots(SealedTrees):
    """The snapshots of a run, saved in the background; a context manager.

    widths: of the EMAs, ascending; every: the steps between snapshots. confirm: as of SealedTrees.
    """

    def __init__(
        self, folder: AnyPath, widths: Sequence[float], every: int, confirm: Callable[[], None] = lambda: None
    ) -> None:
        self.widths = tuple(widths)
        items = (*map(_item, widths), PROFILE, "config")
        super().__init__(folder, "snapshot", items, partial(retained_snapshots, every=every), confirm)

    def save(self, state: TrainState, config: Mapping[str, Any]) -> None:
        """Starts to save the EMAs of a state; returns as soon as it may be donated. config: JSON."""
        step, updates = int(state.step), int(state.step) - int(state.skipped)
        trees = {_item(width): ema for width, ema in zip(self.widths, state.power_emas, strict=True)}
        if updates:  # Otherwise all steps were skipped, and there is no EMA yet.
            self.start_saving(step, trees, {PROFILE: {"updates": updates}, "config": config})

    def delete_after(self, step: int) -> None:
        """Deletes the snapshots after the step from which a run resumes; it will write them again."""
        if jax.process_index() == 0:
            for later in (s for s in sealed_steps(self.folder) if s > step):
                self._confirm()
                delete(self.folder / str(later))

    def rebuild(self, like: PyTree, width: float, step: int | None = None) -> tuple[PyTree, int]:
        """The EMA of a width at the step of a snapshot, by default the newest, as float32 on the host; and the step.

        like: the shapes of the parameters with shardings, on every device. Raises UserError if there is no such
        snapshot, or if the snapshots cannot give the width.
        """
        profiles = {each: self.read_record(each, PROFILE) for each in self._intact_steps()}
        # A job that trains may have deleted some since.
        updates = {each: int(profile["updates"]) for each, profile in profiles.items() if profile}
        at = self._chosen(sorted(updates), step)
        used = [Snapshot(each, t, own) for each, t in updates.items() if each <= at for own in self.widths]
        times, widths = [each.updates for each in used], [each.width for each in used]
        weights, error = fit_profile(times, widths, updates[at], width)
        if error > WORST_FIT:
            raise self._refusal(width, at, error, fitted_widths(times, widths, updates[at]))
        logger.info("Rebuilding the EMA of width %g at step %d (error of its profile %.2g)", width, at, error)
        total = jax.tree.map(lambda x: np.zeros(x.shape, np.float64), like)
        for one, weight in zip(used, weights, strict=True):
            trees = self.read_trees(one.step, {_item(one.width): like})
            if trees is None:
                raise UserError(f"Training has just deleted snapshot {one.step} of {self.folder}; start again.")
            jax.tree.map(partial(_add, weight), total, jax.device_get(trees[_item(one.width)]))
        return jax.tree.map(lambda x: x.astype(np.float32), total), at

    def _intact_steps(self) -> list[int]:
        """The steps of all intact snapshots, as the first process finds them; damaged ones are logged."""
        return all_agreed([s for s in sealed_steps(self.folder) if jax.process_index() == 0 and self._is_intact(s)])

    def _is_intact(self, step: int) -> bool:
        try:
            verify(self.folder / str(step))
        except DamagedCheckpoint as error:
            logger.warning(
                "Snapshot %d in %s is damaged (%s); the EMA is rebuilt without it.", step, self.folder, error
            )
            return False
        return True

    def _chosen(self, steps: Sequence[int], step: int | None) -> int:
        if not steps:
            raise UserError(
                f"{self.folder} holds no intact snapshot of EMAs, from which sample.ema_width rebuilds one; the first "
                "is written after optimizer.ema_snapshots steps of training."
            )
        if step is not None and step not in steps:
            kept = ", ".join(map(str, steps))
            raise UserError(f"{self.folder} has no intact snapshot of step {step}; an EMA can be rebuilt at {kept}.")
        return steps[-1] if step is None else step

    def _refusal(self, width: float, step: int, error: float, possible: list[tuple[float, float]]) -> UserError:
        spans = [f"{low} to {high}" for low, high in possible] or map(str, self.widths)
        return UserError(
            f"sample.ema_width={width} cannot be rebuilt at step {step} from the snapshots in {self.folder} (error "
            f"{error:.1%}, at most {WORST_FIT:.0%}); they give {', '.join(spans)}, and more snapshots give more."
        )


class Snapshot(NamedTuple):
    """An EMA in a snapshot."""

    step: int
    updates: int
    width: float


def _item(width: float) -> str:
    return f"ema_{width}"


def _add(weight: float, total: np.ndarray, tree: np.ndarray) -> None:
    total += weight * tree.astype(np.float64)
