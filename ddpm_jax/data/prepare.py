"""Decodes all images of a Collection once, with one process per CPU core."""

import errno
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import PIL
from jaxtyping import Int, UInt

from ddpm_jax.data.cache import Cache, Entry, Row, cached, key_of
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import UNREADABLE, CropError, Decoding, Raw, decode
from ddpm_jax.errors import UserError, printable, shortened
from ddpm_jax.runtime.cpu import usable_cpus
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import SIGNALS, raise_if_stopped

MAX_UNREADABLE = 0.01
CHUNK = 32
"""Images per task of a worker."""
ASKED = 128
"""Files per task of a thread that only asks for their sizes and times."""
ASKING = 16
"""Such threads; they wait for the disk rather than use a core."""
FEW = 500
"""Up to this many images, decoding takes less time than starting processes."""
AHEAD = 4
"""Chunks per core that are decoded ahead of the consumer."""
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)
RETRY_S = 2.0
"""Seconds before an image is read again."""


class Failure(NamedTuple):
    """An image that cannot be used; remedy: what to do if it is only smaller than data.crop, else ""."""

    reason: str
    remedy: str


class TooManyUnreadable(UserError):
    """More than 1% of the images cannot be read; reasons: why, by the names of those that were found."""

    def __init__(self, message: str, reasons: dict[str, str]) -> None:
        super().__init__(message)
        self.reasons = reasons


Decoded = UInt[np.ndarray, "height width channels"] | Failure
Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def load_images(
    collection: Collection, rows: Int[np.ndarray, "M"], how: Decoding, cache: Cache, list_unreadable: bool = False
) -> Entry:
    """The pixels of some rows of a collection, from the cache if possible; its numbers are the readable rows' indices.

    Unreadable images are left out; more than 1% of them is an error, at once or (list_unreadable) after the last image.
    """
    stamps = ask_of_each(collection.stamp, rows, f"Listing {collection.origin}")
    key = key_of([how.key, PIL.__version__, *stamps])
    return cached(cache, key, how.shape, lambda: decode_all(collection, rows, how, list_unreadable), how.pixel_type)


def ask_of_each(ask: Callable[[int], str], rows: Int[np.ndarray, "M"], label: str) -> Iterator[str]:
    """The answers for some rows of a collection, in order, with progress: a disk on a network takes a while for each.

    ask: Collection.stamp or Collection.fingerprint.
    """
    if len(rows) <= FEW:
        yield from map(ask, rows.tolist())
        return
    chunks = (rows[start : start + ASKED].tolist() for start in range(0, len(rows), ASKED))
    with ThreadPoolExecutor(ASKING) as pool:
        answers = map_ahead(partial(pool.submit, lambda chunk: list(map(ask, chunk))), chunks, 2 * ASKING)
        yield from progress((answer for chunk in answers for answer in chunk), label, "images", total=len(rows))


def decode_all(
    collection: Collection, rows: Int[np.ndarray, "M"], how: Decoding, list_unreadable: bool = False
) -> Iterator[Row]:
    """The index among the rows and the pixels of each readable image, in order.

    Raises TooManyUnreadable as soon as too many cannot be read; if list_unreadable, after the last.
    """
    unreadable: dict[str, Failure] = {}
    starts = range(0, len(rows), CHUNK)
    with _workers(collection, how, len(rows)) as submit:
        chunks = map_ahead(submit, (rows[start : start + CHUNK].tolist() for start in starts), AHEAD * usable_cpus())
        decoded = enumerate(image for chunk in chunks for image in chunk)
        for place, image in progress(decoded, f"Reading {collection.origin}", "images", total=len(rows)):
            if isinstance(image, Failure):
                unreadable[printable(collection.names[int(rows[place])])] = image
                if not list_unreadable:
                    _refuse_many(unreadable, len(rows), collection.origin)
            else:
                yield place, image
    _refuse_many(unreadable, len(rows), collection.origin)
    if unreadable:
        logger.warning("These images cannot be read: %s", _listed(unreadable))


@contextmanager
def _workers(
    collection: Collection, how: Decoding, count: int
) -> Iterator[Callable[[list[int]], Future[list[Decoded]]]]:
    """A function that submits image numbers to be decoded by threads, or by processes if there are many images."""
    decode_some = partial(_decode_some, collection.read, how)
    if collection.shared or count <= FEW:
        pool, task = ThreadPoolExecutor(usable_cpus()), decode_some
    else:
        # A fork would copy locks that JAX's threads hold, and nothing would ever release the copies.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(usable_cpus(), context, initializer=_start_worker, initargs=(decode_some,))
        task = _decode_in_worker
    try:
        yield partial(pool.submit, task)
    except BrokenProcessPool as error:
        raise_if_stopped()  # A signal to the whole process group ends the workers, too.
        raise UserError(
            f"{collection.origin}: a process that decodes images was killed: it ran out of memory, a file crashed "
            "Pillow, or a script calls this outside of `if __name__ == '__main__':`."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def map_ahead(submit: Callable[[Item], Future[Result]], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """The results for the items in order; at any time, at most `depth` later ones are submitted."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(submit(item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _decode_some(read: Callable[[int], Raw], how: Decoding, numbers: list[int]) -> list[Decoded]:
    return [_decode_one(read, how, number) for number in numbers]


def _decode_one(read: Callable[[int], Raw], how: Decoding, number: int) -> Decoded:
    try:
        return decode(read_with_retry(read, number), how)
    except UNREADABLE as error:
        return Failure(str(error) or type(error).__name__, error.remedy if isinstance(error, CropError) else "")


def read_with_retry(read: Callable[[int], Raw], number: int) -> Raw:
    """Reads an image, with one retry after a transient error of the disk or network."""
    try:
        return read(number)
    except OSError as error:
        if error.errno not in TRANSIENT:
            raise
        time.sleep(RETRY_S)
        return read(number)


def _start_worker(decode_some: Callable[[list[int]], list[Decoded]]) -> None:
    """Initializes a worker process: it ignores signals that its parent handles, and exits when its parent does."""
    global _task
    _task = decode_some  # Sent once rather than with every chunk, since it may hold the names of all images.
    for number in SIGNALS:
        if number != signal.SIGTERM:  # By which a broken pool ends its other workers.
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _decode_in_worker(numbers: list[int]) -> list[Decoded]:
    return _task(numbers)


def _refuse_many(unreadable: Mapping[str, Failure], total: int, origin: str) -> None:
    if len(unreadable) <= MAX_UNREADABLE * total:
        return
    small = [(name, failure) for name, failure in unreadable.items() if failure.remedy]
    if len(small) > len(unreadable) / 2:
        name, failure = small[0]
        message = f"{origin}: {failure.reason} ({name}); {failure.remedy}."
    else:
        message = (
            f"{origin}: at least {len(unreadable):,} of {total:,} images cannot be read, more than 1%; fix or remove "
            f"them, starting with {_listed(unreadable)}."
        )
    raise TooManyUnreadable(message, {name: failure.reason for name, failure in unreadable.items()})


def _listed(unreadable: Mapping[str, Failure]) -> str:
    return shortened(f"{name} ({failure.reason})" for name, failure in unreadable.items())
