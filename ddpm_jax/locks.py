"""One job at a time: a lock file that is held while its process lives, so that a crash leaves nothing in the way."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems without locks answer."""

logger = logging.getLogger(__name__)


@contextmanager
def alone(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Holds the lock file at `path` while the block runs, and removes it after.

    busy: called where another job holds it; it may raise, or return to wait. Raises OSError where no lock can be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path, busy):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(path: Path, busy: Callable[[], None]) -> IO[str]:
    """A file that only this job has locked, and that still has its name."""
    while True:
        with ExitStack() as opened:
            lock = opened.enter_context(path.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                logger.warning("%s cannot be locked (%s): see to it that one job at a time writes there", path, error)
            # The job that was waited for may have removed it, and a third one may have made another.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    opened.pop_all()
                    return lock
