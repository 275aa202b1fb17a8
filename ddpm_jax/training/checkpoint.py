"""Verified checkpoints: <workdir>/checkpoints/<step>/, written by Orbax, sealed by a manifest of checksums.

    params/  ema/  training/ (counters and optimizer)  metrics/  config/ (both JSON)  SHA256SUMS

On disks Orbax writes under a temporary name and renames; then SHA256SUMS is added, which completes the checkpoint: one
without it is ignored. Reading verifies every byte of the items that are read, because Orbax restores corrupted data
silently. Old checkpoints are deleted only after a newer one is sealed. In a job of several processes the first one
chooses the checkpoint for all.

At gs:// every process writes through Orbax, too, under the final name. There the manifest is MD5SUMS, which costs one
listing to write and to verify, since the store computes those checksums from the bytes that arrive. Orbax supports no
other stores: for those, checkpoints are copied from and to this machine.

This is the only module that uses Orbax.
"""

import errno
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ddpm_jax.errors import UserError, copy_command
from ddpm_jax.runtime.devices import agreed_by_all
from ddpm_jax.runtime.files import DISK_REMEDIES
from ddpm_jax.runtime.urls import AnyPath, download, files_below, files_in, names_in, remove_tree, store_errors, upload
from ddpm_jax.training.seals import SEALS, DamagedCheckpoint, seal, seal_of, verify
from ddpm_jax.training.state import TrainState

ORBAX_NAMES = {"params", "ema", "training", "metrics", "config", "_CHECKPOINT_METADATA", "commit_success.txt"}
"""All names that Orbax writes directly in the folder of a checkpoint."""
ABSENT, REFUSED = -1, -2
"""Sent instead of a step by the first process: there is no checkpoint, or none that can be read."""

logger = logging.getLogger(__name__)


def checkpoint_steps(folder: AnyPath) -> list[int]:
    """The steps of all sealed checkpoints in a folder, oldest first; empty if there is no folder."""
    return sorted(int(name) for name in names_in(folder) if name.isdecimal() and seal_of(folder / name))


class Checkpoints:
    """The checkpoints of a run, saved in the background; a context manager.

    keep: number of newest checkpoints to keep; keep_every: also keep those whose step is a multiple of this (0: none).
    confirm: called by the first process before it writes and before it deletes; raises if this job may not any more.
    before_seal: called by the first process before a checkpoint is complete, to write what belongs to it.
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
        # Orbax refuses relative paths, but only when saving.
        self.folder = folder.resolve() if isinstance(folder, Path) else folder
        self.keep, self.keep_every, self._confirm = keep, keep_every, confirm
        self._before_seal = before_seal
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._sealing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # If a process is lost, the save in progress would wait for it.
        try:
            self.wait()
        finally:
            self._orbax.close()
            self._sealer.shutdown()

    def save(self, state: TrainState, config: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> None:
        """Starts to save a state; returns as soon as it may be donated. Waits for the previous save first.

        config, metrics: JSON; metrics: the running means since the last report.
        """
        self.wait()
        target = self.folder / str(int(state.step))
        if jax.process_index() == 0:
            with self._explained():
                self._confirm()
                if isinstance(self.folder, Path):
                    self.folder.mkdir(exist_ok=True)  # A workdir that is gone is not created again.
                self._make_room(target)
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            ema=ocp.args.StandardSave(state.ema),
            training=ocp.args.StandardSave(_training_item(state)),
            metrics=ocp.args.JsonSave(dict(metrics or {})),
            config=ocp.args.JsonSave(dict(config)),
        )
        with self._explained():
            place = target if _orbax_supports(target) else Path(mkdtemp(prefix="ddpm_jax-")) / target.name
            self._orbax.save(place, args=items)
        self._sealing = self._sealer.submit(self._seal, place, target)

    def wait(self) -> None:
        """Waits until the checkpoint in progress is sealed; raises the error if it failed."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            with self._explained():
                sealing.result()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of the disk, which TensorStore reports as ValueError, or of a store into one line."""
        try:
            with store_errors(self.folder):
                yield
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.EIO and not isinstance(self.folder, Path):
                reason = f"a checkpoint could not be written ({error.strerror})"
                raise OSError(errno.EIO, f"{reason}; earlier checkpoints are intact", str(self.folder)) from error
            number = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, ValueError) and number is None:
                raise
            code = int(number[1]) if number else getattr(error, "errno", None) or 0
            reason = os.strerror(code) if code else str(error)
            remedy = DISK_REMEDIES.get(code, "fix that")
            intact = "; earlier checkpoints are intact" if checkpoint_steps(self.folder) else ""
            raise UserError(
                f"A checkpoint could not be written to {self.folder} ({reason}){intact}; {remedy}. "
                "The same command resumes."
            ) from error

    def restore(self, like: TrainState, step: int | None = None) -> TrainState | None:
        """The state of a step, or of the newest intact checkpoint; None if there is no checkpoint.

        like: a state, or its shapes with shardings, which determines where each array goes.
        """
        items = {"params": like.params, "ema": like.ema, "training": _training_item(like)}
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
        target = self.folder / str(step)
        if not agreed_by_all(int("metrics" in names_in(target))):
            return {}
        with _readable(target) as path:
            return self._orbax.restore(path, args=ocp.args.Composite(metrics=ocp.args.JsonRestore())).metrics

    def _read(self, targets: dict[str, PyTree], step: int | None, verified: str | None) -> tuple[Any, int] | None:
        """Items of a step, or of the newest intact checkpoint, and the step; None if there is no checkpoint."""
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in targets.items()})
        while (found := self._agreed_step(step, verified)) is not None:
            try:
                with store_errors(self.folder), _readable(self.folder / str(found)) as path:
                    return self._orbax.restore(path, args=args), found
            except (OSError, ValueError, KeyError) as error:
                sealed = seal_of(self.folder / str(found)) is not None
                if not isinstance(error, OSError) and sealed:
                    raise self._mismatch(found, error) from error
                if jax.process_count() > 1 or sealed:
                    raise
                logger.info("Checkpoint %d was deleted while it was read, since newer ones were saved", found)
        return None

    def _mismatch(self, step: int, error: Exception) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        saved, current = self.folder / str(step) / "config" / "metadata", self.folder.parent / "config.json"
        return UserError(
            f"Checkpoint {step} in {self.folder} does not hold the arrays that {current} describes ({reason}). "
            f"If that file was changed, restore it: {copy_command(saved, current)}"
        )

    def set_aside_after(self, step: int) -> None:
        """Renames checkpoints after the step from which a run resumes: they must be damaged, or it would use them."""
        if jax.process_index() == 0:
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
            if step not in steps:
                kept = ", ".join(map(str, steps)) or "none"
                raise UserError(f"{self.folder} keeps no checkpoint of step {step}; it keeps {kept}.")
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

    def _seal(self, place: AnyPath, target: AnyPath) -> None:
        """Completes the checkpoint that Orbax is writing at a place, and copies it to its target if that is another."""
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                with store_errors(target):
                    self._confirm()
                    self._before_seal()
                    seal(place)
                    if isinstance(place, Path) and not isinstance(target, Path):
                        upload([name for name in files_in(place) if name not in SEALS], place, target)
                        upload(SEALS.keys() & set(names_in(place)), place, target)
                    self._retire(int(target.name))
        finally:
            if place != target:
                remove_tree(place.parent)

    def _make_room(self, target: AnyPath) -> None:
        """Deletes an existing folder at the place of a new checkpoint; it must be incomplete, or training would have
        resumed from it.
        """
        if not target.exists():
            return
        if foreign := _foreign_file(target):
            raise UserError(f"{target} holds {foreign}, which is not part of a checkpoint; move it, and start again.")
        logger.warning("Deleting %s, where the new checkpoint goes: training resumed from before it.", target)
        _delete(target)

    def _retire(self, newest: int) -> None:
        """Deletes checkpoints that `retained_steps` leaves out, and those before `newest` that were never completed."""
        steps = checkpoint_steps(self.folder)
        for step in set(steps) - retained_steps(steps, self.keep, self.keep_every):
            _delete(self.folder / str(step))
        for path in list(self.folder.iterdir()):
            if not path.is_dir() or seal_of(path):
                continue
            if ".orbax-checkpoint-tmp" in path.name:
                remove_tree(path)
            elif path.name.isdecimal() and int(path.name) < newest and not _foreign_file(path):
                logger.warning("Deleting %s: a checkpoint that was never completed (it has no manifest).", path)
                _delete(path)


def _training_item(state: TrainState) -> dict[str, PyTree]:
    """The fields of a state besides both sets of parameters; those without arrays are left out."""
    fields = {name: getattr(state, name) for name in vars(state) if name not in ("params", "ema")}
    return {name: tree for name, tree in fields.items() if jax.tree.leaves(tree)}


def retained_steps(steps: Sequence[int], keep: int, keep_every: int) -> set[int]:
    """The subset of these steps (oldest first) whose checkpoints are kept: the newest, and multiples of keep_every."""
    return {*steps[-keep:], *(step for step in steps if keep_every and step % keep_every == 0)}


def _orbax_supports(path: AnyPath) -> bool:
    return isinstance(path, Path) or str(path).startswith("gs://")


@contextmanager
def _readable(checkpoint: AnyPath) -> Iterator[AnyPath]:
    """The checkpoint, or a copy on this machine where Orbax does not support the store."""
    if _orbax_supports(checkpoint):
        yield checkpoint
        return
    assert not isinstance(checkpoint, Path)
    with TemporaryDirectory(prefix="ddpm_jax-") as top:
        folder = Path(top) / checkpoint.name
        download(files_below(checkpoint), checkpoint, folder)
        yield folder


def _foreign_file(checkpoint: AnyPath) -> str | None:
    """The name of something in a folder that Orbax did not write there; None where there is nothing."""
    return next((name for name in names_in(checkpoint) if not _is_ours(name)), None)


def _is_ours(name: str) -> bool:
    # A seal that was not finished when the process was killed is ours, too.
    return name in {*ORBAX_NAMES, *SEALS} or name.startswith(tuple(f".{seal}." for seal in SEALS))


def _delete(checkpoint: AnyPath) -> None:
    """Removes the seal first, so that an interrupted deletion leaves no valid checkpoint."""
    for name in SEALS:
        (checkpoint / name).unlink(missing_ok=True)
    remove_tree(checkpoint)
