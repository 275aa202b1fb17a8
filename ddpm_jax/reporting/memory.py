"""How much memory this process and its devices use."""

from pathlib import Path

import jax

MEBIBYTE = 2**20


def host_memory() -> float | None:
    """MiB that only this process holds; pages of mapped files, which the system drops at need, are left out.

    None where the system does not tell (other than Linux).
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    words = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon")).split()
    return int(words[1]) / 1024


def device_memory() -> float | None:
    """The most MiB that arrays took so far on the fullest device here; None where devices do not tell (CPUs)."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) / MEBIBYTE if known else None


def memory_in_use() -> dict[str, float]:
    """Both in MiB, as far as they are known."""
    amounts = {"host_memory_mebibytes": host_memory(), "device_memory_mebibytes": device_memory()}
    return {name: amount for name, amount in amounts.items() if amount is not None}


def device_limit() -> int | None:
    """Bytes that arrays may take on each device here: a CPU's are those of the system that are free."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return limit
    available = Path("/proc/meminfo")
    if jax.default_backend() != "cpu" or not available.exists():
        return None
    words = next(line for line in available.read_text().splitlines() if line.startswith("MemAvailable")).split()
    return int(words[1]) * 1024
