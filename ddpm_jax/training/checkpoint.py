"""Checkpoints that can be trusted: <workdir>/checkpoints/<step>/, written by Orbax, sealed by a list of checksums.

    params/  ema/  training/ (counters and optimiser)  config/ (JSON)  SHA256SUMS

Orbax writes under a temporary name and renames; after that SHA256SUMS is added, and only then does the checkpoint
count: one without it was cut off in the making. Reading compares every byte, because Orbax restores a flipped one in
silence. Old checkpoints are deleted only once a newer one is sealed.

This is the only module that knows Orbax.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import sha256, staged, sync
from ddpm_jax.training.state import TrainState

SEAL = "SHA256SUMS"
logger = logging.getLogger(__name__)


class DamagedCheckpoint(Exception):
    """A sealed checkpoint whose files are not those that were sealed; says which."""


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

    def steps(self) -> list[int]:
        """The steps of all sealed checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal() and (p / SEAL).is_file())

    def save(self, state: TrainState, config: dict[str, Any]) -> None:
        """Starts to save a state; returns as soon as it may be donated. The save before is finished first."""
        self.wait()
        target = self.folder / str(int(state.step))
        if jax.process_index() == 0:
            with self._explained():
                self.folder.mkdir(exist_ok=True)  # Where the workdir is gone, nothing takes its place.
                _delete(target)  # Incomplete or damaged, or training would have begun after it.
        training = {"step": state.step, "skipped": state.skipped, "bad_streak": state.bad_streak}
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            ema=ocp.args.StandardSave(state.ema),
            training=ocp.args.StandardSave(training | {"opt_state": state.opt_state}),
            config=ocp.args.JsonSave(config),
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
            intact = "; the ones before it are intact" if self.steps() else ""
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
        found = self._read({"params": like.params, "ema": like.ema, "training": training}, step)
        if found is None:
            return None
        items, _ = found
        return TrainState(params=items.params, ema=items.ema, **items.training)

    def restore_params(self, like: PyTree, *, ema: bool, step: int | None = None) -> tuple[PyTree, int] | None:
        """Only the parameters (or their average) and the step they are from; None if there is no checkpoint."""
        name = "ema" if ema else "params"
        found = self._read({name: like}, step)
        if found is None:
            return None
        items, from_step = found
        return items[name], from_step

    def _read(self, targets: dict[str, PyTree], step: int | None) -> tuple[Any, int] | None:
        """Items of a step, or of the newest sound checkpoint, and the step; None if there is none at all."""
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in targets.items()})
        while (found := self._sound(step)) is not None:
            try:
                return self._orbax.restore(self.folder / str(found), args=args), found
            except (OSError, ValueError, KeyError):
                if (self.folder / str(found) / SEAL).is_file():
                    raise
                logger.info("Checkpoint %d gave way to newer ones while it was read", found)  # By a job that trains.
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames what lies beyond the step that a run resumes from: damaged, or it would have resumed from there."""
        if jax.process_index() == 0:
            for later in (s for s in self.steps() if s > step):
                shutil.rmtree(self.folder / f"{later}.damaged", ignore_errors=True)
                (self.folder / str(later)).rename(self.folder / f"{later}.damaged")

    def _sound(self, step: int | None) -> int | None:
        """The step asked for, or the newest that is sound; damaged ones are reported and passed over."""
        steps = self.steps()
        if step is not None:
            if step not in steps:
                kept = ", ".join(map(str, steps)) or "none"
                raise UserError(f"{self.folder} keeps no checkpoint of step {step}; it keeps {kept}.")
            try:
                verify(self.folder / str(step))
            except DamagedCheckpoint as error:
                raise UserError(f"The checkpoint of step {step} is damaged ({error}); choose another.") from error
            return step
        for candidate in reversed(steps):
            try:
                verify(self.folder / str(candidate))
                return candidate
            except DamagedCheckpoint as error:
                logger.error("CHECKPOINT %d IS DAMAGED (%s); falling back to the one before.", candidate, error)
        if steps:
            raise UserError(f"All checkpoints in {self.folder} are damaged; restore a copy, or start a new workdir.")
        return None

    def _seal(self, target: Path) -> None:
        self._orbax.wait_until_finished()
        if jax.process_index() == 0:
            seal(target)
            self._retire()

    def _retire(self) -> None:
        """Deletes what is neither among the newest nor a multiple of keep_every, and what was never completed."""
        steps = self.steps()
        for step in set(steps) - kept(steps, self.keep, self.keep_every):
            _delete(self.folder / str(step))
        for path in self.folder.iterdir():
            ours = path.name.isdecimal() or ".orbax-checkpoint-tmp" in path.name
            if ours and path.is_dir() and not (path / SEAL).exists():
                _delete(path)


def kept(steps: Sequence[int], keep: int, keep_every: int) -> set[int]:
    """Of these steps, oldest first, those whose checkpoints stay: the newest ones, and multiples of keep_every."""
    return {*steps[-keep:], *(step for step in steps if keep_every and step % keep_every == 0)}


def seal(checkpoint: Path) -> None:
    """Adds the checksums, in the format of sha256sum, whole or not at all."""
    lines = []
    for path in _files(checkpoint):
        sync(path)  # The older ones may go once this one is sealed.
        lines.append(f"{sha256(path)}  {path.relative_to(checkpoint)}\n")
    with staged(checkpoint / SEAL) as partial:
        partial.write_text("".join(lines))


def verify(checkpoint: Path) -> None:
    """Raises DamagedCheckpoint unless every file that was sealed is there, byte for byte."""
    try:
        lines = (checkpoint / SEAL).read_text().splitlines()
        sealed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{SEAL} cannot be read: {error}") from error
    if not sealed:
        raise DamagedCheckpoint(f"{SEAL} is empty")
    for name, digest in sealed.items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{name} is missing")
        if sha256(path) != digest:
            raise DamagedCheckpoint(f"{name} has changed")


def _files(checkpoint: Path) -> Iterator[Path]:
    return (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path != checkpoint / SEAL)


def _delete(checkpoint: Path) -> None:
    """Unseals first, so that a deletion cut short leaves nothing that passes for a checkpoint."""
    (checkpoint / SEAL).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
