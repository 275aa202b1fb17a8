"""Progress of long loops: a bar with the time left on a terminal, plain lines in the log elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from ddpm_jax.runtime.signals import polling, raise_if_stopped

T = TypeVar("T")
LINE_EVERY_S = 10.0
"""Seconds between lines where there is no terminal."""
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
"""tqdm's, but for slow items, too, with the rate and not its inverse, such as 0.66 steps/s."""

logger = logging.getLogger(__name__)


def progress(
    items: Iterable[T], label: str, unit: str, *, total: int, done: int = 0, note: Callable[[], str] = lambda: ""
) -> Iterator[T]:
    """Yields the items and shows how many of `total` are done, `done` of them before the start.

    unit: the name of the items, such as "steps"; note: a few words for the end of the line, such as the loss. Raises
    Stopped between two items after a signal to stop (signals.py).
    """
    shown = _bar if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO) else _lines
    with polling():
        raise_if_stopped()
        for item in shown(items, label, unit, total, done, note):
            yield item
            raise_if_stopped()


def _bar(items: Iterable[T], label: str, unit: str, total: int, done: int, note: Callable[[], str]) -> Iterator[T]:
    options = {"unit": f" {unit}", "bar_format": BAR, "dynamic_ncols": True, "smoothing": 0.1}
    with tqdm(items, label, total=total, initial=done, **options) as bar:
        for item in bar:
            yield item
            bar.set_postfix_str(note(), refresh=False)


def _lines(items: Iterable[T], label: str, unit: str, total: int, done: int, note: Callable[[], str]) -> Iterator[T]:
    start = last = time.monotonic()
    for count, item in enumerate(items, start=done + 1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_S and count < total:
            remaining = (now - start) / (count - done) * (total - count)
            words = ", ".join(filter(None, (f"{count} of {total} {unit}", f"{duration(remaining)} left", note())))
            logger.info("%s: %s", label, words)
            last = now


def duration(seconds: float) -> str:
    """Seconds as 1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
