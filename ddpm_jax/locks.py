"""One job at a time: a lock file that is held while its process lives, so that a crash leaves nothing in the way.

The system's lock (flock) says at once whether another process of this machine holds the file, and on many shared file
systems also one of another machine. Others grant it to each machine apart. So the holder also signs the file, and signs
it again while it lives; where another machine's signature stands there, one sees first whether it still changes.
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
from typing import Any

BEAT = 10.0
"""Seconds between two signatures."""
STILL = 90.0
"""Seconds without a new one after which a holder on another machine counts as gone; some disks show writes late."""
SETTLED = 3.0
"""Seconds after which a signature of one's own must still stand, where another machine's stood before."""
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems without locks answer."""

logger = logging.getLogger(__name__)


@contextmanager
def alone(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Holds the lock file at `path` while the block runs, and removes it after.

    busy: called where another job holds it; it may raise, or return to wait. Raises OSError where no lock can be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    lock, ended = _lock(path, busy, token), threading.Event()
    signing = threading.Thread(target=_go_on_signing, args=(path, token, ended), name="lock", daemon=True)
    try:
        signing.start()
        yield
    finally:
        ended.set()
        signing.join()
        with suppress(OSError):  # A disk that became read-only is not what should be reported.
            if _signature(path).get("token") == token:
                path.unlink()
        os.close(lock)


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
            before = _signature(path)
            foreign = before.get("machine") not in (None, machine()) or (bool(before) and not locked)
            if foreign and _lives(path, before):
                busy()
                time.sleep(BEAT)
            # The job that was waited for may have removed it, and a third one may have made another.
            elif _is_at(lock, path):
                _sign(path, token, 0)
                settled = locked and not foreign
                if not settled:
                    time.sleep(SETTLED)  # Two machines may have seen the same silence.
                if settled or _signature(path).get("token") == token:
                    opened.pop_all()
                    return lock


def _lives(path: Path, before: dict[str, Any]) -> bool:
    """Whether the job whose signature stands in the file signs it again."""
    logger.info("%s is of a job on %s; seeing for %.0f s whether it lives", path, before.get("host"), STILL)
    deadline = time.monotonic() + STILL
    while time.monotonic() < deadline:
        time.sleep(min(BEAT, STILL) / 5)
        if (now := _signature(path)) and now != before:
            return True
        if not path.exists():  # Its holder has ended.
            return False
    return False


def _is_at(lock: int, path: Path) -> bool:
    """Whether the file that was opened is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _go_on_signing(path: Path, token: str, ended: threading.Event) -> None:
    """Signs again now and then until the block has ended; ends the process if another job has taken its place."""
    beat = 0
    while not ended.wait(BEAT):
        beat += 1
        with suppress(OSError):  # A full or vanished disk is for those to report who write what matters.
            other = _signature(path)
            if other and other.get("token") != token:
                logger.error("%s is of another job now, on %s; this one ends, unsaved.", path, other.get("host"))
                os._exit(2)
            if other:
                _sign(path, token, beat)


def _signature(path: Path) -> dict[str, Any]:
    """What stands in a lock file; nothing where it is new, gone, or half written. Opened anew, as disks may cache."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sign(path: Path, token: str, beat: int) -> None:
    """Puts this job's signature into the file, for other machines to see."""
    name = {"host": socket.gethostname(), "pid": os.getpid(), "machine": machine(), "token": token, "beat": beat}
    with path.open("r+") as file:
        file.write(json.dumps(name).ljust(300))
        file.flush()
        os.fsync(file.fileno())
