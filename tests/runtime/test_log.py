"""Where log lines go; a full disk writes nothing to the terminal."""

import errno
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_jax.runtime.log import start_log

logger = logging.getLogger("ddpm_jax")


@pytest.fixture(autouse=True)
def restored():
    yield
    start_log()


def test_the_terminal_shows_messages_and_the_file_also_details(tmp_path, capsys):
    start_log(tmp_path / "train.log")
    logger.info("hello")
    logger.debug("a detail")
    logger.warning("no disk")
    start_log()
    assert capsys.readouterr().err == "hello\nWarning: no disk\n"
    text = (tmp_path / "train.log").read_text()
    assert "INFO hello" in text and "DEBUG a detail" in text and "WARNING no disk" in text


def test_an_unwritable_log_file_writes_nothing_to_the_terminal(capsys):
    start_log(Path("/dev/full"))
    logger.info("hello")
    start_log()
    assert capsys.readouterr().err == "hello\n"


def test_a_closed_terminal_does_not_end_the_work(tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    start_log(tmp_path / "train.log")
    logger.info("hello")
    assert "INFO hello" in (tmp_path / "train.log").read_text()


def test_importing_the_package_leaves_logging_as_it_is():
    program = "import logging, ddpm_jax.runtime.log; raise SystemExit(not logging.raiseExceptions)"
    subprocess.run([sys.executable, "-c", program], check=True)
