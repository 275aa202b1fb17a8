"""Disks that become full, read-only or unavailable while a command writes to them."""

import argparse
import os
import shutil
import signal
import subprocess
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
    wait_for,
)

SMALL, LARGE = "3m", "200m"


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Mounts a disk in memory at a path."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        raise UserError(f"A small disk cannot be mounted ({mounted.stderr.decode().strip()}); run this as root.")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def remount(path: Path, options: str) -> None:
    """Mounts the same disk with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


def disk(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Fills the disk of a training, makes it read-only, and moves its workdir away."""
    undisturbed = flags.folder / "undisturbed"
    complete(training(undisturbed))
    path = flags.folder / "disk"
    with small_disk(path):
        code, output = finish(start(training(path / "run")))
        kept = len(list((path / "run" / "checkpoints").glob("*/SHA256SUMS")))
        refused = code == 2 and "No space left" in output.splitlines()[-1] and "Traceback" not in output
        remount(path, f"size={LARGE}")
        yield recovery(
            "a disk that is full", refused, output, path / "run", undisturbed, f" {kept} checkpoints were kept."
        )
    shutil.rmtree(path)
    with small_disk(path):
        remount(path, f"size={LARGE}")
        process = start_and_checkpoint(path / "run")
        process.send_signal(signal.SIGTERM)
        finish(process)
        remount(path, "ro")
        code, output = finish(start(training(path / "run")))
        remount(path, "rw")
        refused = code == 2 and "Read-only" in output and len(output.splitlines()) == 1
        yield recovery("a disk that is read-only", refused, output, path / "run", undisturbed)
    shutil.rmtree(path)
    process = start_and_checkpoint(path)
    os.rename(path, flags.folder / "moved")
    code, output = finish(process)
    refused = code == 2 and "Traceback" not in output
    yield recovery("a workdir that is moved away", refused, output, flags.folder / "moved", undisturbed)


def start_and_checkpoint(workdir: Path) -> subprocess.Popen[str]:
    """A training that has saved a checkpoint."""
    process = start(training(workdir))
    wait_for(process, workdir, "checkpoints/*/SHA256SUMS")
    return process


def recovery(fault: str, refused: bool, output: str, workdir: Path, undisturbed: Path, remark: str = "") -> Outcome:
    """Runs the command again, once it can write; it must end like an undisturbed one."""
    if not refused:
        return Outcome(fault, 1, f"unexpected output: {output[-500:]}")
    complete(training(workdir))
    if not same_bits(newest_state(workdir), newest_state(undisturbed)):
        return Outcome(fault, 1, "another final state")
    return Outcome(fault, 1, ", ".join(leftovers(workdir)), f"One line; then it reaches the same bits.{remark}")
