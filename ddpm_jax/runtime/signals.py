"""Being asked to stop by SIGTERM (a preempted machine, a time limit) or SIGINT (Ctrl-C).

Inside `stoppable` the rule is: the first signal sets a flag, and a second one ends the process at once.
- Long loops read the flag: `raise_if_stopped` raises Stopped between two items (progress.py does so for all its loops).
- Work that must finish a unit first is `deferred`: nothing raises in it, and it asks `stop_requested` itself.
- Outside of both, SIGINT raises KeyboardInterrupt as it always does in Python.
- Where none of this has ended the process after GRACE_S seconds, a thread ends it as it is; what is on disk is whole.

The thread is there for a main thread that is inside a compiler or waits for a device, where no handler of Python runs.
An alarm's default action would end with another exit code; signals that are blocked for a thread in sigwait would be
blocked in child processes, too.
"""

import logging
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 20.0
"""Seconds that an end may take; schedulers give 30 before they kill."""
POLL_S = 0.2
"""Seconds between two looks at whether work that takes its time has ended."""

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """The signal of this number came; not an Exception, so that nothing takes it for a fault and goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    """The flag, and how many blocks of each kind the main thread is in."""

    requested: int | None = None
    stoppable = polling = deferred = 0


def stop_requested() -> int | None:
    """The number of the signal that came, if one did."""
    return _State.requested


def raise_if_stopped() -> None:
    """Raises Stopped if a signal came, except in deferred work."""
    if _State.requested is not None and not _State.deferred:
        raise Stopped(_State.requested)


@contextmanager
def polling() -> Iterator[None]:
    """Declares that the block calls raise_if_stopped often, so that SIGINT need not raise KeyboardInterrupt."""
    with _entered("polling"):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Leaves it to the block when to end: there the flag is only read, and the time that it takes does not count."""
    with _entered("deferred"):
        yield


@contextmanager
def stoppable() -> Iterator[None]:
    """Has a first signal set the flag, as the module's text says; the outermost such block forgets it at its end.

    Outside of the main thread, which signals are for, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread() or _State.stoppable:
        yield
        return
    arrived, told = os.pipe()
    os.set_blocking(told, False)
    watchdog = threading.Thread(target=_end_when_late, args=(arrived,), name="stopping", daemon=True)
    watchdog.start()
    wakeup = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _set_flag) for number in SIGNALS}
    try:
        with _entered("stoppable"):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(told)
        watchdog.join()
        os.close(arrived)
        _State.requested = None


@contextmanager
def _entered(kind: str) -> Iterator[None]:
    """Counts the blocks of a kind that the main thread is in."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    setattr(_State, kind, getattr(_State, kind) + 1)
    try:
        yield
    finally:
        setattr(_State, kind, getattr(_State, kind) - 1)


def _set_flag(number: int, _: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    _State.requested = number
    if number == signal.SIGINT and not _State.polling and not _State.deferred:
        raise KeyboardInterrupt


def _end_when_late(arrived: int) -> None:
    """Ends the process GRACE_S seconds after a signal; time in which work is deferred does not count.

    arrived: gets a byte for each signal at once, wherever the main thread is, and its end when the block ends.
    """
    number, left = 0, GRACE_S
    while left > 0:
        readable, _, _ = select.select([arrived], [], [], POLL_S if number else None)
        if not readable:
            left -= 0.0 if _State.deferred else POLL_S
        elif not (byte := os.read(arrived, 1)):
            return
        elif byte[0] in SIGNALS:
            number = byte[0]
    logger.warning("Stopped without waiting for what is being computed.")
    os._exit(128 + number)


# A forked child shares its parent's pipe until it starts another program; its signals are not its parent's.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
