"""Verified checkpoints: <workdir>/checkpoints/<step>/, which hold everything that training changes.

    params/  ema/  training/ (counters and optimizer)  metrics/  config/ (both JSON)  SHA256SUMS

`sealed_trees.py` writes and reads them. Old checkpoints are deleted only after a newer one is sealed; if the newest is
damaged, the one before is used. In a job of several processes the first one chooses the checkpoint for all.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jaxtyping import PyTree

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import agreed_by_all
from ddpm_jax.runtime.urls import AnyPath, remove_tree, store_errors
from ddpm_jax.training.sealed_trees import SealedTrees
from ddpm_jax.training.seals import DamagedCheckpoint, sealed_steps, verify
from ddpm_jax.training.state import TrainState

ITEMS = ("params", "ema", "training", "metrics", "config")
ABSENT, REFUSED = -1, -2
"""Sent instead of a step by the first process: there is no checkpoint, or none that can be read."""

logger = logging.getLogger(__name__)


def checkpoint_steps(folder: AnyPath) -> list[int]:
    """The steps of all sealed checkpoints in a folder, oldest first; empty if there is no folder."""
    return sealed_steps(folder)


class Checkpoints(SealedTrees):
    """The checkpoints of a run, saved in the background; a context manager.

    keep: number of newest checkpoints to keep; keep_every: also keep those whose step is a multiple of this (0: none).
    confirm, before_seal: see SealedTrees.
    """

    def __init__(
        self,
        folder: AnyPath,
        *,
        keep: int = 3,
        keep_every: int = 0,
        confirm: Callable[[], None] = lambda: None,
        before_seal: Callable[[], None] = lambda: None,
    ) -> None:
        retained = partial(retained_steps, keep=keep, keep_every=keep_every)
        super().__init__(folder, "checkpoint", ITEMS, retained, confirm, before_seal)

    def save(self, state: TrainState, config: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> None:
        """Starts to save a state; returns as soon as it may be donated. Waits for the previous save first.

        config, metrics: JSON; metrics: the running means since the last report.
        """
        trees = {"params": state.params, "ema": state.ema, "training": training_item(state)}
        self.start_saving(int(state.step), trees, {"metrics": metrics or {}, "config": config})

    def restore(self, like: TrainState, step: int | None = None) -> TrainState | None:
        """The state of a step, or of the newest intact checkpoint; None if there is no checkpoint.

        like: a state, or its shapes with shardings, which determines where each array goes.
        """
        items = {"params": like.params, "ema": like.ema, "training": training_item(like)}
        found = self._read(items, step, verified=None)
        if found is None:
            return None
        return TrainState(params=found[0].params, ema=found[0].ema, **found[0].training)

    def restore_params(self, like: PyTree, *, ema: bool, step: int | None = None) -> tuple[PyTree, int] | None:
        """Only the parameters (or their EMA) and their step; None if there is no checkpoint.

        Other items are neither read nor verified.
        """
        name = "ema" if ema else "params"
        found = self._read({name: like}, step, verified=name)
        return found and (found[0][name], found[1])

    def restore_metrics(self, step: int) -> dict[str, Any]:
        """The running means that were saved with a step; empty if none were."""
        return self.read_record(step, "metrics")

    def _read(self, targets: dict[str, PyTree], step: int | None, verified: str | None) -> tuple[Any, int] | None:
        """Items of a step, or of the newest intact checkpoint, and the step; None if there is no checkpoint."""
        while (found := self._agreed_step(step, verified)) is not None:
            if (trees := self.read_trees(found, targets)) is not None:
                return trees, found
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames checkpoints after the step from which a run resumes: they must be damaged, or it would use them."""
        if jax.process_index():
            return
        with store_errors(self.folder):
            for later in (s for s in checkpoint_steps(self.folder) if s > step):
                remove_tree(self.folder / f"{later}.damaged")
                (self.folder / str(later)).rename(self.folder / f"{later}.damaged")

    def _agreed_step(self, step: int | None, verified: str | None) -> int | None:
        """The step chosen by the first process, on every process, so that all restore the same checkpoint."""
        choice, refusal = ABSENT, None
        if jax.process_index() == 0:
            try:
                choice = self._choose(step, verified)
            except UserError as error:
                choice, refusal = REFUSED, error
        choice = agreed_by_all(choice)
        if choice == REFUSED:
            raise refusal or UserError(
                f"{self.folder} has no checkpoint that can be read; see the message of the first process."
            )
        return None if choice == ABSENT else choice

    def _choose(self, step: int | None, verified: str | None) -> int:
        """The given step, or that of the newest intact checkpoint, or ABSENT; damaged ones are logged and skipped."""
        steps = checkpoint_steps(self.folder)
        if step is not None:
            check_kept(self.folder, steps, step)
            try:
                verify(self.folder / str(step), verified)
            except DamagedCheckpoint as error:
                raise UserError(f"The checkpoint of step {step} is damaged ({error}); choose another.") from error
            return step
        for candidate in reversed(steps):
            try:
                verify(self.folder / str(candidate), verified)
                return candidate
            except DamagedCheckpoint as error:
                logger.error("CHECKPOINT %d IS DAMAGED (%s); falling back to the previous one.", candidate, error)
        if steps:
            raise UserError(f"All checkpoints in {self.folder} are damaged; restore a copy, or start a new workdir.")
        return ABSENT


def check_kept(folder: AnyPath, steps: Sequence[int], step: int) -> None:
    """Raises UserError unless a step is among those of the checkpoints in a folder."""
    if step not in steps:
        kept = ", ".join(map(str, steps)) or "none"
        raise UserError(f"{folder} keeps no checkpoint of step {step}; it keeps {kept}.")


def training_item(state: TrainState) -> dict[str, PyTree]:
    """The fields of a state besides both sets of parameters; those without arrays are left out."""
    fields = {name: getattr(state, name) for name in vars(state) if name not in ("params", "ema")}
    return {name: tree for name, tree in fields.items() if jax.tree.leaves(tree)}


def retained_steps(steps: Sequence[int], keep: int, keep_every: int) -> set[int]:
    """The subset of these steps (oldest first) whose checkpoints are kept: the newest, and multiples of keep_every."""
    return {*steps[-keep:], *(step for step in steps if keep_every and step % keep_every == 0)}
