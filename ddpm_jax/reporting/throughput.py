"""Speed of training: images per second, share of time spent waiting for data, and share of the devices' peak."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Moment(NamedTuple):
    """A moment of training, in seconds."""

    trained: float
    """Time without pauses; only differences mean something."""
    waited: float
    """Time spent waiting for data, likewise."""


class Throughput:
    """Measures from one finished step to a later one, without pauses (previews, validation, writing a trace).

    Saving a checkpoint counts as training, which it holds up while the state is copied.
    """

    def __init__(self, batch_size: int, step: int, ideal: float | None = None) -> None:
        """step: number of finished steps; ideal: images/s at the devices' speed of matrix products."""
        self._batch_size, self._ideal = batch_size, ideal
        self._waited = self._paused = 0.0
        self._step, self._since, self._rates = step, self.now(), {}

    def now(self) -> Moment:
        """This moment."""
        return Moment(time.perf_counter() - self._paused, self._waited)

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

    def read(self, step: int, finished: Moment) -> dict[str, float]:
        """images_per_second, data_wait_share and share_of_peak (of `ideal`) since the step of the last reading.

        step: number of finished steps; finished: when the last of them was. If no time has passed since then, the last
        reading is repeated, and the steps count in the next one.
        """
        seconds = finished.trained - self._since.trained
        if seconds > 0 or not self._rates:
            images_per_second = (step - self._step) * self._batch_size / max(seconds, 1e-9)
            waited = (finished.waited - self._since.waited) / max(seconds, 1e-9)
            self._rates = {"images_per_second": images_per_second, "data_wait_share": waited}
            if self._ideal:
                self._rates["share_of_peak"] = images_per_second / self._ideal
            self._step, self._since = step, finished
        return self._rates
