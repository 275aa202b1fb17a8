import time

import jax.numpy as jnp
import pytest

from ddpm_jax.reporting.throughput import Moment, Throughput
from ddpm_jax.training.feedback import STEPS_AHEAD, Feedback
from ddpm_jax.training.step import METRICS, empty_metrics


def test_outcomes_are_read_some_steps_late_and_none_is_lost():
    bad, reports = [], []
    times = (Moment(second, 0.0) for second in range(100))
    feedback = Feedback(lambda *args: bad.append(args), lambda *args: reports.append(args), lambda: next(times))
    metrics = empty_metrics()
    metrics["loss"] = type(metrics["loss"])(total=jnp.asarray(6.0), count=jnp.asarray(4))
    feedback.push(1, jnp.asarray(0).block_until_ready(), metrics)
    feedback.push(2, jnp.asarray(1), None)
    for step in range(3, STEPS_AHEAD + 1):
        feedback.push(step, jnp.asarray(0), None)
    assert not bad and not reports
    feedback.push(STEPS_AHEAD + 1, jnp.asarray(0), None)
    # Empty means are left out. The step had finished when it was queued.
    assert reports == [(1, {"loss": 1.5}, Moment(0, 0.0))]
    feedback.drain()
    assert bad == [(2, 1)] and len(METRICS) == 7


class FakeStreak:
    """No skipped steps, known at a time of a clock, for which a reader waits."""

    def __init__(self, clock: list[float], known: float) -> None:
        self._clock, self._known = clock, known

    def is_ready(self) -> bool:
        return self._clock[0] >= self._known

    def __int__(self) -> int:
        self._clock[0] = max(self._clock[0], self._known)
        return 0


@pytest.mark.parametrize("host_s", [2.0, 0.1])
def test_the_speed_is_that_of_the_device_whether_or_not_the_host_waits_for_each_step(host_s, monkeypatch):
    """Steps of 2 s. A host that queues one every 0.1 s is ahead of them; a CPU computes them as they are queued."""
    clock, rates = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    throughput = Throughput(batch_size=10, step=0)
    feedback = Feedback(lambda *args: None, lambda step, _, at: rates.append(throughput.read(step, at)), throughput.now)
    for step in range(1, 31):
        clock[0] += host_s
        feedback.push(step, FakeStreak(clock, 2.0 * step), empty_metrics() if step % 10 == 0 else None)
    feedback.drain()
    assert [each["images_per_second"] for each in rates] == pytest.approx([5.0] * 3)
