"""Every way to end has its exit code, and every error that is not a bug is logged in one line."""

import errno
import os
import signal

import pytest
from jax.errors import JaxRuntimeError

from ddpm_jax.errors import TrainingDiverged, UserError
from ddpm_jax.runtime.exit_codes import exit_code
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.signals import Stopped


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("Set another seed."), 2),
        (TrainingDiverged("Training stopped at step 3."), 1),
        (OSError(errno.ENOSPC, "No space left on device", "/full"), 2),
        (OSError(errno.ESTALE, "Stale file handle", "/shared"), 3),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 2),
        (Stopped(signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_expected_error_is_one_line_with_its_exit_code(error, code, capsys):
    def fail():
        raise error

    assert exit_code(fail) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_lost_process_is_distinguished_from_a_bug(monkeypatch, capsys):
    errors = iter([JaxRuntimeError("UNKNOWN: Gloo: Connection closed by peer"), JaxRuntimeError("INTERNAL: a bug")])

    def fail():
        raise next(errors)

    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert exit_code(fail) == 3
    assert "Another process of this job was lost" in capsys.readouterr().err
    with pytest.raises(JaxRuntimeError, match="a bug"):
        exit_code(fail)


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "a bug"), JaxRuntimeError("UNAVAILABLE: a bug")])
def test_a_bug_keeps_its_traceback(error):
    def fail():
        raise error

    with pytest.raises(type(error), match="a bug"):
        exit_code(fail)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_returned_exit_code_is_passed_on(returned, code):
    assert exit_code(lambda: returned) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_logged_once_by_nested_commands(number, capsys):
    def loop() -> None:
        for _ in progress(range(2), "Work", total=2):
            os.kill(os.getpid(), number)

    assert exit_code(lambda: exit_code(loop)) == 128 + number
    assert capsys.readouterr().err == f"Stopped by {number.name}.\n"
