"""The log: short lines on the terminal, the same with the time of day in a file of the run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger("ddpm_jax")

_called: dict[str, str] = {}


class Lines(logging.Formatter):
    """Lines in which some folders go by another name."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for path, name in _called.items():
            text = text.replace(path, name)
        return text


class Terminal(logging.Handler):
    """Lines on standard error that go above a progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class LogFile(logging.FileHandler):
    """Lines at the end of a file."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Says nothing: on a full disk it is for those to report who write what matters."""


def start_log(file: Path | None = None) -> None:
    """Sends the package's messages to standard error and, where one is given, to the end of a file."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with suppress(OSError):  # A full disk.
            handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    # Orbax reports through two of these, with tracebacks, what it also raises; the third tells of each NaN it draws.
    for other in ("absl", "asyncio", "tensorboardX"):
        logging.getLogger(other).setLevel(logging.CRITICAL)
    terminal = Terminal()
    terminal.setFormatter(Lines())
    terminal.setLevel(logging.INFO)
    logger.addHandler(terminal)
    sys.unraisablehook = _unraisable
    if file is not None:
        written = LogFile(file)
        written.setFormatter(Lines("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(written)


def _unraisable(ignored: "sys.UnraisableHookArgs") -> None:
    """Errors that nobody can catch go to the file: Orbax's coroutines, which a full disk cut off, end with some."""
    logger.debug("Ignored in %r", ignored.object, exc_info=ignored.exc_value)


@contextmanager
def path_alias(path: str, name: str) -> Iterator[None]:
    """Has the log speak of a path, and of what lies under it, by another name: of a copy by its address."""
    _called[path] = name
    try:
        yield
    finally:
        del _called[path]


def quieten_log() -> None:
    """Lets only warnings through, in processes whose first one says the rest."""
    logger.setLevel(logging.WARNING)
