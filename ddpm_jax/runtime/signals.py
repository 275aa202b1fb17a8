"""Stopping on a signal: SIGTERM (a preempted machine), SIGINT (Ctrl-C), SIGHUP (a closed terminal), SIGUSR1 (Slurm).

Inside `stoppable` the first signal sets a flag, and a second SIGTERM or SIGINT ends the process at once.
- Long loops read the flag: `raise_if_stopped` raises Stopped between two items (progress.py does so for all its loops).
- Work that must finish a unit first is `deferred`: nothing raises in it, and it reads `stop_requested` itself.
- Outside of both, SIGINT raises KeyboardInterrupt as always in Python.
- If the process has not ended after GRACE_S seconds, a thread ends it; files on disk are complete at all times.

The thread is needed while the main thread is inside a compiler or waits for a device, where no Python handler runs. An
alarm's default action would end with another exit code, and signals that are blocked for a thread in sigwait would also
be blocked in child processes.
"""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals of which a second one ends the process at once. The others may come twice for one reason: when a terminal is
closed, the shell and the system both send SIGHUP.
"""
SIGNALS = (*ENDING_SIGNALS, signal.SIGHUP, signal.SIGUSR1)
GRACE_S = 20.0
"""Seconds between the signal and the end; schedulers kill after 30."""
POLL_S = 0.2
"""Seconds between two checks of whether work is still deferred."""


class Stopped(BaseException):
    """A signal to stop arrived; not an Exception, so that no handler of errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    """The flag, and the number of blocks of each kind that the main thread is in."""

    requested: int | None = None
    stoppable = polling = deferred = interruptible = 0


def stop_requested() -> int | None:
    """The number of the signal that arrived, if any."""
    return _State.requested


def raise_if_stopped() -> None:
    """Raises Stopped if a signal arrived, except in deferred work."""
    if _State.requested is not None and (_State.interruptible or not _State.deferred):
        raise Stopped(_State.requested)


@contextmanager
def polling() -> Iterator[None]:
    """Declares that the block calls raise_if_stopped often, so that SIGINT need not raise KeyboardInterrupt."""
    with _entered("polling"):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Lets the block decide when to stop: nothing raises in it, and its time does not count towards GRACE_S."""
    with _entered("deferred"):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """A part of deferred work that may raise Stopped after all: the deferring block catches it."""
    with _entered("interruptible"):
        yield


@contextmanager
def stoppable() -> Iterator[None]:
    """Makes the first signal set the flag, as the module's docstring explains; the outermost block clears it again.

    Outside of the main thread, which alone receives signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread() or _State.stoppable:
        yield
        return
    arrived, wakeup_fd = os.pipe()
    os.set_blocking(wakeup_fd, False)
    watchdog = threading.Thread(target=_end_when_late, args=(arrived,), name="stopping", daemon=True)
    watchdog.start()
    previous_fd = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    # nohup ignores SIGHUP.
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    handlers = {number: signal.signal(number, _set_flag) for number in SIGNALS if number not in ignored}
    try:
        with _entered("stoppable"):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        os.close(wakeup_fd)
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
    if _State.requested is not None:
        return
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    _State.requested = number
    if number == signal.SIGINT and not _State.polling and not _State.deferred:
        raise KeyboardInterrupt


def _end_when_late(arrived: int) -> None:
    """Ends the process GRACE_S seconds after a signal, not counting deferred work.

    arrived: a pipe that gets a byte for each signal, wherever the main thread is, and is closed when the block ends.
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
    # Not logged: the main thread may hold a lock of the log for ever.
    os.write(2, b"Stopped without waiting for the running computation.\n")
    os._exit(128 + number)


# A forked child shares its parent's pipe until it starts another program; its signals are not its parent's.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
