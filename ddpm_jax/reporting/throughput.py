"""Speed of training: images per second, share of time spent waiting for data, and share of the devices' peak."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Throughput:
    """Measures from one finished step to a later one, without pauses (previews, validation)."""

    def __init__(self, batch_size: int, step: int, ideal: float | None = None) -> None:
        """step: number of finished steps; ideal: images/s at the devices' speed of matrix products."""
        self._batch_size, self._ideal = batch_size, ideal
        self._reset(step)

    def _reset(self, step: int) -> None:
        self._start, self._step, self._waited, self._paused = time.perf_counter(), step, 0.0, 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches and measures the time spent waiting for them."""
        start = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time in this block."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self, step: int) -> dict[str, float]:
        """images_per_second, data_wait_share and share_of_peak (of `ideal`) since the last reading.

        step: number of finished steps.
        """
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        rates = {
            "images_per_second": (step - self._step) * self._batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        if self._ideal:
            rates["share_of_peak"] = rates["images_per_second"] / self._ideal
        self._reset(step)
        return rates
