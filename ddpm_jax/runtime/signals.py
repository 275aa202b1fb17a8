"""Being asked to stop by SIGTERM (a preempted machine, a time limit) or SIGINT (Ctrl-C).

Most work can end anywhere, since what it leaves on disk is whole: `stoppable` raises Stopped where the signal comes.
Where the process waits for a compiler or a device it would come to that late, so after a while it is ended as it is.
Work that first brings something to its end asks to be told instead: `deferred` (training/preemption.py).
A second signal acts as it always does.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 20.0
"""Seconds that tidying up may take; schedulers give 30 before they kill."""
AGAIN = 0.05
"""Seconds after which a stop that was lost comes again."""
LOOK = 0.2
"""Seconds between two looks at whether work that takes its time has ended."""
Handler = Callable[[int, FrameType | None], None]

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """The signal of this number came; not an Exception, so that nothing takes it for a fault and goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def raise_again(error: BaseException) -> bool:
    """Whether an exception that Python had to ignore was a Stopped, which then is raised again a moment later.

    JAX, for one, has the garbage collector call functions of Python; what a signal raises there ends nowhere.
    """
    if not isinstance(error, Stopped):
        return False
    signal.signal(error.number, _stop_once)
    threading.Timer(AGAIN, os.kill, (os.getpid(), error.number)).start()
    return True


def _stop_once(number: int, _: FrameType | None) -> None:
    _act_by_default(number)
    raise Stopped(number)


def _act_by_default(number: int) -> None:
    """From the next such signal on."""
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class _Deferral:
    """Whether the work under way takes the time that it needs."""

    active = False


@contextmanager
def stoppable() -> Iterator[None]:
    """Raises Stopped when a signal comes; ends the process if that takes longer than GRACE.

    Outside of the main thread, which signals are for, it does nothing.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()
    # Python runs handlers between its instructions only. What is written here is written at once.
    arrived, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    watch = threading.Thread(target=_end_when_late, args=(arrived, ended), name="stopping", daemon=True)
    watch.start()
    try:
        with _first(stop):
            yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(told)
        watch.join()
        os.close(arrived)


@contextmanager
def deferred(note: Callable[[int], None]) -> Iterator[None]:
    """Calls note(number) when a first signal comes, and leaves it to the block to end, in its own time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _Deferral.active = _Deferral.active, True
    try:
        with _first(lambda number, _: note(number)):
            yield
    finally:
        _Deferral.active = before


@contextmanager
def _first(handler: Handler) -> Iterator[None]:
    """The first signal goes to the handler; each later one acts as it does by default."""

    def once(number: int, frame: FrameType | None) -> None:
        _act_by_default(number)
        handler(number, frame)

    before = {number: signal.signal(number, once) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _end_when_late(arrived: int, ended: threading.Event) -> None:
    """Waits for signals, each of which is a byte; ends the process that has not ended some time after one.

    Time in which a stop is deferred does not count.
    """
    while number := os.read(arrived, 1):
        left = GRACE if number[0] in SIGNALS else 0.0
        while left > 0 and not ended.wait(LOOK):
            left -= 0.0 if _Deferral.active else LOOK
        if number[0] in SIGNALS and not ended.is_set():
            logger.warning("Stopped without waiting for what is being computed.")
            os._exit(128 + number[0])


# A child shares its parent's pipe until it starts another program; its signals are not its parent's.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
