"""The outcomes of steps, read from the device a few steps late, so that the host never waits for the current step."""

from collections import deque
from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Int

from ddpm_jax.training.step import Metrics

STEPS_AHEAD = 8
"""Maximum number of steps in flight on the device."""


class Feedback:
    """A queue of the outcomes of the last steps; each is read STEPS_AHEAD steps later."""

    def __init__(
        self, bad_step: Callable[[int, int], None], report: Callable[[int, Mapping[str, float]], None]
    ) -> None:
        """bad_step(step, streak) is called for skipped steps, report(step, means) for steps with metrics."""
        self._bad_step, self._report = bad_step, report
        self._pending: deque[tuple[int, Int[Array, ""], Metrics | None]] = deque()

    def push(self, step: int, streak: Int[Array, ""], metrics: Metrics | None) -> None:
        """Queues the outcome of a step and reads that of the step STEPS_AHEAD before it."""
        self._pending.append((step, streak, metrics))
        if len(self._pending) > STEPS_AHEAD:
            self._read()

    def drain(self) -> None:
        """Reads all queued outcomes; waits for the device."""
        while self._pending:
            self._read()

    def _read(self) -> None:
        step, streak, metrics = self._pending.popleft()
        if int(streak):
            self._bad_step(step, int(streak))
        if metrics is not None:
            means = jax.device_get(metrics)
            # Empty means are left out: all steps were skipped, or no t lay in a quarter.
            self._report(step, {name: float(mean.compute()) for name, mean in means.items() if mean.count > 0})
