"""One job at a time: a lock file, and beside it a record of the process that holds it.

    .train.lock           locked by the system (flock, through filelock), which releases it whenever the process ends
    .train.holder.lock    JSON: the host and its boot, the process and its start, and the time of the lock

A record of a dead process of this host is stale, and so is that of a Slurm job from before it was requeued. Some shared
file systems grant flock on each host separately; there the record, which is created exclusively, keeps hosts apart, and
all other records of other hosts count as live. File systems without flock get a SoftFileLock, .train.soft.lock.

At a URL there are no locks. What jobs write there they write whole, and of two that train or evaluate the newest one
continues (`newest_job`).
"""

import errno
import json
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ddpm_jax.errors import UserError, printable, shell_command
from ddpm_jax.runtime.signals import raise_if_stopped
from ddpm_jax.runtime.urls import AnyPath, store_errors

POLL_S = 0.2
"""Seconds between two attempts to acquire a lock that another job holds."""
REPORT_S = 300.0
"""Seconds between two lines in the log about a lock that is waited for."""
NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of file systems without flock."""

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_lock(path: AnyPath, refusal: str | None) -> Iterator[None]:
    """Holds the lock file at `path` while the block runs, and removes it afterwards; at a URL it holds nothing.

    refusal: the first sentence of the UserError that is raised if another job holds the lock; None waits for that job.
    Raises OSError if no lock can be created.
    """
    if not isinstance(path, Path):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    reported = -math.inf
    while (lock := _acquire(path)) is None:
        if refusal is not None:
            raise UserError(f"{refusal} {_holder(path)}")
        if time.monotonic() - reported >= REPORT_S:
            logger.info("Another job is working on this; waiting for it. %s", _holder(path))
            reported = time.monotonic()
        raise_if_stopped()
        time.sleep(POLL_S)
    try:
        yield
    finally:
        with suppress(OSError):  # An error of the block matters more than a disk that became read-only.
            _beside(path, "holder").unlink(missing_ok=True)  # First, since the next job can lock a new file at once.
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def newest_job(path: AnyPath) -> Iterator[Callable[[], None]]:
    """Writes a record of this job to a URL, and removes it after the block.

    Yields a function that raises UserError if another job has written or removed the record since: call it before each
    write that a newer job relies on. So a job that was killed blocks no other, and an older one stops.
    """
    token, before = uuid.uuid4().hex, _read_record(path)
    if before:
        logger.warning(
            "%s names a job that did not end there: %s. If it still runs, it stops before its next write.",
            path,
            _in_words(before),
        )
    path.write_text(json.dumps({"token": token, **_this_process()}) + "\n")

    def confirm() -> None:
        found = _read_record(path)
        if found.get("token") != token:
            other = f"is at work there now: {_in_words(found)}" if found else "has been at work there since"
            raise UserError(
                f"{path.parent}: another job {other}; this one stops, and what it has not saved is left to the other. "
                "Start one job at a time, or choose another --workdir."
            )

    try:
        yield confirm
    except OSError:  # Of a store that cannot be reached, most likely, which to ask again would take half a minute.
        raise
    except BaseException:
        _remove_own(path, token)
        raise
    _remove_own(path, token)


def _remove_own(path: AnyPath, token: str) -> None:
    """Removes the record of this job."""
    with suppress(OSError, UserError), store_errors(path):  # An error of the block matters more.
        if _read_record(path).get("token") == token:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> BaseFileLock | None:
    """The lock, with this process's record beside it; None if another job holds it."""
    record = _beside(path, "holder")
    lock: BaseFileLock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            path.unlink(missing_ok=True)
            lock = SoftFileLock(_beside(path, "soft"), thread_local=False)
            lock.acquire(timeout=POLL_S)  # The first attempt may only remove the lock of a dead process.
    except Timeout:
        return None
    try:
        if _is_stale(_read_record(record)):
            record.unlink(missing_ok=True)
        _write_record(record)
    except FileExistsError:
        lock.release()
        return None
    except BaseException:
        lock.release()
        raise
    return lock


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.stem}.{kind}{path.suffix}")


def _write_record(record: Path) -> None:
    """Raises FileExistsError if a process of another host has written one first."""
    # Written under another name and then linked: at no moment is there a record that says nothing.
    complete = record.with_name(f"{record.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with complete.open("w") as file:
            file.write(json.dumps(_this_process()) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(complete, record)
    finally:
        complete.unlink(missing_ok=True)


def _this_process() -> dict[str, object]:
    """The holder of a lock, as its record holds it."""
    job, restarts = _slurm_job()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "job": job,
        "restarts": restarts,
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _read_record(record: AnyPath) -> dict[str, object]:
    """The holder of a lock; empty if there is no readable record. Raises OSError if a store cannot be reached."""
    unreadable = OSError if isinstance(record, Path) else FileNotFoundError
    try:
        holder = json.loads(record.read_bytes())
    except (unreadable, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_stale(holder: dict[str, object]) -> bool:
    """Whether a record was left by a dead process of this host or by this Slurm job before it was requeued."""
    job, restarts = _slurm_job()
    if job is not None and holder.get("job") == job and holder.get("restarts") != restarts:
        return True
    same_boot, started = _boot() is not None and holder.get("boot") == _boot(), holder.get("started")
    lives = same_boot and started is not None and started == _started(holder.get("process"))
    return (same_boot or holder.get("host") == socket.gethostname()) and not lives


def _slurm_job() -> tuple[str | None, str]:
    """The Slurm job of this process, which keeps its number when requeued, and how often that has happened."""
    cluster, number = os.environ.get("SLURM_CLUSTER_NAME", ""), os.environ.get("SLURM_JOB_ID")
    return number and f"{cluster}/{number}", os.environ.get("SLURM_RESTART_COUNT", "0")


def _boot() -> str | None:
    """An identifier of the running system, the same in all of its containers; None if the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _started(process: object) -> str | None:
    """The start time of a process, which tells it from later ones with its number; None if ended or unknown."""
    with suppress(OSError, IndexError, ValueError):  # ValueError: the name of a program need not be text.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]  # A zombie has ended, but its parent has not waited for it.
    return None


def _holder(path: Path) -> str:
    """The holder of a lock and the command that removes the lock, as the end of a message."""
    files = (path, _beside(path, "holder"), _beside(path, "soft"))
    holder = _read_record(files[1])
    who = _in_words(holder) if holder else "an unknown process"
    remove = shell_command("rm", *(file for file in files if file.exists()))
    return f"The lock is held by {who}; only if that has ended: {remove}"


def _in_words(holder: Mapping[str, object]) -> str:
    process, host, since = (
        printable(" ".join(str(holder.get(key, "?")).split())) for key in ("process", "host", "since")
    )
    return f"process {process} on {host} since {since}"
