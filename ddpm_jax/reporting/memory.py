"""How much memory this process and its devices use, how much there is, and sizes in words."""

from pathlib import Path

import jax

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux keeps the limits of a container or job."""


def size_in_words(count: int | float) -> str:
    """A number of bytes, for people."""
    size, unit = (count / 2**30, "GiB") if count >= 2**30 else (count / 2**20, "MiB")
    return f"{size:,.{0 if size >= 100 else 1}f} {unit}"


def memory_in_use() -> dict[str, float]:
    """MiB, as far as they are known: what only this process holds (without pages of mapped files, which the system
    drops at need), and the most that arrays took so far on the fullest device here.
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    amounts = {"device_memory_mebibytes": max(known)} if known else {}
    own = _bytes(Path("/proc/self/status"), "RssAnon")
    amounts |= {} if own is None else {"host_memory_mebibytes": own}
    return {name: amount / 2**20 for name, amount in amounts.items()}


def device_limit() -> int | None:
    """Bytes that arrays may take on each device here: CPUs share what is free in the system, or in the container.

    None where that is not known.
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
    """A line such as "MemAvailable:  123 kB"; None where the system does not tell."""
    if not path.exists():
        return None
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == f"{name}:"), None)
