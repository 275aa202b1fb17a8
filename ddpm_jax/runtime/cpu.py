"""The processors of this machine, and settings with which a process reuses the memory of one step for the next.

JAX is imported where it is used, since processes that decode images import this module and start faster without it.
"""

import ctypes
import importlib.util
import os
import platform
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

MALLOC_ARENA_MAX, MALLOC_MMAP_MAX, MALLOC_TRIM_THRESHOLD = -8, -4, -1
"""Options of mallopt(3)."""


def processor_name() -> str:
    """The name of this machine's processor, or of its architecture where the system tells no more."""
    listed = Path("/proc/cpuinfo")  # Linux's; platform.processor() is empty or the architecture there.
    named = re.search(r"^model name\s*:\s*(.+?)\s*$", listed.read_text(), re.MULTILINE) if listed.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reuse_memory() -> None:
    """Runs programs on a CPU one after the other, and keeps the memory that they free; call it before JAX starts.

    JAX's asynchronous dispatch starts a program before its predecessor has freed its temporaries, which then stay
    resident beside the new ones. And glibc returns a step's activations to the system after each step and maps them
    again, page by page, for the next one, which takes a tenth of its time (docs/benchmarks.md).
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    accelerated = importlib.util.find_spec("libtpu") or entry_points(group="jax_plugins")
    chosen = any(name.startswith("MALLOC_") for name in os.environ)  # Settings of the user take precedence.
    if not accelerated and not chosen and (libc := _glibc()):
        for option, value in (MALLOC_ARENA_MAX, 1), (MALLOC_MMAP_MAX, 0), (MALLOC_TRIM_THRESHOLD, -1):
            libc.mallopt(option, value)


def release_memory() -> None:
    """Returns freed memory to the system, whatever `reuse_memory` keeps; call it when another kind of work begins.

    The temporaries of a step are one block, and aligning a block takes a gap that is larger than the block. So the gap
    that the first step leaves can be too small for the second, and the memory of one step would be lost for good.
    """
    import jax

    if jax.default_backend() == "cpu" and (libc := _glibc()):
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
