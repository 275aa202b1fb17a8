"""Verified trees of arrays by step: <folder>/<step>/<item>/, written by Orbax, sealed by a manifest of checksums.

On disks Orbax writes under a temporary name and renames; then SHA256SUMS is added, which completes the folder: one
without it is ignored. Reading verifies every byte of the items that are read, because Orbax restores corrupted data
silently. Old folders are deleted only after a newer one is sealed.

At gs:// every process writes through Orbax, too, under the final name. There the manifest is MD5SUMS, which costs one
listing to write and to verify, since the store computes those checksums from the bytes that arrive. Orbax supports no
other stores: for those, folders are copied from and to this machine.

`checkpoint.py` and `ema_snapshots.py` say what is written. This is the only module that uses Orbax.
"""

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ddpm_jax.errors import UserError, copy_command
from ddpm_jax.runtime.files import DISK_REMEDIES
from ddpm_jax.runtime.urls import AnyPath, download, files_below, files_in, names_in, remove_tree, store_errors, upload
from ddpm_jax.training.seals import SEALS, seal, seal_of, sealed_steps

ORBAX_NAMES = {"_CHECKPOINT_METADATA", "commit_success.txt"}
"""The names besides those of items that Orbax writes directly in the folder of a step."""
JSON_FILE = "metadata"
"""The file of an item of JSON."""

logger = logging.getLogger(__name__)

Entered = TypeVar("Entered", bound="SealedTrees")


class SealedTrees:
    """A folder of trees by step, saved in the background; a context manager.

    noun: the word for the trees of a step, for messages; items: the names of all items.
    retained: the subset of these steps (oldest first) to keep.
    confirm: called by the first process before it writes and before it deletes; raises if this job may not any more.
    before_seal: called by the first process before a step is complete, to write what belongs to it.
    """

    def __init__(
        self,
        folder: AnyPath,
        noun: str,
        items: Collection[str],
        retained: Callable[[Sequence[int]], set[int]],
        confirm: Callable[[], None] = lambda: None,
        before_seal: Callable[[], None] = lambda: None,
    ) -> None:
        # Orbax refuses relative paths, but only when saving.
        self.folder = folder.resolve() if isinstance(folder, Path) else folder
        self._noun, self._items, self._retained, self._confirm = noun, items, retained, confirm
        self._before_seal = before_seal
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix=noun)
        self._sealing: Future[None] | None = None

    @cached_property
    def _orbax(self) -> ocp.AsyncCheckpointer:
        """Created when it is first used, since it has a thread."""
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def __enter__(self: Entered) -> Entered:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # If a process is lost, the save in progress would wait for it.
        try:
            self.wait()
        finally:
            if "_orbax" in vars(self):
                self._orbax.close()
            self._sealer.shutdown()

    def start_saving(self, step: int, trees: Mapping[str, PyTree], records: Mapping[str, Mapping[str, Any]]) -> None:
        """Starts to save a step; returns as soon as its arrays may be donated. Waits for the previous save first.

        trees, records: the items, of arrays and of JSON.
        """
        self.wait()
        target = self.folder / str(step)
        if jax.process_index() == 0:
            with self._explained():
                self._confirm()
                if isinstance(self.folder, Path):
                    self.folder.mkdir(exist_ok=True)  # A workdir that is gone is not created again.
                self._make_room(target)
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        texts = {name: ocp.args.JsonSave(dict(record)) for name, record in records.items()}
        with self._explained():
            place = target if _orbax_supports(target) else Path(mkdtemp(prefix="ddpm_jax-")) / target.name
            self._orbax.save(place, args=ocp.args.Composite(**arrays, **texts))
        self._sealing = self._sealer.submit(self._seal, place, target)

    def wait(self) -> None:
        """Waits until the step in progress is sealed; raises the error if it failed."""
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
                reason = f"a {self._noun} could not be written ({error.strerror})"
                raise OSError(errno.EIO, f"{reason}; earlier {self._noun}s are intact", str(self.folder)) from error
            number = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, ValueError) and number is None:
                raise
            code = int(number[1]) if number else getattr(error, "errno", None) or 0
            reason = os.strerror(code) if code else str(error)
            remedy = DISK_REMEDIES.get(code, "fix that")
            intact = f"; earlier {self._noun}s are intact" if sealed_steps(self.folder) else ""
            raise UserError(
                f"A {self._noun} could not be written to {self.folder} ({reason}){intact}; {remedy}. "
                "The same command resumes."
            ) from error

    def read_trees(self, step: int, like: Mapping[str, PyTree]) -> Any:
        """Items of a step, by name; like: their shapes with shardings. None if they were deleted while they were read.

        The caller has verified them; every process must call this with the same step.
        """
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in like.items()})
        try:
            with store_errors(self.folder), _readable(self.folder / str(step), like) as path:
                return self._orbax.restore(path, args=args)
        except (OSError, ValueError, KeyError) as error:
            sealed = seal_of(self.folder / str(step)) is not None
            if not isinstance(error, OSError) and sealed:
                raise self._mismatch(step, error) from error
            if jax.process_count() > 1 or sealed:
                raise
            logger.info("%s %d was deleted while it was read", self._noun.capitalize(), step)
        return None

    def read_record(self, step: int, name: str) -> dict[str, Any]:
        """An item of JSON; empty if it was not saved with this step, or if the step has been deleted since."""
        try:
            with store_errors(self.folder):
                return json.loads((self.folder / str(step) / name / JSON_FILE).read_text())
        except FileNotFoundError:
            return {}

    def _mismatch(self, step: int, error: Exception) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        saved, current = self.folder / str(step) / "config" / JSON_FILE, self.folder.parent / "config.json"
        return UserError(
            f"{self._noun.capitalize()} {step} in {self.folder} does not hold the arrays that {current} describes "
            f"({reason}). If that file was changed, restore it: {copy_command(saved, current)}"
        )

    def _seal(self, place: AnyPath, target: AnyPath) -> None:
        """Completes the step that Orbax is writing at a place, and copies it to its target if that is another."""
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
        """Deletes an existing folder at the place of a new one; it must be incomplete, or training would have
        resumed from it.
        """
        if not target.exists():
            return
        if foreign := self._foreign_file(target):
            raise UserError(f"{target} holds {foreign}, which is not part of a {self._noun}; move it, and start again.")
        self._confirm()  # A newer job may have completed the folder if this process slept since.
        logger.warning("Deleting %s, where the new %s goes: training resumed from before it.", target, self._noun)
        delete(target)

    def _retire(self, newest: int) -> None:
        """Deletes steps that are not retained, and those before `newest` that were never completed."""
        steps = sealed_steps(self.folder)
        for step in set(steps) - self._retained(steps):
            delete(self.folder / str(step))
        for path in list(self.folder.iterdir()):
            if not path.is_dir() or seal_of(path):
                continue
            if ".orbax-checkpoint-tmp" in path.name:
                remove_tree(path)
            elif path.name.isdecimal() and int(path.name) < newest and not self._foreign_file(path):
                logger.warning("Deleting %s: a %s that was never completed (it has no manifest).", path, self._noun)
                delete(path)

    def _foreign_file(self, folder: AnyPath) -> str | None:
        """The name of something in the folder of a step that was not written here; None where there is nothing."""
        return next((name for name in names_in(folder) if not self._is_ours(name)), None)

    def _is_ours(self, name: str) -> bool:
        # A seal that was not finished when the process was killed is ours, too.
        return name in {*self._items, *ORBAX_NAMES, *SEALS} or name.startswith(tuple(f".{seal}." for seal in SEALS))


def _orbax_supports(path: AnyPath) -> bool:
    return isinstance(path, Path) or str(path).startswith("gs://")


@contextmanager
def _readable(step: AnyPath, items: Collection[str]) -> Iterator[AnyPath]:
    """The folder of a step, or a copy of these items on this machine where Orbax does not support the store."""
    if _orbax_supports(step):
        yield step
        return
    assert not isinstance(step, Path)
    with TemporaryDirectory(prefix="ddpm_jax-") as top:
        folder = Path(top) / step.name
        names = (name for name in files_below(step) if "/" not in name or name.partition("/")[0] in items)
        download(names, step, folder)
        yield folder


def delete(folder: AnyPath) -> None:
    """Removes the seal first, so that an interrupted deletion leaves nothing valid."""
    for name in SEALS:
        (folder / name).unlink(missing_ok=True)
    remove_tree(folder)
