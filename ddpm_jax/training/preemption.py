"""Being asked to stop: SIGTERM (a preempted machine) and SIGINT (Ctrl-C) end the work at the next step, tidily."""

import signal
import sys
from types import FrameType, TracebackType


class Preemption:
    """Inside its with block a first SIGTERM or SIGINT only sets `requested`; a second one acts as it always does."""

    requested: int | None = None
    """The number of the signal that came, if one did."""

    def __enter__(self) -> "Preemption":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = number
        signal.signal(number, self._before[signal.Signals(number)])

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def exit_if_requested(self) -> None:
        """Ends the process with 128 + the signal's number, as a shell expects: 143 or 130."""
        if self.requested is not None:
            sys.exit(128 + self.requested)
