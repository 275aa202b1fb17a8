"""A signal to stop ends training at the end of a step, and all processes of a job at the same step."""

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
def test_a_signal_stops_training_only_at_the_end_of_the_step(number):
    before, steps = signal.getsignal(number), []
    with Preemption() as preemption:
        for step in progress(range(1, 9), "Training", "steps", total=8):
            steps.append(step)
            if step == 3:
                os.kill(os.getpid(), number)
            assert list(progress(range(2), "Validating", "batches", total=2)) == [0, 1]
            if preemption.agreed(step):
                break
    assert steps == [1, 2, 3] and preemption.requested == number
    assert signal.getsignal(number) == before


def test_a_signal_before_the_first_step_stops_training_after_it():
    with stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        with Preemption() as preemption:
            assert preemption.agreed(1)
        with pytest.raises(Stopped):
            list(progress([], "Sampling", "batches", total=0))


class OtherProcesses:
    """Replaces the exchange with the other processes of a job."""

    def __init__(self, monkeypatch):
        self.received, self.exchanges, self.meanwhile = 0, [], None
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", self.exchange)

    def exchange(self, mine):
        self.exchanges.append(tuple(int(number) for number in mine))
        if self.meanwhile is not None:
            os.kill(os.getpid(), self.meanwhile)
        return np.array([mine, [self.received, 7]])


def test_a_signal_to_one_process_stops_all(monkeypatch):
    others = OtherProcesses(monkeypatch)
    with Preemption() as preemption:
        assert not preemption.agreed(100_001)
        others.received = signal.SIGTERM
        assert preemption.agreed(100_002)
    assert preemption.requested == signal.SIGTERM


def test_a_signal_during_an_exchange_is_sent_in_the_next_one(monkeypatch):
    others = OtherProcesses(monkeypatch)
    others.meanwhile = signal.SIGTERM
    with Preemption() as preemption:
        assert not preemption.agreed(1) and stop_requested() == signal.SIGTERM
        others.meanwhile, others.received = None, signal.SIGTERM
        assert preemption.agreed(2)
    assert [mine for mine, _ in others.exchanges] == [0, signal.SIGTERM]


@pytest.mark.parametrize(("seconds", "apart"), [(1.0, 3), (10.0, 1), (0.001, 1000)])
def test_processes_exchange_signals_about_every_three_seconds(seconds, apart, monkeypatch):
    others, clock = OtherProcesses(monkeypatch), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Preemption() as preemption:
        exchanged_at = []
        for step in range(100_001, 108_001):  # A resumed run.
            clock[0] += seconds
            before = len(others.exchanges)
            preemption.agreed(step)
            exchanged_at += [step] * (len(others.exchanges) - before)
    assert exchanged_at[:2] == [100_001, 100_002] and exchanged_at[2] <= 100_004
    assert exchanged_at[-1] - exchanged_at[-2] == apart
