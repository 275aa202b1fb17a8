"""Checkpoints that can be trusted: <workdir>/checkpoints/<step>/, written by Orbax, sealed by a manifest of checksums.

    params/  ema/  training/ (counters and optimizer)  metrics/  config/ (both JSON)  SHA256SUMS

Orbax writes under a temporary name and renames; after that SHA256SUMS is added, and only then does the checkpoint
count: one without it was never completed. Reading compares every byte of the items that are read, because Orbax
restores a flipped one in silence. Old checkpoints are deleted only once a newer one is sealed. In a job of several
processes the first one chooses the checkpoint for all.

This is the only module that knows Orbax.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import agreed_by_all
from ddpm_jax.runtime.files import sha256, staged, sync
from ddpm_jax.training.state import TrainState

SEAL = "SHA256SUMS"
ORBAX_NAMES = {"params", "ema", "training", "metrics", "config", "_CHECKPOINT_METADATA", "commit_success.txt"}
"""All that Orbax puts directly into the folder of one of our checkpoints."""
ABSENT, REFUSED = -1, -2
"""In place of a step: the first process tells the others that there is no checkpoint, or none that can be read."""

logger = logging.getLogger(__name__)


class DamagedCheckpoint(Exception):
    """A sealed checkpoint whose files are not those that were sealed; says which."""


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of all sealed checkpoints in a folder, oldest first; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / SEAL).is_file())


class Checkpoints:
    """The checkpoints of a run. Saving goes on in the background; leave with `close` (or a with statement)."""

    def __init__(self, folder: Path, *, keep: int = 3, keep_every: int = 0) -> None:
        self.folder = folder.resolve()  # Orbax refuses relative paths, and late.
        self.keep, self.keep_every = keep, keep_every
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._sealing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not (isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1):
            self.close()  # Where a process is lost, saving would wait for it.

    def save(self, state: TrainState, config: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> None:
        """Starts to save a state; returns as soon as it may be donated. The save before is finished first.

        config, metrics: JSON; metrics: the running means that the next report goes on from.
        """
        self.wait()
        target = self.folder / str(int(state.step))
        if jax.process_index() == 0:
            with self._explained():
                self.folder.mkdir(exist_ok=True)  # Where the workdir is gone, nothing takes its place.
                self._make_room(target)
        training = {"step": state.step, "skipped": state.skipped, "bad_streak": state.bad_streak}
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            ema=ocp.args.StandardSave(state.ema),
            training=ocp.args.StandardSave(training | {"opt_state": state.opt_state}),
            metrics=ocp.args.JsonSave(dict(metrics or {})),
            config=ocp.args.JsonSave(dict(config)),
        )
        with self._explained():
            self._orbax.save(target, args=items)
        self._sealing = self._sealer.submit(self._seal, target)

    def wait(self) -> None:
        """Until the checkpoint under way is sealed; raises what went wrong with it."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            with self._explained():
                sealing.result()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the disk's refusal, which TensorStore reports as a ValueError, into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
            number = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, ValueError) and number is None:
                raise
            reason = os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or str(error)
            intact = "; the ones before it are intact" if checkpoint_steps(self.folder) else ""
            raise UserError(
                f"A checkpoint could not be written to {self.folder} ({reason}){intact}. "
                "Mend that and run the same command again."
            ) from error

    def close(self) -> None:
        """Waits for the checkpoint under way and ends the background work."""
        try:
            self.wait()
        finally:
            self._orbax.close()
            self._sealer.shutdown()

    def restore(self, like: TrainState, step: int | None = None) -> TrainState | None:
        """The state of a step, or of the newest sound checkpoint; None if there is none at all.

        like: a state, or its shapes with shardings, which says where each array goes.
        """
        training = {name: getattr(like, name) for name in ("step", "skipped", "bad_streak", "opt_state")}
        found = self._read({"params": like.params, "ema": like.ema, "training": training}, step, verified=None)
        if found is None:
            return None
        items, _ = found
        return TrainState(params=items.params, ema=items.ema, **items.training)

    def restore_params(self, like: PyTree, *, ema: bool, step: int | None = None) -> tuple[PyTree, int] | None:
        """Only the parameters (or their EMA) and the step they are from; None if there is no checkpoint.

        Files of other items are not read, so damage there goes unnoticed.
        """
        name = "ema" if ema else "params"
        found = self._read({name: like}, step, verified=name)
        if found is None:
            return None
        items, from_step = found
        return items[name], from_step

    def restore_metrics(self, step: int) -> dict[str, Any]:
        """The running means that were saved with a step; empty where none were."""
        target = self.folder / str(step)
        if not agreed_by_all(int((target / "metrics").is_dir())):
            return {}
        return self._orbax.restore(target, args=ocp.args.Composite(metrics=ocp.args.JsonRestore())).metrics

    def _read(self, targets: dict[str, PyTree], step: int | None, verified: str | None) -> tuple[Any, int] | None:
        """Items of a step, or of the newest sound checkpoint, and the step; None if there is none at all."""
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in targets.items()})
        while (found := self._chosen_by_all(step, verified)) is not None:
            try:
                return self._orbax.restore(self.folder / str(found), args=args), found
            except (OSError, ValueError, KeyError):
                if jax.process_count() > 1 or (self.folder / str(found) / SEAL).is_file():
                    raise
                logger.info("Checkpoint %d was deleted in favour of newer ones while it was read", found)
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames what lies beyond the step that a run resumes from: damaged, or it would have resumed from there."""
        if jax.process_index() == 0:
            for later in (s for s in checkpoint_steps(self.folder) if s > step):
                shutil.rmtree(self.folder / f"{later}.damaged", ignore_errors=True)
                (self.folder / str(later)).rename(self.folder / f"{later}.damaged")

    def _chosen_by_all(self, step: int | None, verified: str | None) -> int | None:
        """The choice of the first process, on every process, so that all of them restore the same checkpoint."""
        choice, refusal = ABSENT, None
        if jax.process_index() == 0:
            try:
                choice = self._choose(step, verified)
            except UserError as error:
                choice, refusal = REFUSED, error
        choice = agreed_by_all(choice)
        if choice == REFUSED:
            raise refusal or UserError(f"{self.folder} has no checkpoint that can be read; the first process says why.")
        return None if choice == ABSENT else choice

    def _choose(self, step: int | None, verified: str | None) -> int:
        """The step asked for, or the newest that is sound, or ABSENT; damaged ones are reported and passed over."""
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
                logger.error("CHECKPOINT %d IS DAMAGED (%s); falling back to the one before.", candidate, error)
        if steps:
            raise UserError(f"All checkpoints in {self.folder} are damaged; restore a copy, or start a new workdir.")
        return ABSENT

    def _seal(self, target: Path) -> None:
        self._orbax.wait_until_finished()
        if jax.process_index() == 0:
            seal(target)
            self._retire()

    def _make_room(self, target: Path) -> None:
        """Deletes what stands where a checkpoint goes: incomplete, or training would have resumed from there."""
        if not target.exists():
            return
        if foreign := _foreign_file(target):
            raise UserError(f"{target} holds {foreign}, which is no part of a checkpoint; move it, and start again.")
        logger.warning("Deleting %s, where the new checkpoint goes: training resumed from before it.", target)
        _delete(target)

    def _retire(self) -> None:
        """Deletes what is neither among the newest nor a multiple of keep_every, and what was never completed."""
        steps = checkpoint_steps(self.folder)
        for step in set(steps) - retained_steps(steps, self.keep, self.keep_every):
            _delete(self.folder / str(step))
        for path in self.folder.iterdir():
            if not path.is_dir() or (path / SEAL).exists():
                continue
            if ".orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.isdecimal() and not _foreign_file(path):
                logger.warning("Deleting %s: a checkpoint that was never completed (it has no %s).", path, SEAL)
                _delete(path)


def retained_steps(steps: Sequence[int], keep: int, keep_every: int) -> set[int]:
    """The steps, of these (oldest first), whose checkpoints stay: the newest ones, and multiples of keep_every."""
    return {*steps[-keep:], *(step for step in steps if keep_every and step % keep_every == 0)}


def seal(checkpoint: Path) -> None:
    """Adds the checksums, in the format of sha256sum, whole or not at all."""
    lines = []
    for path in _files(checkpoint):
        sync(path)  # The older ones may go once this one is sealed.
        lines.append(f"{sha256(path)}  {path.relative_to(checkpoint)}\n")
    with staged(checkpoint / SEAL) as partial:
        partial.write_text("".join(lines))


def verify(checkpoint: Path, item: str | None = None) -> None:
    """Raises DamagedCheckpoint unless every file that was sealed is there, byte for byte.

    item: look only at the files of this item, such as "ema", and at those that belong to no item.
    """
    try:
        lines = (checkpoint / SEAL).read_text().splitlines()
        sealed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{SEAL} cannot be read: {error}") from error
    wanted = {name: digest for name, digest in sealed.items() if item is None or _item_of(name) in (item, "")}
    if not any(item is None or _item_of(name) == item for name in wanted):
        raise DamagedCheckpoint(f"{SEAL} names no files" + (f" of {item}" if item else ""))
    for name, digest in wanted.items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{name} is missing")
        if sha256(path) != digest:
            raise DamagedCheckpoint(f"{name} has changed")


def _item_of(name: str) -> str:
    """The item that a file of a checkpoint belongs to; empty for files of the whole."""
    item, slash, _ = name.partition("/")
    return item if slash else ""


def _foreign_file(checkpoint: Path) -> str | None:
    """The name of something in a folder that Orbax did not write there; None where there is nothing."""
    return next((path.name for path in sorted(checkpoint.iterdir()) if not _is_ours(path.name)), None)


def _is_ours(name: str) -> bool:
    # A seal that was not finished when the process was killed is ours, too.
    return name in {*ORBAX_NAMES, SEAL} or name.startswith(f".{SEAL}.")


def _files(checkpoint: Path) -> Iterator[Path]:
    return (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path != checkpoint / SEAL)


def _delete(checkpoint: Path) -> None:
    """Unseals first, so that a deletion cut short leaves nothing that passes for a checkpoint."""
    (checkpoint / SEAL).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
