"""Measurements while training: when they are taken, and what a stop leaves to be taken."""

import os
import signal

from ddpm_jax.commands.monitors import Monitor, Monitors, preview_config
from ddpm_jax.config import config_of
from ddpm_jax.config.sections import Sample
from ddpm_jax.runtime.progress import progress
from ddpm_jax.training.preemption import Preemption
from ddpm_jax.training.state import TrainState

STATE = TrainState(step=0, skipped=0, bad_streak=0, params={}, ema={}, opt_state={})


def test_previews_use_plain_ddim_with_the_threshold_of_the_final_sampler():
    sampling = {"sampler": "dpm_solver", "order": 3, "timesteps": [900, 1], "threshold": "dynamic", "percentile": 0.9}
    guiding = {"guidance": 2.0, "guidance_interval": [5, 9], "guidance_rescale": 0.5, "label": "1"}
    config = config_of({"model": {"classes": 3}, "sample": sampling | guiding, "log": {"preview_steps": 7}})
    assert preview_config(config).sample == Sample(sampler="ddim", steps=7, threshold="dynamic", percentile=0.9)


def test_measurements_are_taken_when_due_and_once():
    taken, noted = [], []
    every = {"a": 4, "b": 6}
    each = [Monitor(n, lambda step, state, name=name: taken.append((name, step))) for name, n in every.items()]
    monitors = Monitors(each, 13, 4, noted.append)
    for step in range(4, 14):  # A run that resumes at step 4, whose measurements are done.
        monitors.run(step, STATE)
        monitors.run(step, STATE)
    assert taken == [("b", 6), ("a", 8), ("a", 12), ("b", 12), ("a", 13), ("b", 13)]
    assert noted == [6, 8, 12, 13]


def test_measurements_due_at_the_step_of_a_stop_are_taken_when_the_run_resumes():
    taken = []
    monitors = Monitors([Monitor(4, lambda step, state: taken.append(step))], 13, 7)
    monitors.run(8, STATE)
    assert taken == [8]


def test_the_last_step_is_remembered_though_nothing_was_due():
    noted = []
    monitors = Monitors([], 3, 0, noted.append)
    assert all(monitors.run(step, STATE) for step in (1, 2, 3)) and noted == [3]


def test_a_signal_interrupts_measurements_which_then_count_as_not_taken():
    taken, noted = [], []

    def slow(step: int, state: TrainState) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        list(progress(range(3), "Measuring", total=3))
        taken.append("slow")

    each = [Monitor(4, slow), Monitor(4, lambda step, state: taken.append("next"))]
    with Preemption() as preemption:
        assert not Monitors(each, 8, 0, noted.append).run(4, STATE)
        assert preemption.agreed(4) and (taken, noted) == ([], [])
