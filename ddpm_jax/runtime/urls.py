"""Folders at URLs such as gs://bucket/runs/x, as etils.epath reads and writes them.

An object store has no folders, no renaming, no appending and no locks. So what is written at once is uploaded as whole
files (`uploaded`), and what grows is kept on this machine and uploaded again and again (`local_folder`). Checkpoints
are written by Orbax itself (training/sealed_trees.py).

Ask exists() of a URL: is_dir() and is_file() answer False while its store cannot be reached.
"""

import errno
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from etils import epath
from fsspec.config import conf
from fsspec.core import url_to_fs

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.signals import deferred

UPLOAD_EVERY_S = 30.0
"""Seconds between two uploads of files that grow."""
SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""The stores that epath knows, and the package that each needs."""
LIBRARIES = re.compile(
    r"(gcsfs|s3fs|adlfs|aiohttp|botocore|aiobotocore|azure|requests|google\.(auth|api_core|cloud))\b"
)
"""Modules whose exceptions come from a store."""
DENIED = re.compile(r"Forbidden|AccessDenied|[Cc]redentials|PERMISSION_DENIED|UNAUTHENTICATED|Anonymous")
"""Words in the answer of a store to those who may not use it."""
STATUSES = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL|UNKNOWN|DATA_LOSS|RESOURCE_EXHAUSTED|PERMISSION_DENIED|"
    r"UNAUTHENTICATED): .*gs://",
    re.DOTALL,
)
"""How TensorStore reports errors of a store, as ValueError."""

AnyPath = Path | epath.Path
"""A path on this machine (Path), or a URL (epath.Path)."""

logger = logging.getLogger(__name__)

# TensorFlow, where it is installed, would be imported for its own access to stores.
os.environ.setdefault("EPATH_USE_TF", "false")
for _protocol in ("gcs", "s3", "abfs"):  # Other processes write there, too.
    conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)
for _library in ("fsspec", "gcsfs", "s3fs", "adlfs", "azure", "google"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)  # What they log, they also raise.


def is_url(path: str | None) -> bool:
    """Whether this is a URL rather than a path on this machine; raises UserError for one that is mistyped."""
    if path and re.match("[a-z0-9]{2,}:/[^/]", path):
        raise UserError(f"{path} is neither a folder nor a URL; did you mean {path.replace(':/', '://', 1)}?")
    return path is not None and "://" in path


def as_path(path: str, name: str) -> AnyPath:
    """A folder on this machine as an absolute path, or a URL; it need not exist (`check_folder`).

    name: of the flag or field, for messages. Raises UserError for what cannot be used.
    """
    if is_url(path):
        return as_url(path)
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{name}={path!r} cannot be a folder ({error}); choose another.") from error


def local_file(path: str, name: str) -> Path:
    """A file or folder that must be on this machine; name: of the field. Raises UserError for a URL."""
    if is_url(path):
        raise UserError(f"{name}={path} is a URL; copy it to this machine, and give the copy.")
    return Path(path).expanduser()


def as_url(url: str) -> epath.Path:
    """A URL as a path; raises UserError for one that cannot be used. It asks no store."""
    scheme, _, rest = url.partition("://")
    rest = rest.rstrip("/")
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise UserError(f"{url} has an unknown scheme; expected a folder, or a URL that begins with {known}.")
    if "/" not in rest or {"", ".", ".."} & set(rest.split("/")):
        raise UserError(f"{url} names no folder in a bucket; expected one such as {scheme}://bucket/runs/x.")
    return epath.Path(f"{scheme}://{rest}")


def check_folder(url: AnyPath) -> None:
    """Raises UserError for a URL that is a file, or whose bucket is missing or denied.

    Raises OSError if the store does not answer.
    """
    if isinstance(url, Path):
        return
    scheme = str(url).partition("://")[0]
    with store_errors(url):
        try:
            files, root = filesystem(url)
        except ImportError as error:
            package = SCHEMES[scheme]
            raise UserError(f"{url} needs the package {package}: pip install {package}") from error
        try:
            if files.isfile(root):
                raise UserError(f"{url} is a file; give a folder.")
            files.ls(root)
        except FileNotFoundError:
            bucket = root.partition("/")[0]
            try:
                files.ls(bucket)
            except FileNotFoundError as error:
                raise UserError(f"{url}: there is no bucket {bucket}; create it, or correct its name.") from error


def filesystem(path: epath.Path) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path on it."""
    return url_to_fs(str(path))


@contextmanager
def store_errors(url: object) -> Iterator[None]:
    """Turns errors of storage libraries into a UserError (no permission) or OSError (EIO) with the URL."""
    try:
        yield
    except Exception as error:
        if (found := as_store_error(error, url)) is None:
            raise
        raise found from error


def as_store_error(error: Exception, url: object) -> UserError | OSError | None:
    """An error of a store in one line; None for other errors, and for those of files that are missing."""
    from_library = LIBRARIES.match(type(error).__module__) is not None
    from_tensorstore = isinstance(error, ValueError) and STATUSES.search(str(error)) is not None
    # s3fs and gcsfs raise the system's classes for these; errors of disks have a number.
    numberless = isinstance(error, OSError) and error.errno is None
    denied = numberless and (isinstance(error, PermissionError) or str(error).startswith("Forbidden"))
    if not (from_library or from_tensorstore or denied) or isinstance(error, FileNotFoundError):
        return None
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if denied or getattr(error, "code", None) in (401, 403) or DENIED.search(reason):
        return UserError(f"{url}: {reason}; see that you are logged in and may read and write there (docs/cloud.md).")
    return OSError(errno.EIO, reason, str(url))


def names_in(folder: AnyPath) -> list[str]:
    """The names in a folder, sorted; none if it does not exist."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_tree(folder: AnyPath) -> None:
    """Removes a folder with all that it holds, if it exists."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.rmtree(missing_ok=True)


def files_below(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """A store's facts about each file below a URL, by its name relative to that."""
    files, root = filesystem(folder)
    found = files.find(root, detail=True)
    # Consoles and mounts leave markers of folders, whose names end in a slash.
    return {path[len(root) + 1 :]: about for path, about in found.items() if not path.endswith("/") and path != root}


def upload(names: Iterable[str], folder: Path, target: epath.Path) -> None:
    """Uploads files by their names relative to a folder, each whole."""
    files, root = filesystem(target)
    if names := list(names):
        files.put([str(folder / name) for name in names], [f"{root}/{name}" for name in names])


def download(names: Iterable[str], source: epath.Path, folder: Path) -> None:
    """Downloads files by their names relative to a URL; raises FileNotFoundError if one is gone."""
    files, root = filesystem(source)
    if names := list(names):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.get([f"{root}/{name}" for name in names], [str(folder / name) for name in names])


@contextmanager
def uploaded(target: epath.Path, *, folder: bool = False) -> Iterator[Path]:
    """Yields a path on this machine, whose file or folder is uploaded when the block succeeds.

    A file appears at once. Those of a folder appear one by one, then older ones are deleted; a signal to stop waits for
    that.
    """
    with TemporaryDirectory(prefix="ddpm_jax-") as top:
        partial = Path(top) / target.name
        if folder:
            partial.mkdir()
        yield partial
        with deferred(), store_errors(target):
            if not folder:
                upload([target.name], Path(top), target.parent)
                return
            before, names = files_below(target), files_in(partial)
            upload(names, partial, target)
            for name in before.keys() - set(names):
                (target / name).unlink(missing_ok=True)


class LocalFolder:
    """A folder on this machine for files that grow, and the URL to which they are uploaded whole."""

    def __init__(self, path: Path, target: epath.Path | None) -> None:
        """target: None where the folder is the target itself, so that there is nothing to upload."""
        self.path, self._target = path, target
        self._sent: dict[str, tuple[int, int]] = {}
        self._uploading = threading.Lock()

    def fetch(self, name: str) -> None:
        """Downloads a file if it exists, or all files ("*")."""
        if self._target is None:
            return
        with store_errors(self._target):
            names = files_below(self._target) if name == "*" else [name] if (self._target / name).exists() else []
            download(names, self._target, self.path)
        self._sent = self._stamps()

    def upload(self) -> None:
        """Uploads files that changed since the last call, and deletes those that were removed here."""
        if self._target is None:
            return
        with self._uploading, store_errors(self._target), TemporaryDirectory(prefix="ddpm_jax-") as copies:
            stamps, changed = self._stamps(), []
            for name in (name for name, stamp in stamps.items() if self._sent.get(name) != stamp):
                copy = Path(copies) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # Removed meanwhile.
                    shutil.copyfile(self.path / name, copy)  # A file that grows during an upload makes it fail.
                    changed.append(name)
            upload(changed, Path(copies), self._target)
            for name in self._sent.keys() - stamps.keys():
                (self._target / name).unlink(missing_ok=True)
            self._sent = stamps

    def upload_periodically(self, ended: threading.Event, every: float) -> None:
        """Uploads every so many seconds until the work has ended; logs once that the URL cannot be written."""
        failing = False
        while not ended.wait(every):
            try:
                self.upload()
                if failing:
                    logger.info("%s can be written again.", self._target)
                failing = False
            except (OSError, UserError) as error:
                if not failing:
                    logger.warning("%s cannot be written (%s); trying again.", self._target, _reason(error))
                failing = True

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file, which tell whether it changed."""
        stamps = {}
        for name in files_in(self.path):
            with suppress(FileNotFoundError):
                status = (self.path / name).stat()
                stamps[name] = (status.st_size, status.st_mtime_ns)
        return stamps


@contextmanager
def local_folder(target: AnyPath, fetch: str | None = None, *, every: float = UPLOAD_EVERY_S) -> Iterator[LocalFolder]:
    """The target itself or, for a URL, a folder on this machine that is uploaded there.

    Files that changed are uploaded every so many seconds and when the block ends, however it ends. fetch: the name of a
    file to download first, if it exists, or "*" for all.
    Raises OSError if the last upload fails; then the folder stays, and the message names it.
    """
    if isinstance(target, Path):
        yield LocalFolder(target, None)
        return
    folder = LocalFolder(Path(mkdtemp(prefix="ddpm_jax-")) / target.name, target)
    folder.path.mkdir()
    try:
        if fetch is not None:
            folder.fetch(fetch)
    except BaseException:
        shutil.rmtree(folder.path.parent, ignore_errors=True)
        raise
    ended = threading.Event()
    thread = threading.Thread(target=folder.upload_periodically, args=(ended, every), name="upload", daemon=True)
    thread.start()
    try:
        yield folder
    finally:
        raised = sys.exc_info()[1]
        with deferred():
            ended.set()
            thread.join()
            try:
                if isinstance(raised, OSError) and raised.errno == errno.EIO:
                    raise raised  # The store, most likely, which to ask again would take half a minute.
                folder.upload()
                shutil.rmtree(folder.path.parent, ignore_errors=True)
            except (OSError, UserError) as error:
                reason = f"{_reason(error)}; files that were not uploaded are in {folder.path}"
                if raised is None:
                    raise OSError(errno.EIO, reason, str(target)) from error
                logger.error("%s: %s", target, reason)


def files_in(folder: Path) -> list[str]:
    """The names of all files below a folder on this machine, relative to it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
