"""Decodes the images of a Collection, all of them once, by as many processes as there are cores."""

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
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import Int, UInt8

from ddpm_jax.data.cache import Cache, Row, cached, key_of
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.decode import UNREADABLE, CropError, Decoding, Raw, decode
from ddpm_jax.errors import UserError, abbreviated, printable
from ddpm_jax.runtime.progress import progress

MAX_UNREADABLE = 0.01
CHUNK = 32
"""Images that a process decodes at a time."""
FEW = 500
"""So many images are decoded sooner than processes start."""
AHEAD = 4
"""Chunks for each core that are decoded before they are asked for."""
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)
RETRY_S = 2.0
"""Seconds before an image is read again."""


class Failure(NamedTuple):
    """Why an image cannot be read, or that it is smaller than data.crop."""

    reason: str
    too_small: bool


Decoded = UInt8[np.ndarray, "size size channels"] | Failure
Submit = Callable[[list[int]], Future[list[Decoded]]]

logger = logging.getLogger(__name__)


def load_images(
    collection: Collection, rows: Int[np.ndarray, "M"], how: Decoding, cache: Cache
) -> tuple[UInt8[np.ndarray, "K size size channels"], Int[np.ndarray, "K"]]:
    """The pixels of some rows of a collection, from the cache if they are there, and which of the rows they are.

    Unreadable images are named in the log and left out; more than 1% of them is an error.
    """
    key = key_of([repr(how), PIL.__version__, *(collection.stamp(row) for row in rows)])
    shape = (how.image_size, how.image_size, how.channels)
    images, kept = cached(cache, key, shape, lambda: decode_all(collection, rows, how))
    if len(kept) < len(rows):  # Said at every start, for the cache keeps it so.
        lost = [collection.names[int(row)] for row in np.delete(rows, kept)]
        logger.warning("%d of %d images cannot be read and are left out: %s", len(lost), len(rows), abbreviated(lost))
    return images, kept


def decode_all(collection: Collection, rows: Int[np.ndarray, "M"], how: Decoding) -> Iterator[Row]:
    """Each readable image's place among the rows, and its pixels, in order."""
    unreadable: dict[str, Failure] = {}
    starts = range(0, len(rows), CHUNK)
    with _workers(collection, how, len(rows)) as submit:
        chunks = _ahead(submit, (rows[start : start + CHUNK].tolist() for start in starts), AHEAD * usable_cpus())
        decoded = enumerate(image for chunk in chunks for image in chunk)
        for place, image in progress(decoded, f"Reading {collection.origin}", total=len(rows)):
            if isinstance(image, Failure):
                unreadable[printable(collection.names[int(rows[place])])] = image
                _refuse_many(unreadable, len(rows), collection.origin)
            else:
                yield place, image
    if unreadable:
        logger.warning("These images cannot be read: %s", _listed(unreadable))


def usable_cpus() -> int:
    """Of this machine, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _workers(collection: Collection, how: Decoding, count: int) -> Iterator[Submit]:
    """A function that has some images decoded, by processes where that is worth their start, and gives a Future."""
    here = partial(_decode_some, collection.read, how)
    if collection.shared or count <= FEW:
        threads = ThreadPoolExecutor(usable_cpus())
        try:
            yield partial(threads.submit, here)
        finally:
            threads.shutdown(cancel_futures=True)
        return
    # A fork would copy the locks of JAX's threads, held for ever.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(usable_cpus(), context, initializer=_start_worker, initargs=(here,))
    try:
        yield partial(pool.submit, _decode_in_worker)
    except BrokenProcessPool as error:
        raise UserError(
            f"{collection.origin}: a process that decodes images was killed: for want of memory, by a file that "
            "crashes Pillow, or because a script calls this outside of `if __name__ == '__main__':`."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(submit: Submit, chunks: Iterable[list[int]], depth: int) -> Iterator[list[Decoded]]:
    """The chunks decoded, in order, with at most `depth` of them in memory."""
    pending: deque[Future[list[Decoded]]] = deque()
    for chunk in chunks:
        pending.append(submit(chunk))
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
        return Failure(str(error) or type(error).__name__, isinstance(error, CropError))


def read_with_retry(read: Callable[[int], Raw], number: int) -> Raw:
    """Reads an image; where the disk or the network fails, once more after a while."""
    try:
        return read(number)
    except OSError as error:
        if error.errno not in TRANSIENT:
            raise
        time.sleep(RETRY_S)
        return read(number)


def _start_worker(work: Callable[[list[int]], list[Decoded]]) -> None:
    """In a process that decodes: takes what it needs once, leaves Ctrl-C to its parent and ends with it."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # SIGTERM ends it: so its pool ends what is left of a broken one.
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _decode_in_worker(numbers: list[int]) -> list[Decoded]:
    return _work(numbers)


def _refuse_many(unreadable: Mapping[str, Failure], total: int, origin: str) -> None:
    if len(unreadable) <= MAX_UNREADABLE * total:
        return
    if all(failure.too_small for failure in unreadable.values()):
        name, failure = next(iter(unreadable.items()))
        raise UserError(f"{origin}: {failure.reason} ({name}); choose a smaller data.crop.")
    raise UserError(
        f"{origin}: more than 1% of its {total} images cannot be read; mend or remove them, the first being "
        f"{_listed(unreadable)}."
    )


def _listed(unreadable: Mapping[str, Failure]) -> str:
    return abbreviated([f"{name} ({failure.reason})" for name, failure in unreadable.items()])
