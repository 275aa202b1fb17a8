"""Clocks."""

import statistics
import time
from collections.abc import Callable


def seconds_of(work: Callable[[], None]) -> float:
    """Seconds that a function takes, once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(work: Callable[[], None], rounds: int) -> float:
    """Seconds that some work takes."""
    return statistics.median(seconds_of(work) for _ in range(rounds))
