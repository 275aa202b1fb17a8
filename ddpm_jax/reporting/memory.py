"""Memory that this process and its devices use, memory that is available, and sizes as text."""

from pathlib import Path

import jax

CGROUP = Path("/sys/fs/cgroup")
"""The folder where Linux lists the limits of a container or job."""


def size_in_words(count: int | float) -> str:
    """A number of bytes as text in MiB or GiB."""
    size, unit = (count / 2**30, "GiB") if count >= 2**30 else (count / 2**20, "MiB")
    return f"{size:,.{0 if size >= 100 else 1}f} {unit}"


def memory_in_use() -> dict[str, float]:
    """MiB of this process (without pages of mapped files, which the system can reclaim), and the peak of arrays on the
    fullest local device; without those that are unknown.
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    device = max((peak for peak in peaks if peak is not None), default=None)
    amounts = {"device_memory_mebibytes": device, "host_memory_mebibytes": _bytes(Path("/proc/self/status"), "RssAnon")}
    return {name: amount / 2**20 for name, amount in amounts.items() if amount is not None}


def peak_resident() -> int | None:
    """Bytes of physical memory that this process has used at most, pages of libraries included; None if unknown."""
    return _bytes(Path("/proc/self/status"), "VmHWM")


def resident() -> int | None:
    """Bytes of physical memory that this process uses, pages of libraries included; None if unknown."""
    return _bytes(Path("/proc/self/status"), "VmRSS")


def device_limit() -> int | None:
    """Bytes available for arrays on each local device, None if unknown; CPUs share the free memory of the system, or of
    the container.
    """
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None or jax.default_backend() != "cpu":
        return limit
    free = [_bytes(Path("/proc/meminfo"), "MemAvailable"), _free_in_container()]
    known = [amount for amount in free if amount is not None]
    return min(known) // jax.local_device_count() if known else None


def _free_in_container() -> int | None:
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdecimal() else None


def _bytes(path: Path, name: str) -> int | None:
    """The bytes in a line such as "MemAvailable:  123 kB"; None if there is no such file or line."""
    if not path.exists():
        return None
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == f"{name}:"), None)
