"""One interface to the files below a folder and inside a zip, which is read in place and never unpacked."""

import dataclasses
import logging
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, ClassVar

from ddpm_jax.data.decode import SUFFIXES
from ddpm_jax.errors import UserError, abbreviated, printable

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""Larger files are refused, so that a zip bomb cannot exhaust the memory."""
HEAD = 32
"""Bytes by which a format is recognised."""
SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF....WEBP|....ftypavi[fs]|\0\0\0\x0cjP  ", re.DOTALL
)
"""First bytes of images, for files without a suffix."""
ARCHIVES = re.compile(r"\.(tar|t[bglx]z2?|gz|bz2|xz|zst|lzma|7z|rar)(\.\d+)?$", re.IGNORECASE)


def open_tree(path: str | Path) -> "Tree":
    """The files of a folder or zip; raises UserError for any other path."""
    path = Path(path).expanduser()
    if path.is_dir():
        return Folder(str(path))
    if path.is_file() and zipfile.is_zipfile(path):
        return Zip(str(path))
    if path.is_file() and ARCHIVES.search(path.name):
        raise UserError(f"data.path={path} is an archive that cannot be read in place; unpack it, and give its folder.")
    if path.is_file() and _is_image(path):
        raise UserError(f"data.path={path} is one image; give its folder.")
    if path.is_file():
        raise UserError(f"data.path={path} is not a complete zip (or is a web page); download it again.")
    place = "" if path.is_absolute() else f" in {Path.cwd()}"  # A run may resume in another folder.
    raise UserError(f"data.path={path} does not exist{place}; give a folder or a zip.")


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files below a folder, at any depth."""

    fingerprint_kind: ClassVar[str] = "file sizes"
    root: str
    real_root: str = dataclasses.field(init=False, repr=False)
    """Absolute path of the root without links."""
    names: Sequence[str] = dataclasses.field(init=False, repr=False)
    """Sorted paths relative to the root, with slashes, without hidden files."""
    hidden: Sequence[str] = dataclasses.field(init=False, repr=False)
    """Hidden files, and hidden folders with a slash at the end."""

    def __post_init__(self) -> None:
        found, hidden = [], []
        above: dict[str, frozenset[tuple[int, int]]] = {}
        for folder, folders, files in os.walk(self.root, onerror=_warn_of_folder, followlinks=True):
            status = os.stat(folder)
            own, parents = (status.st_dev, status.st_ino), above.get(os.path.dirname(folder), frozenset())
            if own in parents:  # A link to a parent folder would never end.
                folders.clear()
                continue
            above[folder] = parents | {own}
            below = PurePosixPath(Path(folder).relative_to(self.root))
            hidden += [f"{below / name}/" for name in folders if is_hidden(name)]
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            for name in files:
                (hidden if is_hidden(name) else found).append(str(below / name))
        object.__setattr__(self, "real_root", os.path.realpath(self.root))
        object.__setattr__(self, "names", sorted(found))
        object.__setattr__(self, "hidden", sorted(hidden))

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises OSError or ValueError."""
        with self._open(name) as file:
            return _read_limited(file.read)

    def head(self, name: str) -> bytes:
        """The first bytes of a file; none if it cannot be read."""
        try:
            with self._open(name) as file:
                return file.read(HEAD)
        except OSError:
            return b""

    def _open(self, name: str) -> BinaryIO:
        path = os.path.join(self.root, name)
        if not os.path.isfile(path) and os.path.exists(path):
            raise OSError("it is not a regular file")
        return open(path, "rb")

    def stamp(self, name: str) -> str:
        """A string that changes whenever the file does."""
        try:
            status = os.stat(os.path.join(self.root, name))
        except OSError as error:  # A broken link; `read` will raise.
            return f"{error.strerror}"
        return f"{self.real_root}:{status.st_size}:{status.st_mtime_ns}"

    def fingerprint(self, name: str) -> str:
        """The size of a file, which a copy shares."""
        try:
            return str(os.stat(os.path.join(self.root, name)).st_size)
        except OSError as error:
            return f"{error.strerror}"


@dataclasses.dataclass(frozen=True)
class Zip:
    """The entries of a zip, at any depth."""

    fingerprint_kind: ClassVar[str] = "checksums in the zip"
    root: str
    names: Sequence[str] = dataclasses.field(init=False, repr=False)
    hidden: Sequence[str] = dataclasses.field(init=False, repr=False)
    entry_of: Mapping[str, str] = dataclasses.field(init=False, repr=False)
    """The zip's own name for each path."""
    version: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", os.stat(self.root).st_mtime_ns)
        entries = [entry for entry in self.archive.infolist() if not entry.is_dir()]
        outside = [entry.filename for entry in entries if {"", ".."} & set(re.split(r"[/\\]", entry.filename))]
        if outside:
            raise UserError(
                f"data.path={self.root} is not to be trusted: it contains entries that point outside of it "
                f"({abbreviated(outside)}); create it again from its files."
            )
        plain = [e.filename for e in entries if stat.S_IFMT(e.external_attr >> 16) in FILE]
        entry_of = {name.replace("\\", "/"): name for name in plain}  # Some programs write Windows separators.
        object.__setattr__(self, "entry_of", {name: entry_of[name] for name in entry_of if not is_hidden(name)})
        object.__setattr__(self, "names", sorted(self.entry_of))
        object.__setattr__(self, "hidden", sorted(entry_of.keys() - self.entry_of.keys()))

    @property
    def archive(self) -> zipfile.ZipFile:
        """The open zip; every process opens its own, since an open zip cannot be pickled."""
        return _archive(self.root, self.version)

    def read(self, name: str) -> bytes:
        """The bytes of an entry; raises OSError or ValueError."""
        try:
            with self.archive.open(self.entry_of[name]) as file:
                return _read_limited(file.read)
        except UNPACKING as error:
            raise OSError(f"the entry cannot be unpacked: {error}") from error

    def head(self, name: str) -> bytes:
        """The first bytes of an entry; none if it cannot be unpacked."""
        try:
            with self.archive.open(self.entry_of[name]) as file:
                return file.read(HEAD)
        except (*UNPACKING, OSError):
            return b""

    def stamp(self, name: str) -> str:
        """A string that changes whenever the entry does: its size and checksum."""
        entry = self.archive.getinfo(self.entry_of[name])
        return f"{entry.file_size}:{entry.CRC}"

    fingerprint = stamp


Tree = Folder | Zip


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix.lower() in SUFFIXES or SIGNATURES.match(file.read(HEAD)) is not None


@dataclasses.dataclass(frozen=True)
class TreeReader:
    """Reads images, which are files of a tree, by their number."""

    tree: Tree
    names: Sequence[str]

    def __call__(self, number: int) -> bytes:
        return self.tree.read(self.names[number])

    def stamp(self, number: int) -> str:
        """A string that changes whenever the image or its name does."""
        return f"{self.names[number]}:{self.tree.stamp(self.names[number])}"

    def fingerprint(self, number: int) -> str:
        """The size or checksum of the image, without reading it."""
        return self.tree.fingerprint(self.names[number])


UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)
"""Exceptions of zipfile for entries that are damaged, encrypted, or compressed by an unsupported method."""
FILE = (0, stat.S_IFREG)
"""File types that are read from a zip, 0 if it records none; the content of a link would be a path."""


@lru_cache(maxsize=4)
def _archive(root: str, version: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(root)
    except (*UNPACKING, OSError) as error:
        raise UserError(f"data.path={root} cannot be read as a zip ({error}); download or create it again.") from error


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or lies in a hidden folder or that of macOS."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _read_limited(read: Callable[[int], bytes]) -> bytes:
    content = read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
    return content


def _warn_of_folder(error: OSError) -> None:
    logger.warning("Skipping the folder %s: %s", printable(str(error.filename)), error.strerror)
