"""One job at a time: a lock file that is held while its process lives, so that a crash leaves nothing in the way.

The system's lock (flock) says at once whether another process of this machine holds the file, and on many shared file
systems also one of another machine. Others grant it to each machine apart. So the holder also signs the file, and signs
it again while it lives; where another machine's signature stands there, one sees first whether it still changes.
Object stores (store.py) have no locks at all, but can be signed.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

HEARTBEAT_S = 10.0
"""Seconds between two signatures."""
STALE_AFTER_S = 90.0
"""Seconds without a new one after which a holder on another machine counts as gone; some disks show writes late."""
SETTLE_S = 3.0
"""Seconds after which a signature of one's own must still stand, where another machine's stood before."""
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems without locks answer."""

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_lock(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Holds the lock file at `path` while the block runs, and removes it after.

    busy: called where another job holds it; it may raise, or return to wait. Raises OSError where no lock can be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    lock = _lock(path, busy, token)
    try:
        with _signed(LockFile(path), token):
            yield
    finally:
        os.close(lock)


@contextmanager
def lease(record: "LockRecord", busy: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """As `alone`, where there is nothing but signatures to go by; gives what tells whether it is still held."""
    token = uuid.uuid4().hex

    def holds() -> bool:
        return (record.read() or {}).get("token") == token

    while True:
        before = record.read()
        if before and not _has_ended(before) and _lives(record, before):
            busy()
            time.sleep(HEARTBEAT_S)
            continue
        with ExitStack() as written:
            written.callback(_leave, record, token)
            record.write(_signature(token, 0))
            time.sleep(SETTLE_S)  # Two jobs may have found the sheet free.
            if holds():
                written.pop_all()
                break
    with _signed(record, token):
        yield holds


@runtime_checkable
class LockRecord(Protocol):
    """What a lock's holder signs."""

    name: str

    def read(self) -> dict[str, Any] | None:
        """The signature; an empty one where it is new or half written, None where there is no sheet."""

    def write(self, signature: dict[str, Any]) -> None:
        """Signs."""

    def remove(self) -> None:
        """Leaves nothing."""


class LockFile:
    """A file as a Sheet. Opened anew each time, as disks may cache."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def read(self) -> dict[str, Any] | None:
        try:
            return parse_signature(self.path.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, signature: dict[str, Any]) -> None:
        with self.path.open("r+") as file:  # Which must be there, lest a removed one come back.
            file.write(json.dumps(signature).ljust(400))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self.path.unlink()


def parse_signature(text: bytes) -> dict[str, Any]:
    """What stands on a sheet; nothing where it is half written."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    signed = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in ("machine", "token"))
    return found if signed else {}


def _signature(token: str, beat: int) -> dict[str, Any]:
    """Who holds the lock, and that it still does."""
    who = {"host": socket.gethostname(), "machine": machine(), "process": _process(os.getpid())}
    return {**who, "pid": os.getpid(), "token": token, "beat": beat}


def _process(pid: int) -> str | None:
    """What no other process of this machine ever has: where its number counts, and when it began; None if unknown."""
    try:
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{os.readlink('/proc/self/ns/pid')} {began}"
    except (OSError, IndexError):
        return None


def _has_ended(signature: dict[str, Any]) -> bool:
    """Whether it is certain that who signed has ended: a process that this machine would know of."""
    told, here = signature.get("process"), _process(os.getpid())
    if signature.get("machine") != machine() or not told or not here or told.split()[0] != here.split()[0]:
        return False
    return _process(signature.get("pid", 0)) != told


def is_held(path: Path) -> bool:
    """Whether another job of this machine holds a lock file."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def _signed(record: LockRecord, token: str) -> Iterator[None]:
    """Goes on signing while the block runs, and then leaves nothing."""
    ended = threading.Event()
    signing = threading.Thread(target=_go_on_signing, args=(record, token, ended), name="lock", daemon=True)
    try:
        signing.start()
        yield
    finally:
        ended.set()
        signing.join()
        _leave(record, token)


def _leave(record: LockRecord, token: str) -> None:
    """Removes a sheet that is signed so."""
    with suppress(OSError):  # A disk that became read-only is not what should be reported.
        if (record.read() or {}).get("token") == token:
            record.remove()


def machine() -> str:
    """What the processes share that see each other's locks: the running system, else the name of the machine."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _lock(path: Path, busy: Callable[[], None], token: str) -> int:
    """The descriptor of a file that only this job has locked and signed, and that still has its name."""
    while True:
        with ExitStack() as opened:
            lock, locked = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), True
            opened.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                locked = False
            record = LockFile(path)
            before = record.read() or {}
            foreign = before.get("machine") not in (None, machine()) or (bool(before) and not locked)
            if foreign and _lives(record, before):
                busy()
                time.sleep(HEARTBEAT_S)
            # The job that was waited for may have removed it, and a third one may have made another.
            elif _is_at(lock, path):
                record.write(_signature(token, 0))
                settled = locked and not foreign
                if not settled:
                    time.sleep(SETTLE_S)  # Two machines may have seen the same silence.
                if settled or (record.read() or {}).get("token") == token:
                    opened.pop_all()
                    return lock


def _lives(record: LockRecord, before: dict[str, Any]) -> bool:
    """Whether the job whose signature stands there signs again."""
    logger.info(
        "%s is of a job on %s; seeing for %.0f s whether it lives", record.name, before.get("host"), STALE_AFTER_S
    )
    deadline = time.monotonic() + STALE_AFTER_S
    while time.monotonic() < deadline:
        time.sleep(min(HEARTBEAT_S, STALE_AFTER_S) / 5)
        now = record.read()
        if now and now != before:
            return True
        if now is None:  # Its holder has ended.
            return False
    return False


def _is_at(lock: int, path: Path) -> bool:
    """Whether the file that was opened is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _go_on_signing(record: LockRecord, token: str, ended: threading.Event) -> None:
    """Signs again now and then until the block has ended; ends the process if another job has taken its place."""
    beat = 0
    while not ended.wait(HEARTBEAT_S):
        beat += 1
        with suppress(OSError):  # A full or vanished disk is for those to report who write what matters.
            other = record.read()
            if other and other.get("token") != token:
                logger.error("%s is of another job now, on %s; this one ends, unsaved.", record.name, other.get("host"))
                os._exit(2)
            if other:
                record.write(_signature(token, beat))
