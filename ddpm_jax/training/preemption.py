"""A signal to stop ends training at the end of a step, and all processes of a job at the same step."""

import time
from contextlib import ExitStack

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax.runtime.signals import deferred, stop_requested, stoppable

AGREE_SECONDS = 3.0
"""Approximate time between exchanges of the processes; each exchange delays the step before it."""
MOST_STEPS = 1000
"""Maximum number of steps between two exchanges."""


class Preemption(ExitStack):
    """Within its with block a first signal to stop only sets a flag, which `agreed` reads (signals.py)."""

    requested: int | None = None
    """The number of the signal for which the processes agreed to stop, if any."""

    def __init__(self) -> None:
        super().__init__()
        self._last_exchange: tuple[int, float] | None = None
        self._next = self._apart = 0

    def __enter__(self) -> "Preemption":
        super().__enter__()
        self.enter_context(stoppable())
        self.enter_context(deferred())
        return self

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the processes of a job exchange this from time to time, and always agree."""
        if jax.process_count() == 1:
            self.requested = stop_requested()
            return self.requested is not None
        if step < self._next:
            return False
        wanted = 1
        if self._last_exchange is not None:
            before, at = self._last_exchange
            pace = (step - before) / max(time.monotonic() - at, 1e-3)
            # The host runs ahead of the device at first, so the measured pace is trusted gradually.
            wanted = int(np.clip(AGREE_SECONDS * pace, 1, min(2 * self._apart, MOST_STEPS)))
        numbers = multihost_utils.process_allgather(np.array([stop_requested() or 0, wanted]))
        self._last_exchange = step, time.monotonic()
        # Clocks differ, so the first process decides for all when the next exchange is.
        self._apart = int(numbers[0, 1])
        self._next = step + self._apart
        # A signal that arrives during the exchange waits for the next one; otherwise this process would stop alone.
        self.requested = int(numbers[:, 0].max()) or None
        return self.requested is not None
