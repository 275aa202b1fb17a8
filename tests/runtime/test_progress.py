"""Progress yields all items and shows how many are done; test_signals.py stops it between two items."""

import logging
import sys
import time

import pytest

from ddpm_jax.runtime.progress import duration, progress


def test_progress_logs_plain_lines_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr("ddpm_jax.runtime.progress.LINE_EVERY_S", 0.02)
    logging.getLogger("ddpm_jax").propagate = True
    with caplog.at_level(logging.INFO):
        slow = (time.sleep(0.015) or i for i in range(8))
        assert list(progress(slow, "Work", "items", total=10, done=2, note=lambda: "ok")) == list(range(8))
    assert "Work: " in caplog.text and " of 10 items, 0:00 left, ok" in caplog.text


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_closes_its_iterator_when_the_loop_breaks(monkeypatch, terminal):
    def items():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    closed = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    for item in progress(items(), "Work", "items", total=9):
        if item == 2:
            break
    assert closed == [True]


def test_durations_read_like_clocks():
    assert [duration(s) for s in (0.0, 61.0, 3599.6, 3661.0)] == ["0:00", "1:01", "1:00:00", "1:01:01"]
