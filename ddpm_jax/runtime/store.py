"""What lies at an address such as gs://bucket/runs/x: files that are read, written and deleted whole.

fsspec knows the stores; each has a package of its own (requirements-cloud.txt). An object store has no folders, no
renaming and no adding to a file, so nothing is worked on there: mirror.py and data/cache.py copy.
"""

import errno
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import staged

OF_THIS_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
MAY_NOT = re.compile(r"Forbidden|AccessDenied|Access Denied|[Pp]ermission|\b40[13]\b")
"""In what stores answer to those who may not."""


def is_url(path: str | None) -> bool:
    """Whether this is an address of a store rather than a path; raises UserError for one that is mistyped."""
    if path and re.match("[a-z0-9]{2,}:/[^/]", path):
        raise UserError(f"{path} is neither a folder nor an address; did you mean {path.replace(':/', '://', 1)}?")
    return path is not None and "://" in path


class Store:
    """The files below an address, by their names relative to it.

    Raises UserError where the store cannot be used at all, and OSError (EIO) where it fails later.
    """

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.rstrip("/").partition("://")
        parts = rest.split("/")
        if not re.fullmatch("[a-z][a-z0-9]*", scheme) or not rest or "" in parts[1:] or {".", ".."} & set(parts):
            raise UserError(f"{address} is no address of a folder; expected one such as gs://bucket/runs/x.")
        if scheme == "memory" or (scheme == "file" and not rest.startswith("/")):
            raise UserError(f"{address} outlives no job; expected gs://bucket/runs/x, or file:///runs/x to try it.")
        self.address, self.place = f"{scheme}://{rest}", rest.lstrip("/")
        for library in ("gcsfs", "s3fs", "adlfs", "azure"):
            logging.getLogger(library).setLevel(logging.CRITICAL)  # What they report, they also raise.
        self._files, self._root = _open(self.address)
        try:
            self.sizes()
        except OSError as error:  # FileNotFoundError, too: there is no such bucket.
            raise UserError(
                f"{address} cannot be opened ({error.strerror or error}); see that it exists and that you may read and "
                "write there (docs/cloud.md)."
            ) from error

    def sizes(self, under: str = "") -> dict[str, int]:
        """The sizes in bytes of all files below a folder."""
        with self._asking():
            self._files.invalidate_cache()
            found = self._files.find(self._at(under), detail=True)
            files = {path[len(self._root) + 1 :]: int(info["size"] or 0) for path, info in found.items()}
        # Consoles and mounts leave markers of folders, whose names end in a slash.
        return {name: size for name, size in files.items() if _is_plain(name)}

    def get(self, names: Iterable[str], folder: Path) -> None:
        """Brings files here, each whole; raises FileNotFoundError if one is gone."""
        wanted = list(names)
        for name in wanted:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as staging:
            partial = [str(staging.enter_context(staged(folder / name))) for name in wanted]
            if wanted:
                with self._asking():
                    self._files.get([self._at(name) for name in wanted], partial)

    def put(self, names: Iterable[str], folder: Path) -> None:
        """Brings files there."""
        if wanted := list(names):
            with self._asking():
                self._files.put([str(folder / name) for name in wanted], [self._at(name) for name in wanted])

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files there; those that are gone are no matter."""
        for name in names:
            try:
                with self._asking():
                    self._files.rm_file(self._at(name))
            except FileNotFoundError:
                pass

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns what a store's library raises into an OSError with the address; FileNotFoundError stays as it is."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # Each library has errors of its own, and no more than one call of it is in here.
            if isinstance(error, OSError) and error.errno in OF_THIS_MACHINE:
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, PermissionError) or MAY_NOT.search(reason):
                raise UserError(f"{self.address}: {reason}; see that you may read and write there.") from error
            raise OSError(errno.EIO, reason, self.address) from error


def _open(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path on it."""
    import fsspec.core  # Here, since most runs do without.

    local = {"auto_mkdir": True} if address.startswith("file:") else {}
    try:
        files, root = fsspec.core.url_to_fs(address, **local)
    except ImportError as error:
        raise UserError(f"{address} needs a package: pip install -r requirements-cloud.txt ({error}).") from error
    except ValueError as error:
        raise UserError(f"{address} cannot be used ({error}); expected a folder, or gs://bucket/folder.") from error
    return files, root.rstrip("/")


def _is_plain(name: str) -> bool:
    """Whether a name, put behind a folder's, is that of a file in it."""
    path = PurePosixPath(name)
    return bool(name) and path.as_posix() == name and ".." not in path.parts and not path.is_absolute()
