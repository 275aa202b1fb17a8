"""The log: short lines on the terminal, the same with the time of day in a file of the run."""

import logging
import sys
from pathlib import Path

logger = logging.getLogger("ddpm_jax")


def start_log(file: Path | None = None) -> None:
    """Sends the package's messages to standard error and, where one is given, to the end of a file."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.INFO)
    logger.addHandler(terminal)
    if file is not None:
        written = logging.FileHandler(file)
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(written)
