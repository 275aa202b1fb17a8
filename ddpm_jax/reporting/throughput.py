"""How fast training goes: images per second, and the share of the time that it waited for data."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Throughput:
    """Counts batches and the time they took since the last reading; pauses (previews, validation) do not count."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self._start, self._batches, self._waited, self._paused = time.perf_counter(), 0, 0.0, 0.0

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
            self._batches += 1
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in this block is not training."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """images_per_second and data_wait_share since the last reading."""
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        rates = {
            "images_per_second": self._batches * self._batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self._reset()
        return rates
