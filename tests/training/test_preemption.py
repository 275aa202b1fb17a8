"""Training that is asked to stop ends at a step's end, and all processes of a job at the same one."""

import os
import signal
import time

import jax
import numpy as np
import pytest

from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped, stop_requested, stoppable
from ddpm_jax.training.preemption import Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_training_after_the_step_and_not_within_it(number):
    before, steps = signal.getsignal(number), []
    with Preemption() as preemption:
        for step in progress(range(1, 9), "Training", total=8):
            steps.append(step)
            if step == 3:
                os.kill(os.getpid(), number)
            assert list(progress(range(2), "Validating", total=2)) == [0, 1]
            if preemption.agreed(step):
                break
    assert steps == [1, 2, 3] and preemption.requested == number
    assert signal.getsignal(number) == before


def test_a_signal_from_before_the_first_step_stops_training_after_it():
    with stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        with Preemption() as preemption:
            assert preemption.agreed(1)
        with pytest.raises(Stopped):
            list(progress([], "Sampling", total=0))


class Others:
    """The other processes of a job, as one hears them."""

    def __init__(self, monkeypatch):
        self.heard, self.exchanges, self.meanwhile = 0, [], None
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", self.exchange)

    def exchange(self, mine):
        self.exchanges.append(tuple(int(number) for number in mine))
        if self.meanwhile is not None:
            os.kill(os.getpid(), self.meanwhile)
        return np.array([mine, [self.heard, 7]])


def test_what_one_process_hears_stops_all(monkeypatch):
    others = Others(monkeypatch)
    with Preemption() as preemption:
        assert not preemption.agreed(100_001)
        others.heard = signal.SIGTERM
        assert preemption.agreed(100_002)
    assert preemption.requested == signal.SIGTERM


def test_a_signal_during_the_exchange_is_told_at_the_next(monkeypatch):
    others = Others(monkeypatch)
    others.meanwhile = signal.SIGTERM
    with Preemption() as preemption:
        assert not preemption.agreed(1) and stop_requested() == signal.SIGTERM
        others.meanwhile, others.heard = None, signal.SIGTERM
        assert preemption.agreed(2)
    assert [mine for mine, _ in others.exchanges] == [0, signal.SIGTERM]


@pytest.mark.parametrize(("seconds", "apart"), [(1.0, 3), (10.0, 1), (0.001, 1000)])
def test_processes_ask_each_other_about_every_three_seconds(seconds, apart, monkeypatch):
    others, clock = Others(monkeypatch), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Preemption() as preemption:
        asked = []
        for step in range(100_001, 108_001):  # A run that went on.
            clock[0] += seconds
            before = len(others.exchanges)
            preemption.agreed(step)
            asked += [step] * (len(others.exchanges) - before)
    assert asked[:2] == [100_001, 100_002] and asked[2] <= 100_004
    assert asked[-1] - asked[-2] == apart
