"""One job at a time: a lock file that is held while its process lives, so that a crash leaves nothing in the way.

The system's lock (flock) says at once whether another process of this machine holds the file, and on many shared file
systems also one of another machine. Others grant it to each machine apart; so the holder also writes its name into
the file, with a number that goes up while it lives, and where another machine's name stands there one sees first
whether its number still moves.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT = 5.0
"""Seconds between two numbers."""
STILL = 20.0
"""Seconds without a new one after which a holder on another machine counts as gone."""
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems without locks answer."""

logger = logging.getLogger(__name__)


@contextmanager
def alone(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Holds the lock file at `path` while the block runs, and removes it after.

    busy: called where another job holds it; it may raise, or return to wait. Raises OSError where no lock can be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, ended = _lock(path, busy), threading.Event()
    beats = threading.Thread(target=_beat, args=(lock, ended), name="lock", daemon=True)
    try:
        beats.start()
        yield
    finally:
        ended.set()
        beats.join()
        with suppress(OSError):  # A disk that became read-only is not what should be reported.
            path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path, busy: Callable[[], None]) -> int:
    """The descriptor of a file that only this job has locked, and that still has its name."""
    while True:
        lock, locked = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), True
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                locked = False
            if _lives(lock, path, here=not locked):
                busy()
                time.sleep(BEAT)
            # The job that was waited for may have removed it, and a third one may have made another.
            elif _is_at(lock, path):
                _write(lock, 0)
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _lives(lock: int, path: Path, here: bool) -> bool:
    """Whether the job whose name is in the file still writes into it; here: also if it is one of this machine."""
    first = os.pread(lock, 1000, 0)
    with suppress(ValueError, AttributeError):
        host = json.loads(first or b"{}").get("host")
        if host is None or (host == socket.gethostname() and not here):
            return False
        logger.info("%s is of a job on %s; waiting %.0f s to see whether it lives", path, host, STILL)
        deadline = time.monotonic() + STILL
        while time.monotonic() < deadline and _is_at(lock, path):
            if os.pread(lock, 1000, 0) != first:
                return True
            time.sleep(min(BEAT, STILL) / 5)
    return False


def _is_at(lock: int, path: Path) -> bool:
    """Whether the file that was opened is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _beat(lock: int, ended: threading.Event) -> None:
    """Writes a new number now and then, until the block has ended."""
    number = 0
    while not ended.wait(BEAT):
        number += 1
        with suppress(OSError):  # A full or vanished disk is for those to report who write what matters.
            _write(lock, number)


def _write(lock: int, number: int) -> None:
    """Puts this job's name and the number into the file."""
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "beat": number}).encode()
    os.pwrite(lock, text.ljust(200), 0)
