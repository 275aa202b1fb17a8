"""Snapshots of the power-function EMAs, and the EMA of any width that is rebuilt from them after training.

    <workdir>/ema_snapshots/<step>/   ema_0.05/  ema_0.1/  updates/ (their number)  config/  SHA256SUMS

A snapshot is sealed before any checkpoint of the same step or a later one, so that a run that resumes from that
checkpoint lacks none; those after it are written again. `power_ema.py` has the equations, `sealed_trees.py` the files.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import all_agreed
from ddpm_jax.runtime.urls import AnyPath, store_errors
from ddpm_jax.training.power_ema import WORST_FIT, fit_profile, fitted_widths
from ddpm_jax.training.sealed_trees import SealedTrees, delete
from ddpm_jax.training.seals import DamagedCheckpoint, sealed_steps, verify
from ddpm_jax.training.state import TrainState

MOST_SNAPSHOTS = 32
"""Snapshots that are kept besides the newest."""
UPDATES = "updates"
"""The item, and its entry, that holds the number of updates of the EMAs."""

logger = logging.getLogger(__name__)


def retained_snapshots(steps: Sequence[int], every: int) -> set[int]:
    """The subset of these steps (oldest first) whose snapshots are kept: the newest, and multiples of `every`.

    Once these would be more than MOST_SNAPSHOTS, only multiples of twice (four times …) as many steps are kept.
    """
    spacing = every
    while steps[-1] // spacing > MOST_SNAPSHOTS:
        spacing *= 2
    return {steps[-1], *(step for step in steps if step % spacing == 0)}


class EmaSnapshots(SealedTrees):
    """The snapshots of a run, saved in the background; a context manager.

    widths: those of the EMAs, ascending; every: the steps between snapshots; confirm: see SealedTrees.
    """

    def __init__(
        self, folder: AnyPath, widths: Sequence[float], every: int, confirm: Callable[[], None] = lambda: None
    ) -> None:
        self.widths = tuple(widths)
        items = (*map(_item, widths), UPDATES, "config")
        super().__init__(folder, "snapshot", items, partial(retained_snapshots, every=every), confirm)

    def save(self, state: TrainState, config: Mapping[str, Any]) -> None:
        """Starts to save the EMAs of a state; returns as soon as it may be donated. config: JSON."""
        step, updates = int(state.step), int(state.step) - int(state.skipped)
        trees = {_item(width): ema for width, ema in zip(self.widths, state.power_emas, strict=True)}
        if updates:  # Otherwise all steps were skipped, and there is no EMA yet.
            self.start_saving(step, trees, {UPDATES: {UPDATES: updates}, "config": config})

    def delete_after(self, step: int) -> None:
        """Deletes the snapshots after the step from which a run resumes; it will write them again."""
        if jax.process_index():
            return
        with store_errors(self.folder):
            for later in (s for s in sealed_steps(self.folder) if s > step):
                self._confirm()
                delete(self.folder / str(later))

    def check(self, width: float, step: int | None = None) -> int:
        """The step at which `rebuild` would give the EMA of a width; raises its UserErrors.

        Reads no EMA and communicates with no other process.
        """
        return self._fit(self._updates(verified=-1), width, step)[0]

    def rebuild(self, like: PyTree, width: float, step: int | None = None) -> tuple[PyTree, int]:
        """The EMA of a width at the step of a snapshot, by default the newest, as float32 on the host; and the step.

        like: the shapes of the parameters with shardings, on every device. Raises UserError if there is no such
        snapshot, or if the snapshots cannot give the width.
        """
        newest, _ = self._fit(self._agreed_updates(verified=-1), width, step)  # Refused before files are verified.
        at, weights = self._fit(self._agreed_updates(verified=newest), width, step)
        total = jax.tree.map(lambda x: np.zeros(x.shape, np.float64), like)
        for each, row in weights.items():
            trees = self.read_trees(each, {_item(own): like for own in self.widths})
            if trees is None:
                raise UserError(f"Training has just deleted snapshot {each} of {self.folder}; start again.")
            for own, weight in zip(self.widths, row, strict=True):
                jax.tree.map(partial(_add, weight), total, jax.device_get(trees[_item(own)]))
        return jax.tree.map(lambda x: x.astype(np.float32), total), at

    def _updates(self, verified: int) -> dict[int, int]:
        """The number of updates at the step of each snapshot; damaged ones are logged and left out.

        verified: the last step whose EMAs are verified, too.
        """
        steps = sealed_steps(self.folder)
        sound = [step for step in steps if self._is_intact(step, None if step <= verified else UPDATES)]
        records = {step: self.read_record(step, UPDATES) for step in sound}
        # A job that trains may have deleted some since.
        return {step: int(record[UPDATES]) for step, record in records.items() if record}

    def _agreed_updates(self, verified: int) -> dict[int, int]:
        """`_updates` as the first process finds them, on every process."""
        found = self._updates(verified) if jax.process_index() == 0 else {}
        return dict(zip(all_agreed([*found]), all_agreed([*found.values()]), strict=True))

    def _is_intact(self, step: int, item: str | None) -> bool:
        try:
            verify(self.folder / str(step), item)
        except DamagedCheckpoint as error:
            logger.warning(
                "Snapshot %d in %s is damaged (%s); the EMA is rebuilt without it.", step, self.folder, error
            )
            return False
        return True

    def _fit(self, updates: Mapping[int, int], width: float, step: int | None) -> tuple[int, dict[int, np.ndarray]]:
        """The step of the EMA of a width, and the weights of the EMAs in each snapshot up to it."""
        at = self._chosen([*updates], step)
        steps = [each for each in updates if each <= at]
        times, widths = [updates[each] for each in steps for _ in self.widths], [*self.widths] * len(steps)
        weights, error = fit_profile(times, widths, updates[at], width)
        if error > WORST_FIT:
            raise self._refusal(width, at, error, fitted_widths(times, widths, updates[at]))
        return at, dict(zip(steps, weights.reshape(len(steps), -1), strict=True))

    def _chosen(self, steps: Sequence[int], step: int | None) -> int:
        if not steps:
            raise UserError(
                f"{self.folder} holds no intact snapshot of EMAs, from which sample.ema_width rebuilds one; the first "
                "is written after optimizer.ema_snapshots steps of training."
            )
        if step is not None and step not in steps:
            raise UserError(
                f"{self.folder} has no intact snapshot of step {step}; set sample.checkpoint to a step at which an "
                f"EMA can be rebuilt: {', '.join(map(str, steps))}."
            )
        return steps[-1] if step is None else step

    def _refusal(self, width: float, step: int, error: float, possible: list[tuple[float, float]]) -> UserError:
        spans = [f"{low} to {high}" for low, high in possible] or map(str, self.widths)
        return UserError(
            f"sample.ema_width={width} cannot be rebuilt at step {step} from the snapshots in {self.folder} (error "
            f"{error:.1%}, at most {WORST_FIT:.0%}); they give {', '.join(spans)}, and more snapshots give more."
        )


def _item(width: float) -> str:
    return f"ema_{width}"


def _add(weight: float, total: np.ndarray, tree: np.ndarray) -> None:
    total += weight * tree.astype(np.float64)
