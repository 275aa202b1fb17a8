"""Clocks and memory of this process."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path


def seconds_of(work: Callable[[], None]) -> float:
    """What some work takes, once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(work: Callable[[], None], rounds: int) -> float:
    """Seconds that some work takes."""
    return statistics.median(seconds_of(work) for _ in range(rounds))


def own_memory() -> float:
    """MiB that only this process holds; pages of mapped files, which the system drops at need, are left out."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    words = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon")).split()
    return int(words[1]) / 1024
