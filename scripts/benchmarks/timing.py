"""Timing."""

import statistics
import time
from collections.abc import Callable


def seconds_of(work: Callable[[], None]) -> float:
    """Seconds of one call of a function."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(work: Callable[[], None], rounds: int) -> float:
    """Median seconds of several calls of a function."""
    return statistics.median(seconds_of(work) for _ in range(rounds))
