"""How a command ends: one line that names the error, and an exit code.

0      success
1      training diverged, or a bug, with its traceback
2      an error that the user can fix
3      a machine failed (another process of the job, the network, a network disk): starting again may help
129    stopped by SIGHUP
130    stopped by SIGINT
138    stopped by SIGUSR1 (158 on macOS)
143    stopped by SIGTERM
"""

import errno
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn
from urllib.error import HTTPError, URLError

import jax
from jax.errors import JaxRuntimeError

from ddpm_jax.errors import TrainingDiverged, UserError
from ddpm_jax.runtime.files import DISK_REMEDIES
from ddpm_jax.runtime.log import NOTICE, has_log_file, start_log
from ddpm_jax.runtime.signals import Stopped, stoppable

TRANSIENT_ERRORS = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE),
}
"""Numbers of errors of the network and of network disks."""
LOST_PROCESS = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "CANCELLED",
    "Gloo",
    "NCCL",
    "Connection",
    "heartbeat",
)
"""Words in JAX's errors when the processes of a job cannot reach each other."""
EXIT_DELAY_S = 2.0
"""Seconds that the first process gives the others to end by themselves."""

logger = logging.getLogger("ddpm_jax")


def exit_code(work: Callable[[], int | None]) -> int:
    """Runs a function, logs its error in one line, and returns its exit code, as the module's docstring lists them.

    The function may return an exit code itself.
    """
    start_log()
    try:
        with stoppable():
            return work() or 0
    except UserError as error:
        logger.error("%s", error)
        return 2
    except TrainingDiverged as error:
        logger.error("%s", error)
        return 1
    except OSError as error:
        logger.error("%s", explanation(error))
        bug = error.errno is not None and not _is_transient(error) and error.errno not in DISK_REMEDIES
        shown = bug and not has_log_file()  # The only copy of its traceback.
        logger.log(logging.ERROR if shown else logging.DEBUG, "Its traceback:", exc_info=error)
        return 3 if _is_transient(error) else 2
    except JaxRuntimeError as error:
        return _machine_failure(error)
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        logger.log(NOTICE, "Stopped by %s.", signal.Signals(number).name)
        return 128 + number


def explanation(error: OSError) -> str:
    """An error of the system in one line: its path where it has one, its text, and the remedy if one is known."""
    text = " ".join((error.strerror or str(error) or type(error).__name__).split()).rstrip(".")
    remedy = "start again" if _is_transient(error) else DISK_REMEDIES.get(error.errno or 0)
    return (f"{error.filename}: " if error.filename else "") + text + (f"; {remedy}." if remedy else ".")


def _is_transient(error: OSError) -> bool:
    """Whether an error comes from the network or a network disk, so that it may not come again."""
    if isinstance(error, HTTPError):  # The server answered.
        return error.code >= 500
    network = isinstance(error, ConnectionError | TimeoutError | URLError | socket.gaierror)
    return network or error.errno in TRANSIENT_ERRORS


def _machine_failure(error: RuntimeError) -> int:
    """Logs the failure of a device or of another process, and returns the exit code; raises all other errors."""
    reason = str(error).partition("\n")[0]
    if reason.startswith("RESOURCE_EXHAUSTED"):
        logger.error(
            "A device ran out of memory (%s); try a smaller data.batch_size or sample.batch_size, train.accumulate, "
            "model.remat=True or model.dtype=bfloat16 (--mode=plan predicts what fits).",
            reason,
        )
        return 2
    if jax.process_count() == 1 or not any(word in reason for word in LOST_PROCESS):
        raise error
    logger.error(
        "Another process of this job was lost (%s); the same command resumes from the last checkpoint.", reason
    )
    return 3


def end_process(code: int) -> NoReturn:
    """Ends the process; after a signal, at once.

    Python would first wait for a compilation that still runs, and take no second Ctrl-C meanwhile: JAX 0.10 lets Ctrl-C
    leave one behind. Contexts and files are closed by then.
    """
    if code > 128:
        _exit_at_once(code)
    sys.exit(code)


def _exit_at_once(code: int) -> NoReturn:
    """Ends the process without Python's and JAX's work at exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_without_barrier(work: Callable[[], int]) -> int:
    """Returns the exit code of `work`; a process of a job of several that fails exits at once.

    JAX would make it wait for the others, which may be waiting for this one.
    """
    code = 1
    try:
        code = work()
    finally:
        if code and jax.distributed.is_initialized():
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            if jax.process_index() == 0:
                time.sleep(EXIT_DELAY_S)  # When the first has exited, JAX kills the others, which may still be logging.
            _exit_at_once(code)
    return code
