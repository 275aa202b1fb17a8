"""Peak resident memory of this process while it works; imports nothing but the standard library, for the peer."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def forget_peak() -> None:
    """Starts the peak anew, on Linux, after what was needed only to compile and import has returned to the system."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)
        with suppress(OSError):  # Not every container may; the peak then includes compiling.
            (PROC / "clear_refs").write_text("5")  # See proc_pid_clear_refs(5).


def peak_mebibytes() -> float | None:
    """MiB since `forget_peak`, pages of loaded libraries included; None where there is no /proc."""
    status = PROC / "status"
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
