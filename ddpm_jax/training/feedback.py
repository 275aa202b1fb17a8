"""The outcomes of steps, read from the device a few steps late, so that the host never waits for the current step."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax

from ddpm_jax.reporting.throughput import Moment
from ddpm_jax.training.step import Metrics

STEPS_AHEAD = 8
"""Maximum number of steps in flight on the device."""


@runtime_checkable  # For the type checks of the tests.
class Streak(Protocol):
    """The number of skipped steps in a row up to a step: a scalar array on the device."""

    def is_ready(self) -> bool:
        """Whether the device has finished the step."""
        ...

    def __int__(self) -> int:
        """The number; waits for the device."""
        ...


@dataclass
class Outcome:
    """A step that was started."""

    step: int
    streak: Streak
    metrics: Metrics | None
    finished: Moment | None = None
    """When the host first saw that the device had finished the step."""


class Feedback:
    """A queue of the outcomes of the last steps; each is read STEPS_AHEAD steps later."""

    def __init__(
        self,
        bad_step: Callable[[int, int], None],
        report: Callable[[int, Mapping[str, float], Moment], None],
        now: Callable[[], Moment],
    ) -> None:
        """bad_step(step, streak) is called for skipped steps, report(step, means, finished) for steps with metrics."""
        self._bad_step, self._report, self._now = bad_step, report, now
        self._pending: deque[Outcome] = deque()

    def push(self, step: int, streak: Streak, metrics: Metrics | None) -> None:
        """Queues the outcome of a step and reads that of the step STEPS_AHEAD before it."""
        self._pending.append(Outcome(step, streak, metrics))
        # A CPU has finished a step once it is queued; STEPS_AHEAD steps later, their time would count as well.
        now = self._now()
        for outcome in self._pending:
            if outcome.finished is None and outcome.streak.is_ready():
                outcome.finished = now
        if len(self._pending) > STEPS_AHEAD:
            self._read()

    def drain(self) -> None:
        """Reads all queued outcomes; waits for the device."""
        while self._pending:
            self._read()

    def _read(self) -> None:
        outcome = self._pending.popleft()
        if streak := int(outcome.streak):
            self._bad_step(outcome.step, streak)
        if outcome.metrics is not None:
            finished = self._now() if outcome.finished is None else outcome.finished
            means = jax.device_get(outcome.metrics)
            # Empty means are left out: all steps were skipped, or no t lay in a quarter.
            present = {name: float(mean.compute()) for name, mean in means.items() if mean.count > 0}
            self._report(outcome.step, present, finished)
