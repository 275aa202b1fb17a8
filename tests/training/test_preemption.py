import os
import signal
import time

import jax
import numpy as np
import pytest

from ddpm_jax.training.preemption import Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_asks_and_a_second_acts(number):
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert preemption.requested is None
        os.kill(os.getpid(), number)
        assert preemption.requested == number
        assert signal.getsignal(number) == (signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    assert signal.getsignal(number) == before


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
        assert not preemption.agreed(1) and preemption.requested == signal.SIGTERM
        others.meanwhile = None
        preemption.agreed(2)
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
