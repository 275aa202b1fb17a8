"""Training that is asked to stop ends at the next step, tidily, and all processes of a job at the same one."""

import time
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax.stopping import deferred

AGREE_SECONDS = 3.0
"""Between exchanges of the processes, about; each holds up the step before it."""
MOST_STEPS = 1000
"""Between two exchanges, however quick the steps are."""


class Preemption:
    """Inside its with block a first SIGTERM or SIGINT only sets `requested`; a second one acts as it always does."""

    requested: int | None = None
    """The number of the signal that came, if one did."""

    def __enter__(self) -> "Preemption":
        self._asked_at = time.monotonic()
        self._next, self._last = 0, 0
        self._deferral: AbstractContextManager[None] = deferred(self._note)
        self._deferral.__enter__()
        return self

    def _note(self, number: int) -> None:
        self.requested = number

    def __exit__(self, *error: Any) -> None:
        self._deferral.__exit__(*error)

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the processes of a job ask each other now and then, and answer alike."""
        if jax.process_count() == 1:
            return self.requested is not None
        if step < self._next:
            return False
        now = time.monotonic()
        # The processes' clocks differ, so the first one's says for all when they ask each other again.
        pace = (step - self._last) / max(now - self._asked_at, 1e-3)
        wanted = int(np.clip(AGREE_SECONDS * pace, 1, MOST_STEPS))
        numbers = multihost_utils.process_allgather(np.array([self.requested or 0, wanted]))
        self._asked_at, self._last, self._next = now, step, step + int(numbers[0, 1])
        self.requested = int(numbers[:, 0].max()) or None
        return self.requested is not None
