"""Every way to end has its exit code, and every error that is not a bug is logged in one line."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from email.message import Message
from urllib.error import HTTPError, URLError

import pytest
from filelock import Timeout
from jax.errors import JaxRuntimeError
from PIL import UnidentifiedImageError

from ddpm_jax.errors import TrainingDiverged, UserError
from ddpm_jax.runtime.exit_codes import exit_code
from ddpm_jax.runtime.log import quieten_log, start_log
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("Set another seed."), 2),
        (TrainingDiverged("Training stopped at step 3."), 1),
        (OSError(errno.ENOSPC, "No space left on device", "/full"), 2),
        (OSError(errno.EFBIG, "File too large", "/limited"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone"), 2),
        (FileNotFoundError("Checkpoint structure file does not exist at\n/x."), 2),
        (shutil.Error([("/a", "/b", "Permission denied")]), 2),
        (UnidentifiedImageError("cannot identify image file"), 2),
        (HTTPError("https://x", 404, "Not Found", Message(), None), 2),
        (HTTPError("https://x", 503, "Service Unavailable", Message(), None), 3),
        (OSError(errno.ESTALE, "Stale file handle", "/shared"), 3),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 3),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 3),
        (OSError(errno.ECONNABORTED, "Software caused connection abort"), 3),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), 3),
        (OSError(errno.EHOSTUNREACH, "No route to host"), 3),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 3),
        (ConnectionError("the other side hung up"), 3),
        (TimeoutError(), 3),
        (Timeout("/x.lock"), 3),
        (URLError("timed out"), 3),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 2),
        (Stopped(signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_expected_error_is_one_line_with_its_exit_code(error, code, capsys):
    def fail():
        raise error

    assert exit_code(fail) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert "None" not in line and str(getattr(error, "filename", None) or "") in line
    if isinstance(error, OSError):
        assert line.endswith("; start again.") == (code == 3)
        assert ("space" in line) == (error.errno in (errno.ENOSPC, errno.EFBIG))


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL])
@pytest.mark.parametrize("logged", [False, True], ids=["terminal", "log file"])
def test_an_error_of_the_system_that_may_be_a_bug_keeps_its_traceback(number, logged, tmp_path, capsys):
    def fail():
        if logged:
            start_log(tmp_path / "log")
        raise OSError(number, "An odd error", "/closed")

    assert exit_code(fail) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("/closed: An odd error.\n")
    kept = (tmp_path / "log").read_text() if logged else printed
    assert "in fail" in kept and (not logged or printed.count("\n") == 1)


def test_a_lost_process_is_distinguished_from_a_bug(monkeypatch, capsys):
    errors = iter([JaxRuntimeError("UNKNOWN: Gloo: Connection closed by peer"), JaxRuntimeError("INTERNAL: a bug")])

    def fail():
        raise next(errors)

    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert exit_code(fail) == 3
    assert "Another process of this job was lost" in capsys.readouterr().err
    with pytest.raises(JaxRuntimeError, match="a bug"):
        exit_code(fail)


@pytest.mark.parametrize("error", [ValueError("a bug"), JaxRuntimeError("UNAVAILABLE: a bug")])
def test_a_bug_keeps_its_traceback(error):
    def fail():
        raise error

    with pytest.raises(type(error), match="a bug"):
        exit_code(fail)


LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from ddpm_jax.generation.pixel_file import PixelFile
from ddpm_jax.reporting.writer import TensorBoard
from ddpm_jax.runtime.exit_codes import exit_code
from ddpm_jax.runtime.files import save_array, staged
folder, zeros = Path(sys.argv[1]), np.zeros((1, 64, 64, 1), np.uint8)
def array():
    with staged(folder / "array.npy") as partial:
        save_array(partial, zeros[:, :20])  # Less than C's buffer.
def pixels():
    PixelFile(folder / "pixels.u8", (64, 64, 1)).append(zeros)
def events():
    TensorBoard(folder / "events", 0).text("long", "x" * 4096)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
sys.exit(str([exit_code(work) for work in (array, pixels, events)]))
"""


def test_a_limit_on_the_size_of_files_is_one_line_with_the_path(tmp_path):
    # Packages that TensorBoard's writer imports warn of old versions of Python.
    program = [sys.executable, "-W", "ignore::FutureWarning", "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True)
    *lines, codes = done.stderr.splitlines()
    assert codes == "[2, 2, 2]" and len(lines) == 3, done.stderr
    for name, line in zip(("array.npy", "pixels.u8", "events"), lines, strict=True):
        assert line.startswith(f"{tmp_path / name}: ") and "ulimit -f" in line


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_returned_exit_code_is_passed_on(returned, code):
    assert exit_code(lambda: returned) == code


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_logged_once_by_nested_commands_also_in_quiet_processes(number, quiet, capsys):
    def loop() -> None:
        if quiet:
            quieten_log()
        for _ in progress(range(2), "Work", "items", total=2):
            os.kill(os.getpid(), number)

    assert exit_code(lambda: exit_code(loop)) == 128 + number
    assert capsys.readouterr().err == f"Stopped by {number.name}.\n"
