"""Training that is asked to stop ends at the next step, tidily, and all processes of a job at the same one."""

import time
from contextlib import ExitStack

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax.runtime.signals import deferred, stop_requested, stoppable

AGREE_SECONDS = 3.0
"""Between exchanges of the processes, about; each holds up the step before it."""
MOST_STEPS = 1000
"""Between two exchanges, however quick the steps are."""


class Preemption(ExitStack):
    """Inside its with block a first SIGTERM or SIGINT raises nothing, and waits for the block to ask (signals.py)."""

    requested: int | None = None
    """The number of the signal for which the processes agreed to stop, if they did."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: tuple[int, float] | None = None
        self._next = self._apart = 0

    def __enter__(self) -> "Preemption":
        super().__enter__()
        self.enter_context(stoppable())
        self.enter_context(deferred())
        return self

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the processes of a job ask each other now and then, and answer alike."""
        if jax.process_count() == 1:
            self.requested = stop_requested()
            return self.requested is not None
        if step < self._next:
            return False
        wanted = 1
        if self._asked is not None:
            before, at = self._asked
            pace = (step - before) / max(time.monotonic() - at, 1e-3)
            # The host runs ahead of the device at first, so the pace is trusted little by little.
            wanted = int(np.clip(AGREE_SECONDS * pace, 1, min(2 * self._apart, MOST_STEPS)))
        numbers = multihost_utils.process_allgather(np.array([stop_requested() or 0, wanted]))
        self._asked = step, time.monotonic()
        # The processes' clocks differ, so the first one's says for all when they ask each other again.
        self._apart = int(numbers[0, 1])
        self._next = step + self._apart
        # A signal that came meanwhile is told next time, lest this process stops alone.
        self.requested = int(numbers[:, 0].max()) or None
        return self.requested is not None
