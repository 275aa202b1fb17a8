"""The outcomes of steps, read from the device a few steps late, so that the host never waits for the present one."""

from collections import deque
from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Int

from ddpm_jax.training.step import Metrics

STEPS_AHEAD = 8
"""How many steps may be under way on the device while the host goes on."""


class Feedback:
    """A queue of the last steps' outcomes; each is read STEPS_AHEAD steps later."""

    def __init__(
        self, bad_step: Callable[[int, int], None], report: Callable[[int, Mapping[str, float]], None]
    ) -> None:
        """bad_step(step, streak) is called for steps that were skipped, report(step, means) for those with metrics."""
        self._bad_step, self._report = bad_step, report
        self._pending: deque[tuple[int, Int[Array, ""], Metrics | None]] = deque()

    def push(self, step: int, streak: Int[Array, ""], metrics: Metrics | None) -> None:
        """Takes the outcome of a step and reads the one STEPS_AHEAD before it."""
        self._pending.append((step, streak, metrics))
        if len(self._pending) > STEPS_AHEAD:
            self._read()

    def drain(self) -> None:
        """Reads all that are outstanding; waits for the device."""
        while self._pending:
            self._read()

    def _read(self) -> None:
        step, streak, metrics = self._pending.popleft()
        if int(streak):
            self._bad_step(step, int(streak))
        if metrics is not None:
            means = jax.device_get(metrics)
            # A mean of nothing (all steps skipped, or no t drawn in a quarter) is left out.
            self._report(step, {name: float(mean.compute()) for name, mean in means.items() if mean.count > 0})
