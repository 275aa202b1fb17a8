"""How a command ends: what went wrong in one line, and an exit code.

0      done
1      training diverged, or a fault, with its traceback
2      something for the user to mend
3      a machine failed (another process of the job, a network disk): beginning again may help
130    stopped by SIGINT
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

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
DISK_TROUBLE |= {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
NETWORK_TROUBLE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
OTHERS_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "Gloo", "NCCL", "Connection", "heartbeat")
"""In what JAX raises where the processes of a job cannot reach each other."""
EXIT_DELAY_S = 2.0
"""Seconds that the first process leaves the others to end by themselves."""

logger = logging.getLogger("ddpm_jax")


def exit_code(work: Callable[[], int | None]) -> int:
    """Does the work; says in one line what went wrong, and returns the exit code that the module's text lists.

    Work that knows its code itself returns it.
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
        if error.errno in NETWORK_TROUBLE:
            logger.error("%s: %s; begin again when it is back.", error.filename or "A disk", error.strerror)
            return 3
        if error.errno not in DISK_TROUBLE:
            raise
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another place"
        logger.error("%s: %s; %s.", error.filename or "Writing", error.strerror, remedy)
        return 2
    except JaxRuntimeError as error:
        return _of_the_machine(error)
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        logger.warning("Stopped by %s.", signal.Signals(number).name)
        return 128 + number


def _of_the_machine(error: RuntimeError) -> int:
    """Says what happened to a device or to the other processes, and returns the exit code; raises what is a fault."""
    reason = str(error).partition("\n")[0]
    if reason.startswith("RESOURCE_EXHAUSTED"):
        logger.error(
            "A device ran out of memory (%s); try a smaller data.batch_size or sample.batch_size, train.accumulate, "
            "model.remat=True or model.dtype=bfloat16 (--mode=plan tells what fits).",
            reason,
        )
        return 2
    if jax.process_count() == 1 or not any(sign in reason for sign in OTHERS_LOST):
        raise error
    logger.error("Another process of this job was lost (%s); the same command goes on from what is on disk.", reason)
    return 3


def exit_without_barrier(work: Callable[[], int]) -> int:
    """Does the work and returns its exit code; a process of a job that ends otherwise than well ends here and now.

    JAX would let it wait for the others, which may wait for this one.
    """
    code = 1
    try:
        code = work()
    finally:
        if code and jax.distributed.is_initialized():
            _leave(code)
    return code


def _leave(code: int) -> None:
    if sys.exc_info()[0] is not None:
        traceback.print_exc()
    if jax.process_index() == 0:
        time.sleep(EXIT_DELAY_S)  # Once the first has gone, JAX ends the others, who may have something to say.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
