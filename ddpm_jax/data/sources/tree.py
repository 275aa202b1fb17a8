"""Files below a folder or inside a zip, which is read in place and never unpacked, behind one interface."""

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

from ddpm_jax.errors import UserError, abbreviated

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""No image file is larger; a zip entry that claims or turns out to be is not read to its end."""


def open_tree(path: str | Path) -> "Tree":
    """The files of a folder or zip; raises UserError where there is neither."""
    path = Path(path).expanduser()
    if path.is_dir():
        return Folder(str(path))
    if path.is_file() and zipfile.is_zipfile(path):
        return Zip(str(path))
    if path.is_file():
        raise UserError(f"data.path={path} is not a zip, or an incomplete one, or a web page; fetch it again.")
    raise UserError(f"data.path={path} is not there; give a folder or a zip.")


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files below a folder, at any depth."""

    root: str
    names: Sequence[str] = dataclasses.field(init=False, repr=False)
    """Paths below the root, with slashes, in order; hidden files are left out."""

    def __post_init__(self) -> None:
        found, entered = [], set()
        for folder, folders, files in os.walk(self.root, onerror=_pass_over, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:  # A link to a folder above would go round for ever.
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = PurePosixPath(Path(folder).relative_to(self.root))
            found += [str(below / name) for name in files if not name.startswith(".")]
        object.__setattr__(self, "names", sorted(found))

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises OSError or ValueError."""
        path = os.path.join(self.root, name)
        if not os.path.isfile(path) and os.path.exists(path):
            raise OSError("it is no plain file")
        with open(path, "rb") as file:
            return _read_limited(file.read)

    def stamp(self, name: str) -> str:
        """Changes when the file does."""
        try:
            status = os.stat(os.path.join(self.root, name))
        except OSError as error:  # A link to nowhere: reading it will say so.
            return f"{error.strerror}"
        return f"{os.path.realpath(self.root)}:{status.st_size}:{status.st_mtime_ns}"


@dataclasses.dataclass(frozen=True)
class Zip:
    """The entries of a zip, at any depth."""

    root: str
    names: Sequence[str] = dataclasses.field(init=False, repr=False)
    entry_of: Mapping[str, str] = dataclasses.field(init=False, repr=False)
    """Name of each path in the zip."""
    version: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", os.stat(self.root).st_mtime_ns)
        entries = [entry for entry in self.archive.infolist() if not entry.is_dir()]
        outside = [entry.filename for entry in entries if {"", ".."} & set(re.split(r"[/\\]", entry.filename))]
        if outside:
            raise UserError(
                f"data.path={self.root} is not to be trusted: it holds entries that point outside of it "
                f"({abbreviated(outside)}); make it anew from its files."
            )
        plain = [e.filename for e in entries if stat.S_IFMT(e.external_attr >> 16) in FILE]
        entry_of = {name.replace("\\", "/"): name for name in plain}  # Some programs write Windows' separators.
        object.__setattr__(self, "entry_of", {name: entry_of[name] for name in entry_of if not _hidden(name)})
        object.__setattr__(self, "names", sorted(self.entry_of))

    @property
    def archive(self) -> zipfile.ZipFile:
        """Opened once in each process: an open zip cannot be sent to another."""
        return _archive(self.root, self.version)

    def read(self, name: str) -> bytes:
        """The bytes of an entry; raises OSError or ValueError."""
        try:
            with self.archive.open(self.entry_of[name]) as file:
                return _read_limited(file.read)
        except UNPACKING as error:
            raise OSError(f"the entry cannot be unpacked: {error}") from error

    def stamp(self, name: str) -> str:
        """Changes when the entry does."""
        entry = self.archive.getinfo(self.entry_of[name])
        return f"{entry.file_size}:{entry.CRC}"


Tree = Folder | Zip


@dataclasses.dataclass(frozen=True)
class TreeReader:
    """Images that are files of a tree, by their number."""

    tree: Tree
    names: Sequence[str]

    def __call__(self, number: int) -> bytes:
        return self.tree.read(self.names[number])


UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)
"""Exceptions of zipfile for entries that are damaged, encrypted, or packed by a method that Python does not know."""
FILE = (0, stat.S_IFREG)
"""Types of a plain file in a zip, 0 where it records none; a link's entry would hold a path."""


@lru_cache(maxsize=4)
def _archive(root: str, version: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(root)
    except (*UNPACKING, OSError) as error:
        raise UserError(f"data.path={root} cannot be read as a zip ({error}); fetch or make it again.") from error


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _read_limited(read: Callable[[int], bytes]) -> bytes:
    content = read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
    return content


def _pass_over(error: OSError) -> None:
    logger.warning("The folder %s is passed over: %s", error.filename, error.strerror)
