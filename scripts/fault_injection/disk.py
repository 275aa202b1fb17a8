"""Disks that are full, read-only or gone while a command writes to them."""

import argparse
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm_jax.errors import UserError
from scripts.fault_injection.commands import (
    Outcome,
    complete,
    finish,
    leftovers,
    newest_state,
    same_bits,
    start,
    training,
)

SMALL, LARGE = "3m", "200m"


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A disk in memory at a place."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        raise UserError(f"A small disk cannot be mounted ({mounted.stderr.decode().strip()}); run this as root.")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, options: str) -> None:
    """The same disk with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def disk(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Fills, closes and removes the disk under a training."""
    undisturbed = flags.folder / "alone"
    complete(training(undisturbed))
    place = flags.folder / "disk"
    with small_disk(place):
        code, said = finish(start(training(place / "run")))
        kept = [path.name for path in (place / "run" / "checkpoints").glob("*/SHA256SUMS")]
        refused = code == 2 and "No space left" in said.splitlines()[-1] and "Traceback" not in said
        remount(place, f"size={LARGE}")
        yield went_on(
            "a disk that is full", refused, said, place / "run", undisturbed, f"{len(kept)} checkpoints were kept."
        )
    shutil.rmtree(place)
    with small_disk(place):
        remount(place, f"size={LARGE}")
        process = begun(place / "run")
        process.send_signal(signal.SIGTERM)
        finish(process)
        remount(place, "ro")
        code, said = finish(start(training(place / "run")))
        remount(place, "rw")
        refused = code == 2 and "Read-only" in said and len(said.splitlines()) == 1
        yield went_on("a disk that is read-only", refused, said, place / "run", undisturbed, "")
    shutil.rmtree(place)
    process = begun(place)
    os.rename(place, flags.folder / "moved")
    code, said = finish(process)
    refused = code == 2 and "Traceback" not in said
    yield went_on("a workdir that is moved away", refused, said, flags.folder / "moved", undisturbed, "")


def begun(workdir: Path) -> subprocess.Popen[str]:
    """A training that has saved something."""
    process = start(training(workdir))
    while not any(workdir.glob("checkpoints/*/SHA256SUMS")) and process.poll() is None:
        time.sleep(0.01)
    return process


def went_on(fault: str, refused: bool, said: str, workdir: Path, undisturbed: Path, remark: str) -> Outcome:
    """Whether the command, once it can write again, ends as one that was left alone."""
    if not refused:
        return Outcome(fault, 1, f"it said {said[-500:]}")
    complete(training(workdir))
    if not same_bits(newest_state(workdir), newest_state(undisturbed)):
        return Outcome(fault, 1, "another final state")
    return Outcome(fault, 1, ", ".join(leftovers(workdir)), f"One line; then it goes on to the same bits. {remark}")
