import jax.numpy as jnp

from ddpm_jax.training.feedback import STEPS_AHEAD, Feedback
from ddpm_jax.training.step import METRICS, empty_metrics


def test_outcomes_are_read_some_steps_late_and_none_is_lost():
    bad, reports = [], []
    feedback = Feedback(lambda *args: bad.append(args), lambda *args: reports.append(args))
    metrics = empty_metrics()
    metrics["loss"] = type(metrics["loss"])(total=jnp.asarray(6.0), count=jnp.asarray(4))
    feedback.push(1, jnp.asarray(0), metrics)
    feedback.push(2, jnp.asarray(1), None)
    for step in range(3, STEPS_AHEAD + 1):
        feedback.push(step, jnp.asarray(0), None)
    assert not bad and not reports
    feedback.push(STEPS_AHEAD + 1, jnp.asarray(0), None)
    # Empty means are left out.
    assert reports == [(1, {"loss": 1.5})]
    feedback.drain()
    assert bad == [(2, 1)] and len(METRICS) == 7
