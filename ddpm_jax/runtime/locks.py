"""One job at a time: a lock that its process holds, and a note beside it that says which process that is.

    .train.lock           locked by the system (flock, through filelock), which frees it when the process ends, however
    .train.holder.lock    JSON: the host and its boot, the process and when it started, and since when it holds the lock

What a dead process of this host left is taken over, and what a Slurm job left before it was requeued. Some shared file
systems grant the system's lock to each host apart; there the note, which is created exclusively, keeps hosts apart: any
other note of another host is never taken over, since its job may live. File systems without flock get SoftFileLock,
under the name .train.soft.lock.
"""

import errno
import json
import logging
import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ddpm_jax.errors import UserError, printable
from ddpm_jax.runtime.signals import raise_if_stopped

POLL_S = 0.2
"""Seconds between two attempts to get a lock that another job holds."""
NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems without locks answer."""

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_lock(path: Path, refusal: str | None) -> Iterator[None]:
    """Holds the lock file at `path` while the block runs, and removes it after.

    refusal: how the UserError begins that is raised where another job holds the lock; None waits for that job.
    Raises OSError where no lock can be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    note, waiting = _note(path), False
    while (lock := _acquire(path)) is None:
        if refusal is not None:
            raise UserError(f"{refusal} {_holder(path)}.")
        if not waiting:
            logger.info("Another job is at work on this; waiting for it. %s.", _holder(path))
        waiting = True
        raise_if_stopped()
        time.sleep(POLL_S)
    try:
        yield
    finally:
        with suppress(OSError):  # A disk that became read-only is not what should be reported.
            note.unlink(missing_ok=True)  # First: the next job, which can lock a new file at once, looks for it.
            path.unlink(missing_ok=True)
        lock.release()


def _acquire(path: Path) -> BaseFileLock | None:
    """The lock, with this process's note beside it; None where another job holds it."""
    note = _note(path)
    lock: BaseFileLock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            path.unlink(missing_ok=True)
            lock = SoftFileLock(_soft(path), thread_local=False)
            lock.acquire(timeout=POLL_S)  # The first attempt may do no more than remove what a dead process left.
    except Timeout:
        return None
    try:
        if _is_dead(_read_note(note)):
            note.unlink()
        _write_note(note)
    except FileExistsError:
        lock.release()
        return None
    except BaseException:
        lock.release()
        raise
    return lock


def _note(path: Path) -> Path:
    return path.with_name(f"{path.stem}.holder{path.suffix}")


def _soft(path: Path) -> Path:
    return path.with_name(f"{path.stem}.soft{path.suffix}")


def _write_note(note: Path) -> None:
    """Raises FileExistsError where another host's process has been quicker."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    who = {"host": socket.gethostname(), "boot": _boot(), "process": os.getpid(), "started": _started(os.getpid())}
    who |= dict(zip(("job", "restarts"), _slurm_job(), strict=True))
    with note.open("x") as file:
        try:
            file.write(json.dumps(who | {"since": since}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            note.unlink(missing_ok=True)
            raise


def _read_note(note: Path) -> dict[str, object]:
    """Who holds a lock; empty where there is no note, or none that can be read."""
    try:
        holder = json.loads(note.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, object]) -> bool:
    """Whether a lock that the system grants was left by a process of this host, perhaps before it was restarted, or by
    this very Slurm job before it was put back into the queue.
    """
    job, restarts = _slurm_job()
    if job is not None and holder.get("job") == job and holder.get("restarts") != restarts:
        return True
    same_boot, started = _boot() is not None and holder.get("boot") == _boot(), holder.get("started")
    lives = same_boot and started is not None and started == _started(holder.get("process"))
    return (same_boot or holder.get("host") == socket.gethostname()) and not lives


def _slurm_job() -> tuple[str | None, str]:
    """The Slurm job of this process, which keeps its number in the queue, and how often it was put back there."""
    cluster, number = os.environ.get("SLURM_CLUSTER_NAME", ""), os.environ.get("SLURM_JOB_ID")
    return number and f"{cluster}/{number}", os.environ.get("SLURM_RESTART_COUNT", "0")


def _boot() -> str | None:
    """What the processes of one running system share, in whichever containers; None where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _started(process: object) -> str | None:
    """When a process started, which no later one of its number shares; None if it has ended or the system is silent."""
    with suppress(OSError, IndexError, ValueError):  # Names of programs need not be text.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]  # A zombie has ended, but its parent has not asked yet.
    return None


def _holder(path: Path) -> str:
    """Who holds a lock, and how to remove it."""
    holder = _read_note(_note(path))
    process, host, since = (
        printable(" ".join(str(holder.get(key, "?")).split())) for key in ("process", "host", "since")
    )
    who = f"process {process} on {host} since {since}" if holder else "an unknown process"
    remove = shlex.join(["rm", *(str(file) for file in (path, _note(path), _soft(path)) if file.exists())])
    return f"The lock is held by {who}; only if that has ended: {remove}"
