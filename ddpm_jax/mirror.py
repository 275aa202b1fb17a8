"""Folders at an address, such as gs://bucket/runs/x: worked on in a copy on this machine, which is kept up there.

An object store knows no renaming, no adding to a file and no locks, on which workdirs and caches rely. So one works in
a copy: what is there is fetched first, and what changes here goes there while the work goes on, each file whole. The
file that vouches for others (a checkpoint's checksums) goes last, and first when they are deleted, so whoever reads
there finds complete things or none. Of two copies that went apart, what is there counts.

fsspec knows the stores; each has a package of its own (requirements-cloud.txt). Next door: workdir.py, data/cache.py.
"""

import dataclasses
import errno
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.files import replacing
from ddpm_jax.locks import leased, parse_signature
from ddpm_jax.reporting.console import call
from ddpm_jax.stopping import deferred

EVERY = 30.0
"""Seconds between two looks at what has changed here."""
ATTEMPTS = 4
"""To bring there what is left at the end, and to read what changes meanwhile."""
PAUSE = 1.0
"""Seconds before the second attempt; twice as many before each later one."""
KNOWN = ".mirror.json"
OF_HERE = re.compile(r"\.lock$|\.unfinished$|\.orbax-checkpoint-tmp|(^|/)\.mirror\.json$")
"""What never goes there: locks, and what has not got its name yet."""
VERSIONS = ("generation", "etag", "ETag", "md5", "mtime", "last_modified", "LastModified", "created")
"""What stores call that which changes whenever a file does."""

logger = logging.getLogger(__name__)


def is_address(path: str | Path | None) -> bool:
    """Whether this is an address of a store rather than a path."""
    return isinstance(path, str) and "://" in path


@dataclasses.dataclass(frozen=True)
class Known:
    """How a file was when it was the same here and there."""

    there: str
    size: int
    changed: int
    """Here, in ns."""


class Mirror:
    """A folder at an address, and its copy in `folder`. Raises UserError where the store cannot be used at all.

    seal: the name of the file that vouches for others beside and below it. mine: the folders of which this job deletes
    there what it deleted here; ready: whether a file may go there yet.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        *,
        seal: str,
        mine: tuple[str, ...] = (),
        ready: Callable[[str], bool] = lambda name: True,
    ) -> None:
        self.address, self.folder = address.rstrip("/"), folder
        self._seal, self._mine, self._ready = seal, mine, ready
        self._store, self._root = _open(self.address)
        self._turn = threading.Lock()
        self._known = _read_known(folder / KNOWN)
        try:
            self._list()
        except OSError as error:
            raise UserError(
                f"{self.address} cannot be opened ({error.strerror}); see that it exists and that you may read and "
                "write there (docs/cloud.md)."
            ) from error

    def fetch(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Makes what lies here what lies there, of the names that are wanted.

        What changed only here since the two were last the same stays: it is on its way there. Raises OSError.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            there = {name: version for name, version in self._list().items() if wanted(name)}
            self._forget(there, wanted)
            try:
                for name in sorted(there, key=self._last):
                    self._fetch_file(name, there[name])
            except FileNotFoundError:  # Deleted meanwhile, by the job whose workdir it is.
                continue
            finally:
                self._remember()
            return
        raise OSError(errno.EIO, "it changes faster than it can be read", self.address)

    def push(self, under: str = "", *, all_of_it: bool = False) -> None:
        """Brings there what changed here, under a name; all_of_it: with what is still being built. Raises OSError."""
        with self._turn:
            here = self._here(under)
            gone = [name for name in self._known if name not in here and self._is_mine(name)]
            try:
                for name in sorted(here, key=self._last):
                    if self._ready(name) and (all_of_it or "/." not in f"/{name}"):
                        self._push_file(name)
                for name in sorted(gone, key=self._last, reverse=True):
                    with self._asking(), suppress(FileNotFoundError):
                        self._store.rm_file(self._at(name))
                    del self._known[name]
            finally:
                self._remember()

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Brings there what changes here while the block runs, and the rest after it, however it ends."""
        ended = threading.Event()
        going_on = threading.Thread(target=self._go_on, args=(ended,), name="mirror", daemon=True)
        going_on.start()
        try:
            yield
        finally:
            with deferred(lambda number: logger.info("Asked to stop: bringing the rest to %s first.", self.address)):
                ended.set()
                going_on.join()
                self._push_rest()

    @contextmanager
    def leased(self, name: str, busy: Callable[[], None], beside: str) -> Iterator[None]:
        """Holds a lock file there while the block runs (locks.py)."""
        with leased(_LockThere(self, name), busy, beside):
            yield

    def _go_on(self, ended: threading.Event) -> None:
        told = False
        while not ended.wait(EVERY):
            try:
                self.push()
                told = False
            except OSError as error:
                if not told:
                    logger.warning("%s cannot be written (%s); trying again.", self.address, error.strerror)
                told = True

    def _push_rest(self) -> None:
        for attempt in range(ATTEMPTS):
            try:
                return self.push(all_of_it=True)
            except OSError as error:
                if attempt == ATTEMPTS - 1:
                    logger.error("What is not in %s yet lies in %s.", self.address, self.folder)
                    raise
                logger.warning("%s cannot be written (%s); trying again.", self.address, error.strerror)
            time.sleep(PAUSE * 2**attempt)

    def _fetch_file(self, name: str, version: str) -> None:
        path, known = self.folder / name, self._known.get(name)
        if known and known.there == version and path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished, self._asking():
            self._store.get_file(self._at(name), str(unfinished))
        self._know(name, version, path.stat())

    def _push_file(self, name: str) -> None:
        path = self.folder / name
        try:
            before, known = path.stat(), self._known.get(name)
            if known and (known.size, known.changed) == (before.st_size, before.st_mtime_ns):
                return
            with self._asking():
                self._store.put_file(str(path), self._at(name))
                info = self._store.info(self._at(name))
            if info["size"] != before.st_size and path.stat() == before:
                raise OSError(errno.EIO, f"of {before.st_size} bytes {info['size']} arrived", self._at(name))
        except FileNotFoundError:
            if path.exists():
                raise OSError(errno.EIO, "it is not there", self._at(name)) from None
            return  # Deleted meanwhile. Nothing vouches for what was beside it.
        self._know(name, _version(info), before)

    def _list(self) -> dict[str, str]:
        """The files there, and a text for each that changes whenever the file does."""
        with self._asking():
            self._store.invalidate_cache()
            found = self._store.find(self._root, detail=True)
        inside = ((path, info) for path, info in found.items() if path.startswith(f"{self._root}/"))
        names = {str(PurePosixPath(path).relative_to(self._root)): _version(info) for path, info in inside}
        return {n: version for n, version in names.items() if not OF_HERE.search(n) and ".." not in n.split("/")}

    def _here(self, under: str = "") -> list[str]:
        top = self.folder / under
        paths = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
        names = (path.relative_to(self.folder).as_posix() for path in paths)
        return [name for name in names if not OF_HERE.search(name)]

    def _forget(self, there: Mapping[str, str], wanted: Callable[[str], bool]) -> None:
        """Deletes here what was deleted there; where another job did this one's work, also what never came there."""
        known = {name: known.there for name, known in self._known.items()}
        overtaken = self._of_mine(there) != self._of_mine(known)
        for name in self._here():
            if wanted(name) and name not in there and (name in known or overtaken):
                (self.folder / name).unlink(missing_ok=True)
                self._known.pop(name, None)

    def _of_mine(self, names: Mapping[str, str]) -> dict[str, str]:
        return {name: version for name, version in names.items() if self._is_mine(name)}

    def _is_mine(self, name: str) -> bool:
        return name.partition("/")[0] in self._mine

    def _last(self, name: str) -> bool:
        return name.rpartition("/")[2] == self._seal

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _know(self, name: str, version: str, here: os.stat_result) -> None:
        self._known[name] = Known(version, here.st_size, here.st_mtime_ns)

    def _remember(self) -> None:
        with replacing(self.folder / KNOWN) as unfinished:
            table = {name: dataclasses.astuple(known) for name, known in self._known.items()}
            unfinished.write_text(json.dumps(table))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns what a store's library raises into an OSError with the address; FileNotFoundError stays as it is."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # Each library has errors of its own, and this is all that is asked of it here.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(errno.EIO, reason, self.address) from error


class _LockThere:
    """A file at an address that jobs sign (locks.Sheet)."""

    def __init__(self, mirror: Mirror, name: str) -> None:
        self._mirror, self.name, self._path = mirror, f"{mirror.address}/{name}", mirror._at(name)

    def read(self) -> dict[str, Any] | None:
        try:
            with self._mirror._asking():
                return parse_signature(self._mirror._store.cat_file(self._path))
        except FileNotFoundError:
            return None

    def write(self, signature: dict[str, Any]) -> None:
        try:
            with self._mirror._asking():
                self._mirror._store.pipe_file(self._path, json.dumps(signature).encode())
        except FileNotFoundError as error:
            raise UserError(f"{self._mirror.address} cannot be written; see that it exists (docs/cloud.md).") from error

    def remove(self) -> None:
        with self._mirror._asking():
            self._mirror._store.rm_file(self._path)


def copy_of(address: str, top: Path) -> Path:
    """The folder under `top` that an address is copied to; the log speaks of it by its address."""
    scheme, _, rest = address.rstrip("/").partition("://")
    parts = rest.split("/")
    if not re.fullmatch("[a-z][a-z0-9]*", scheme) or not rest or "" in parts[1:] or {".", ".."} & set(parts):
        raise UserError(f"{address} is no address of a folder; expected one such as gs://bucket/runs/x.")
    stores = f"{top / scheme}/"  # Without a colon, which epath would take for an address again.
    call(stores, f"{scheme}://" + rest[: len(rest) - len(rest.lstrip("/"))])
    return Path(stores) / rest.lstrip("/")


def _open(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path on it."""
    import fsspec.core  # The stores' packages are extras.

    local = {"auto_mkdir": True} if address.startswith("file:") else {}
    try:
        store, root = fsspec.core.url_to_fs(address, **local)
    except ImportError as error:
        raise UserError(f"{address} needs a package: pip install -r requirements-cloud.txt ({error}).") from error
    except ValueError as error:
        raise UserError(f"{address} cannot be used ({error}); expected a folder, or gs://bucket/folder.") from error
    return store, root.rstrip("/")


def _read_known(path: Path) -> dict[str, Known]:
    try:
        return {name: Known(*values) for name, values in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, AttributeError, TypeError, ValueError) as error:
        logger.warning("%s is damaged, so everything is fetched again: %s", path, error)
        return {}


def _version(info: Mapping[str, Any]) -> str:
    return " ".join(str(info[name]) for name in ("size", *VERSIONS) if name in info)
