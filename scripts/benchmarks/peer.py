"""A process that does the same work with PyTorch (`pytorch.py`), one round at a time."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError, shell_command
from ddpm_jax.reporting.memory import memory_in_use
from scripts.benchmarks.resident import forget_peak, peak_mebibytes
from scripts.benchmarks.timing import seconds_of

KEPT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""The peer's equivalent of ddpm_jax.runtime.cpu.reuse_memory."""
NEEDS = {
    "train": ("requirements-peers.txt", ("torch", "diffusers")),
    "sample": ("requirements-peers.txt", ("torch", "diffusers")),
    "features": ("requirements-peers-fid.txt", ("torch", "torchvision", "pytorch_fid", "safetensors")),
}
"""The file that lists what the peer needs for each work, and the modules that it imports."""
FIND_MISSING = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n) is None))"
Round = Callable[[], None]
VARIANTS = ("eager", "eager channels_last", "compiled", "compiled channels_last")
"""Variants of the peer's work; the fastest counts."""


class Peer:
    """A process that does the work of `spec` on request; a context manager."""

    def __init__(self, python: str, spec: dict[str, Any]):
        refuse_without_packages(python, spec["work"])
        command = [python, str(Path(__file__).with_name("pytorch.py")), json.dumps(spec)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env={**KEPT_MEMORY, **os.environ}, **pipes)
        self.facts = self._answer(f"its packages are those of {NEEDS[spec['work']][0]}")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # It ends when its input is closed.
            pass

    def seconds(self) -> float:
        """Seconds of one round of the work."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` reports the exit code.
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        self.facts |= (answer := self._answer("a smaller --batch needs less memory"))
        return answer["seconds"]

    def _answer(self, remedy: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.__exit__()
            code = self.process.returncode
            raise UserError(f"The peer ended with exit code {code}; its output is above; {remedy}.")
        return json.loads(line)


def refuse_without_packages(python: str, work: str) -> None:
    """Raises UserError for what is no Python interpreter or lacks a package that the work needs."""
    file, modules = NEEDS[work]
    try:
        found = subprocess.run([python, "-c", FIND_MISSING, *modules], stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it ended with exit code {error.returncode}"
        raise UserError(f"--peer-python={python} cannot be run: {reason}; expected a Python interpreter.") from error
    if missing := found.stdout.replace("_", "-").split():
        install = shell_command(python, "-m", "pip", "install", "-r", file)
        raise UserError(f"The peer needs {', '.join(missing)}: {install}, or give another --peer-python.")


def refuse_disagreement(own: np.ndarray, theirs: np.ndarray, most: float, variant: str) -> None:
    """Raises UserError for a peer with other outputs; most: permitted difference relative to the largest output."""
    difference = np.abs(own - theirs).max() / np.abs(theirs).max()
    if not difference <= most:
        raise UserError(
            f"The peer's outputs ({variant}) differ by {difference:.1e} of the largest, expected at most {most:.0e}; "
            "nothing was measured."
        )


def in_turn(work: Round, peers: dict[str, Peer], rounds: int) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of this process and of each peer, in alternation, since the machine's speed may change.

    As in training (ddpm_jax.runtime.cpu.release_memory), what the first round frees returns to the system; another
    round before the timed ones maps it again.
    """
    work()
    forget_peak()
    for run in (work, *(peer.seconds for peer in peers.values())):
        run()
    own: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        own.append(seconds_of(work))
        for name, peer in peers.items():
            theirs[name].append(peer.seconds())
    return own, theirs


def peak_memory() -> float | None:
    """Peak in MiB of the arrays on the fullest device, or on a CPU of the resident memory since `forget_peak`."""
    return memory_in_use().get("device_memory_mebibytes", peak_mebibytes())


def rates(images: int, seconds: list[float]) -> dict[str, float]:
    """Images/s by the median of the rounds, and their spread (slowest - fastest) / median."""
    middle = statistics.median(seconds)
    return {"images_per_second": images / middle, "spread": (max(seconds) - min(seconds)) / middle}


def comparison(images: int, own: list[float], theirs: dict[str, list[float]], peers: dict[str, Peer]) -> dict[str, Any]:
    """Rates and peak memory of both sides, and their ratios to the fastest of the peer's variants.

    Call it directly after the rounds, as later work would add to the peak.
    """
    facts: dict[str, Any] = {"ours": {**rates(images, own), "peak_memory_mebibytes": peak_memory()}}
    if not peers:
        return facts
    variants = {name: rates(images, seconds) for name, seconds in theirs.items()}
    best = max(variants, key=lambda name: variants[name]["images_per_second"])
    about = peers[best].facts
    facts["peer"] = {
        "name": f"{about['name']}, torch {about['torch']}",
        "variant": best,
        **variants[best],
        "peak_memory_mebibytes": about["memory"],
        "variants": variants,
    }
    if about["memory"] and facts["ours"]["peak_memory_mebibytes"]:
        facts["memory_ratio"] = facts["ours"]["peak_memory_mebibytes"] / about["memory"]
    facts["ratio"] = facts["ours"]["images_per_second"] / variants[best]["images_per_second"]
    return facts


def python_of(flags: Any) -> str:
    """The interpreter with PyTorch."""
    return flags.peer_python or sys.executable
