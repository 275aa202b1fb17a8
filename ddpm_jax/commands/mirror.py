"""A workdir at an address: worked on in a copy on this machine, which is brought there while the work goes on.

    fetch    what the work needs, of checkpoints the newest sound one
    push     every half minute, and at the end, what changed; a checkpoint's checksums last, so that it counts once it
             is there; then what the rule of retention leaves out is deleted there

What lies at the address is what counts. The copy is made anew for each job and goes with it. A job signs a file there
(lease.py), so that there is one of each kind at a time.
"""

import errno
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from ddpm_jax.commands.lease import RemoteLockRecord, lease
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import user_cache
from ddpm_jax.runtime.locks import exclusive_lock, is_held
from ddpm_jax.runtime.log import path_alias
from ddpm_jax.runtime.signals import deferred
from ddpm_jax.runtime.store import Store, is_url
from ddpm_jax.training.checkpoint import SEAL, DamagedCheckpoint, retained_steps, verify
from ddpm_jax.workdir import read_config

EVERY = 30.0
"""Seconds between two looks at what has changed here."""
ATTEMPTS = 4
"""To bring there what is left at the end, and to read what changes meanwhile."""
PAUSE = 1.0
"""Seconds before the second attempt; twice as many before each later one."""
YOUNG = 60.0
"""Seconds for which a copy without a lock may belong to a job that is about to lock it."""
ALL = -1
"""Every checkpoint that is kept."""
UNSENT = "UNSENT"
"""A file in a copy that is left for the user, since it could not be brought to its address."""
WORKS = ("train", "sample", "evaluate")
"""The uses of a workdir that write."""

logger = logging.getLogger(__name__)


@contextmanager
def local_copy(workdir: str, use: str, checkpoint: int | None = None) -> Iterator[Path]:
    """The folder of a workdir; for one at an address a copy of it, which is brought there while the block runs.

    use: "train", "sample", "evaluate", or those that only read: "load", "plan". checkpoint: the step of the one that is
    needed, or ALL; None for what the run's configuration says, else the newest.
    """
    if not is_url(workdir):
        yield _absolute(workdir)
        return

    def busy() -> None:
        raise UserError(f"Another job ({use}) is at work in {workdir}; wait for it, or choose another --workdir.")

    store = Store(workdir)
    with ExitStack() as held:
        folder = held.enter_context(_copy_of(store))
        holds = held.enter_context(lease(RemoteLockRecord(store, f".{use}.lock"), busy)) if use in WORKS else None
        mirror = Mirror(store, folder, holds or (lambda: False))
        mirror.fetch(use, checkpoint)
        if holds:
            logger.info("Working in a copy of %s, which is brought there every %.0f s.", store.address, EVERY)
            held.enter_context(mirror.syncing())
        yield folder


class Mirror:
    """A workdir at an address, and its copy. holds: whether this job is still the one that may write there."""

    def __init__(self, store: Store, folder: Path, holds: Callable[[], bool]) -> None:
        self._store, self.folder, self._holds = store, folder, holds
        self._same: dict[str, tuple[int, int] | None] = {}
        self._turn = threading.Lock()

    def fetch(self, use: str, checkpoint: int | None = None) -> None:
        """Brings here what a use of the workdir needs. Raises OSError."""
        for _ in range(ATTEMPTS):
            there = self._store.sizes()
            try:
                self._get([name for name in there if _is_needed(name, use)])
                if use != "plan":
                    self._fetch_checkpoints(there, self._asked_for(use) if checkpoint is None else checkpoint)
                return
            except FileNotFoundError:  # Deleted meanwhile, by the job that trains.
                continue
        raise OSError(errno.EIO, "it changes faster than it can be read", self._store.address)

    def push(self, *, final: bool = False) -> None:
        """Brings there what changed here; final: with what is only half built. Raises OSError."""
        with self._turn:
            if not self._holds():
                raise OSError(errno.EIO, "another job has taken its place", self._store.address)
            changed = [name for name in self._here() if self._same.get(name) != _size_of(self.folder / name)]
            others = [name for name in changed if not name.startswith("checkpoints/")]
            self._send([name for name in others if final or "/." not in f"/{name}"])
            if sealed := _sealed(changed):
                for step in sealed:
                    self._send_checkpoint(step)
                self._retire()
            if final:
                gone = [name for name in self._same if "/." in name and not (self.folder / name).exists()]
                self._store.delete(gone)

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """Brings there what changes here while the block runs, and the rest after it, however it ends."""
        ended = threading.Event()
        going_on = threading.Thread(target=self._go_on, args=(ended,), name="mirror", daemon=True)
        going_on.start()
        try:
            yield
        finally:
            told = sys.exc_info()[1]
            with deferred():
                ended.set()
                going_on.join()
                try:
                    self._push_rest()
                except OSError as error:
                    if told is None:
                        raise
                    logger.error("%s: %s", error.filename, error.strerror)

    def _go_on(self, ended: threading.Event) -> None:
        failing = False
        while not ended.wait(EVERY):
            try:
                self.push()
                if failing:
                    logger.info("%s can be written again.", self._store.address)
                failing = False
            except (OSError, UserError) as error:
                if not failing:
                    logger.warning("%s cannot be written (%s); trying again.", self._store.address, _reason(error))
                failing = True

    def _push_rest(self) -> None:
        for attempt in range(ATTEMPTS):
            try:
                return self.push(final=True)
            except (OSError, UserError) as error:
                if attempt == ATTEMPTS - 1:
                    (self.folder / UNSENT).touch()
                    where = f"{_reason(error)}; what is not there yet lies in {self.folder}"
                    raise OSError(errno.EIO, where, self._store.address) from error
                logger.warning("%s cannot be written (%s); trying again.", self._store.address, _reason(error))
            time.sleep(PAUSE * 2**attempt)

    def _asked_for(self, use: str) -> int | None:
        """The checkpoint that the run's own configuration asks for."""
        if use not in ("sample", "evaluate") or not (self.folder / "config.json").exists():
            return None
        config = read_config(self.folder)
        return ALL if use == "evaluate" and config.evaluate.every_checkpoint else config.sample.checkpoint

    def _fetch_checkpoints(self, there: dict[str, int], wanted: int | None) -> None:
        """Those that are wanted; of the newest ones as many as it takes to find a sound one."""
        steps = _sealed(there)
        if wanted is not None and wanted not in (ALL, *steps):
            listed = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{self._store.address} keeps no checkpoint of step {wanted}; it keeps {listed}.")
        for step in reversed(steps):
            if wanted in (None, ALL, step):
                self._get([name for name in there if _step_of(name) == str(step)])
                if wanted is None and _is_sound(self.folder / "checkpoints" / str(step)):
                    return

    def _get(self, names: list[str]) -> None:
        self._store.get(names, self.folder)
        self._same |= {name: _size_of(self.folder / name) for name in names}

    def _send(self, names: list[str]) -> bool:
        """Whether all of them are there now; not those that were deleted or renamed here meanwhile."""
        before = {name: _size_of(self.folder / name) for name in names}
        try:
            self._store.put(names, self.folder)
        except FileNotFoundError as error:
            if all((self.folder / name).exists() for name in names):
                raise OSError(errno.EIO, f"{error} is not there", self._store.address) from error
            return False
        self._same |= before
        return True

    def _send_checkpoint(self, step: int) -> None:
        """Its files, and once all of them are there, what vouches for them."""
        under = f"checkpoints/{step}"
        seal, files = f"{under}/{SEAL}", [name for name in self._here(under) if not name.endswith(f"/{SEAL}")]
        self._store.delete([seal])  # Of another checkpoint of this step, which was damaged.
        if not self._send(files):
            return
        there = self._store.sizes(under)
        self._store.delete(there.keys() - set(files))
        short = [name for name in files if there.get(name) != (self.folder / name).stat().st_size]
        if short:
            raise OSError(errno.EIO, f"{short[0]} arrived with {there.get(short[0])} bytes", self._store.address)
        self._send([seal])

    def _retire(self) -> None:
        """Deletes checkpoints there that the run does not keep, and parts of some that never were complete."""
        there, keep = self._store.sizes("checkpoints"), read_config(self.folder).checkpoint
        steps = _sealed(there)
        staying = {str(step) for step in retained_steps(steps, keep.keep, keep.keep_every)}
        going = [name for name in there if _step_of(name) not in staying]
        self._store.delete(sorted(going, key=lambda name: not name.endswith(f"/{SEAL}")))

    def _here(self, under: str = "") -> list[str]:
        paths = (path for path in (self.folder / under).rglob("*") if path.is_file())
        names = (path.relative_to(self.folder).as_posix() for path in paths)
        return sorted(name for name in names if not name.endswith((".lock", ".partial", UNSENT)))


@contextmanager
def _copy_of(store: Store) -> Iterator[Path]:
    """An empty folder of this job's own, which goes when the job ends; the log speaks of it by the address."""
    top = user_cache("copies")
    top.mkdir(parents=True, exist_ok=True)
    _tidy(top)
    base = Path(mkdtemp(dir=top.resolve()))
    folder = base / store.place
    folder.mkdir(parents=True)
    here, there = f"{base}/", store.address.removesuffix(store.place)
    with exclusive_lock(base / ".lock", None), path_alias(here, there):
        try:
            yield folder
        except UserError as error:  # Which may speak of what lies here.
            raise UserError(str(error).replace(here, there)) from error
        finally:
            if not (folder / UNSENT).exists():
                shutil.rmtree(base, ignore_errors=True)


def _tidy(top: Path) -> None:
    """Removes the copies of jobs that were killed."""
    for base in top.iterdir():
        old = time.time() - base.stat().st_mtime > YOUNG
        if old and not is_held(base / ".lock") and not any(base.rglob(UNSENT)):
            shutil.rmtree(base, ignore_errors=True)


def _absolute(workdir: str) -> Path:
    try:
        return Path(workdir).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--workdir={workdir!r} cannot be a folder ({error}); choose another.") from error


def _is_needed(name: str, use: str) -> bool:
    """Whether a use of a workdir needs a file, checkpoints apart: what it reads, or adds to."""
    top, _, rest = name.partition("/")
    if not rest:
        return top.endswith(".json") or top == f"{use}.log"
    if use == "plan":  # Which asks what step was reached.
        return top == "checkpoints" and rest.endswith(f"/{SEAL}")
    # What was half drawn goes on; what was drawn is not looked at again.
    return use in ("sample", "evaluate") and top in ("samples", "evaluation") and ("/." in name or top == "evaluation")


def _step_of(name: str) -> str:
    """Of a file of a checkpoint; else something that is no number."""
    top, _, rest = name.partition("/")
    return rest.partition("/")[0] if top == "checkpoints" else ""


def _sealed(names: Iterable[str]) -> list[int]:
    """The steps of the complete checkpoints among these files, oldest first."""
    return sorted(int(_step_of(name)) for name in names if name == f"checkpoints/{_step_of(name)}/{SEAL}")


def _is_sound(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except DamagedCheckpoint:
        return False
    return True


def _size_of(path: Path) -> tuple[int, int] | None:
    """What tells whether a file changed; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
