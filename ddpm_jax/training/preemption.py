"""Training that is asked to stop ends at the next step, tidily, and all processes of a job at the same one."""

import time
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax.runtime.signals import deferred

AGREE_SECONDS = 3.0
"""Between exchanges of the processes, about; each holds up the step before it."""
MOST_STEPS = 1000
"""Between two exchanges, however quick the steps are."""


class Preemption:
    """Inside its with block a first SIGTERM or SIGINT only sets `requested`; a second one acts as it always does."""

    requested: int | None = None
    """The number of the signal that came, if one did."""

    def __enter__(self) -> "Preemption":
        self._asked: tuple[int, float] | None = None
        self._next = self._apart = 0
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
        wanted = 1
        if self._asked is not None:
            before, at = self._asked
            pace = (step - before) / max(time.monotonic() - at, 1e-3)
            # The host runs ahead of the device at first, so the pace is trusted little by little.
            wanted = int(np.clip(AGREE_SECONDS * pace, 1, min(2 * self._apart, MOST_STEPS)))
        numbers = multihost_utils.process_allgather(np.array([self.requested or 0, wanted]))
        self._asked = step, time.monotonic()
        # The processes' clocks differ, so the first one's says for all when they ask each other again.
        self._apart = int(numbers[0, 1])
        self._next = step + self._apart
        heard = int(numbers[:, 0].max())
        self.requested = heard or self.requested  # A signal that came meanwhile is told next time.
        return bool(heard)
