"""Being asked to stop: SIGTERM (a preempted machine) and SIGINT (Ctrl-C) end the work at the next step, tidily."""

import signal
import sys
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

AGREE_EVERY = 32  # Steps; an exchange between processes holds up the step before it.


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

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the processes of a job ask each other now and then, and answer alike."""
        if jax.process_count() == 1:
            return self.requested is not None
        if step % AGREE_EVERY:
            return False
        numbers = multihost_utils.process_allgather(np.asarray(self.requested or 0))
        self.requested = int(numbers.max()) or None
        return self.requested is not None

    def exit_if_requested(self) -> None:
        """Ends the process with 128 + the signal's number, as a shell expects: 143 or 130."""
        if self.requested is not None:
            sys.exit(128 + self.requested)
