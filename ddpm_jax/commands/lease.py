"""One job at a time at a URL, where there are no locks: its holder signs a record, again and again while it lives.

Where another job's signature stands there, one sees first whether it still changes.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.signals import raise_if_stopped, request_stop
from ddpm_jax.runtime.store import Store

HEARTBEAT_S = 10.0
"""Seconds between two signatures."""
STALE_AFTER_S = 90.0
"""Seconds without a new one after which a holder on another machine counts as gone; some stores show writes late."""
SETTLE_S = 3.0
"""Seconds after which a signature of one's own must still stand, where another machine's stood before."""

logger = logging.getLogger(__name__)


class RemoteLockRecord:
    """A file at a URL that jobs sign."""

    def __init__(self, store: Store, name: str) -> None:
        self.name, self._store, self._path = f"{store.address}/{name}", store, store._at(name)

    def read(self) -> dict[str, Any] | None:
        try:
            with self._store._asking():
                return parse_signature(self._store._files.cat_file(self._path))
        except FileNotFoundError:
            return None

    def write(self, signature: Mapping[str, Any]) -> None:
        try:
            with self._store._asking():
                self._store._files.pipe_file(self._path, json.dumps(signature).encode())
        except FileNotFoundError as error:
            raise UserError(f"{self.name} cannot be written; see that the bucket exists (docs/cloud.md).") from error

    def remove(self) -> None:
        with self._store._asking():
            self._store._files.rm_file(self._path)


@contextmanager
def lease(record: RemoteLockRecord, busy: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Holds a record while the block runs; yields what tells whether this job still holds it.

    busy: called where another job holds it; it may raise, or return to wait.
    """
    token = uuid.uuid4().hex

    def holds() -> bool:
        return (record.read() or {}).get("token") == token

    while True:
        before = record.read()
        if before and not _has_ended(before) and _lives(record, before):
            busy()
            time.sleep(HEARTBEAT_S)
            continue
        with ExitStack() as written:
            written.callback(_leave, record, token)
            record.write(_signature(token, 0))
            time.sleep(SETTLE_S)  # Two jobs may have found the record free.
            if holds():
                written.pop_all()
                break
    with _signed(record, token):
        yield holds


def parse_signature(text: bytes) -> dict[str, Any]:
    """What a record holds; nothing where it is half written."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    signed = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in ("machine", "token"))
    return found if signed else {}


def _signature(token: str, beat: int) -> dict[str, Any]:
    """Who holds the lock, and that it still does."""
    who = {"host": socket.gethostname(), "machine": machine(), "process": _process(os.getpid())}
    return {**who, "pid": os.getpid(), "token": token, "beat": beat}


def _process(pid: int) -> str | None:
    """What no other process of this machine ever has: where its number counts, and when it began; None if unknown."""
    try:
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{os.readlink('/proc/self/ns/pid')} {began}"
    except (OSError, IndexError):
        return None


def _has_ended(signature: dict[str, Any]) -> bool:
    """Whether it is certain that who signed has ended: a process that this machine would know of."""
    told, here = signature.get("process"), _process(os.getpid())
    if signature.get("machine") != machine() or not told or not here or told.split()[0] != here.split()[0]:
        return False
    return _process(signature.get("pid", 0)) != told


@contextmanager
def _signed(record: RemoteLockRecord, token: str) -> Iterator[None]:
    """Goes on signing while the block runs, and then removes the record."""
    ended = threading.Event()
    signing = threading.Thread(target=_go_on_signing, args=(record, token, ended), name="lock", daemon=True)
    try:
        signing.start()
        yield
    finally:
        ended.set()
        signing.join()
        _leave(record, token)


def _leave(record: RemoteLockRecord, token: str) -> None:
    """Removes a record that is signed so."""
    with suppress(OSError):  # A disk that became read-only is not what should be reported.
        if (record.read() or {}).get("token") == token:
            record.remove()


def machine() -> str:
    """What the processes share that see each other's locks: the running system, else the name of the machine."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _lives(record: RemoteLockRecord, before: dict[str, Any]) -> bool:
    """Whether the job whose signature stands there signs again."""
    logger.info(
        "%s is of a job on %s; seeing for %.0f s whether it lives", record.name, before.get("host"), STALE_AFTER_S
    )
    deadline = time.monotonic() + STALE_AFTER_S
    while time.monotonic() < deadline:
        raise_if_stopped()
        time.sleep(min(HEARTBEAT_S, STALE_AFTER_S) / 5)
        now = record.read()
        if now and now != before:
            return True
        if now is None:  # Its holder has ended.
            return False
    return False


def _go_on_signing(record: RemoteLockRecord, token: str, ended: threading.Event) -> None:
    """Signs again now and then, until the block has ended or another job has taken this one's place."""
    beat = 0
    while not ended.wait(HEARTBEAT_S):
        beat += 1
        with suppress(OSError):  # A full or vanished disk is for those to report who write what matters.
            other = record.read()
            if other and other.get("token") != token:
                logger.error("%s is of another job now, on %s; this one stops.", record.name, other.get("host"))
                request_stop()  # mirror.py refuses to push without the lease.
                return
            if other:
                record.write(_signature(token, beat))
