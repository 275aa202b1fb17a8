"""How a command ends: one line that names the error, and an exit code.

0      success
1      training diverged, or a bug, with its traceback
2      an error that the user can fix
3      a machine failed (another process of the job, a network disk): starting again may help
129    stopped by SIGHUP
130    stopped by SIGINT
138    stopped by SIGUSR1 (158 on macOS)
143    stopped by SIGTERM
"""

import errno
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

import jax
from jax.errors import JaxRuntimeError

from ddpm_jax.errors import TrainingDiverged, UserError
from ddpm_jax.runtime.log import start_log
from ddpm_jax.runtime.signals import Stopped, stoppable

FREE_SPACE = "free some space, or raise the limit on the size of files (ulimit -f)"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    **dict.fromkeys((errno.EFBIG, None), FREE_SPACE),  # None: NumPy's short writes.
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit on open files (ulimit -n)"),
    errno.ENOENT: "restore it, and start again",
}
"""By the number of an error of the system; for others: choose another place."""
NETWORK_TROUBLE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
OTHERS_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "Gloo", "NCCL", "Connection", "heartbeat")
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
        transient = error.errno in NETWORK_TROUBLE
        remedy = "start again when it is back" if transient else REMEDIES.get(error.errno, "choose another place")
        logger.error("%s: %s; %s.", error.filename or "A file", error.strerror or error, remedy)
        logger.debug("Its traceback:", exc_info=error)  # For the log file.
        return 3 if transient else 2
    except JaxRuntimeError as error:
        return _machine_failure(error)
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        logger.warning("Stopped by %s.", signal.Signals(number).name)
        return 128 + number


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
    if jax.process_count() == 1 or not any(word in reason for word in OTHERS_LOST):
        raise error
    logger.error(
        "Another process of this job was lost (%s); the same command resumes from the last checkpoint.", reason
    )
    return 3


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
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code
