"""How fast training goes: images per second, and the share of the time that it waited for data."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Throughput:
    """Measures from one finished step to a later one; pauses (previews, validation) do not count."""

    def __init__(self, batch_size: int, step: int) -> None:
        """step: how many are finished now."""
        self._batch_size = batch_size
        self._reset(step)

    def _reset(self, step: int) -> None:
        self._start, self._step, self._waited, self._paused = time.perf_counter(), step, 0.0, 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Passes batches through and notes how long each was waited for."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in this block is not training."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self, step: int) -> dict[str, float]:
        """images_per_second and data_wait_share since the last reading; step: how many are finished now."""
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        rates = {
            "images_per_second": (step - self._step) * self._batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self._reset(step)
        return rates
