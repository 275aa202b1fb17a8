"""The log: short lines on the terminal, and the same with times and details in a file of the run."""

import logging
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

NOTICE = 25
"""Level of messages that are no warnings, but that every process of a job shows."""

logger = logging.getLogger("ddpm_jax")
logging.addLevelName(NOTICE, "NOTICE")


class Terminal(logging.Handler):
    """Writes to standard error, above a progress bar if there is one, and marks warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "Warning: " if record.levelno == logging.WARNING else ""
        with suppress(OSError):  # A closed terminal.
            tqdm.write(mark + self.format(record), file=sys.stderr)


class LogFile(logging.FileHandler):
    """Appends to a file."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignores a full disk, which the code that writes the results reports."""


def start_log(file: Path | None = None) -> None:
    """Sends the package's messages to standard error and, where one is given, to the end of a file."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with suppress(OSError):  # A full disk.
            handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    # Two of these log, with tracebacks, what Orbax also raises; the third logs each NaN that it plots.
    for other in ("absl", "asyncio", "tensorboardX"):
        logging.getLogger(other).setLevel(logging.CRITICAL)
    terminal = Terminal()
    terminal.setLevel(logging.INFO)
    logger.addHandler(terminal)
    sys.unraisablehook = _unraisable
    if file is not None:
        log_file = LogFile(file)
        log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(log_file)


def has_log_file() -> bool:
    """Whether the package's messages also go to a file."""
    return any(isinstance(handler, LogFile) for handler in logger.handlers)


def _unraisable(ignored: "sys.UnraisableHookArgs") -> None:
    """Sends errors that no code can catch to the log file, such as those of Orbax's coroutines on a full disk."""
    logger.debug("Ignored in %r", ignored.object, exc_info=ignored.exc_value)


def quieten_log() -> None:
    """Logs notices and warnings only, for all processes of a job but the first."""
    logger.setLevel(NOTICE)
