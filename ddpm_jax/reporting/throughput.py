"""How fast training goes: images per second, how long it waited for data, what share it is of what devices can do."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Throughput:
    """Measures from one finished step to a later one; pauses (previews, validation) do not count."""

    def __init__(self, batch_size: int, step: int, ideal: float | None = None) -> None:
        """step: how many are finished now; ideal: images/s of devices that do nothing but matrix products."""
        self._batch_size, self._ideal = batch_size, ideal
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
        """images_per_second, data_wait_share and share_of_peak (of `ideal`) since the last reading.

        step: how many are finished now.
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
