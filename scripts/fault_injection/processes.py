"""One process of a job is killed: the others end, and the next start resumes."""

import argparse
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.fault_injection.commands import (
    Outcome,
    finish,
    leftovers,
    newest_state,
    same_bits,
    start_job,
    training,
    wait_for,
)

PROCESSES = 2
TIMEOUT_S = 150.0
"""Seconds to the end of the others; JAX counts a process as lost after at most 100 without a heartbeat."""


def job(workdir: Path, sharding: str) -> list[subprocess.Popen[str]]:
    """Starts a training by two processes of two devices each."""
    fields = {"train_sharding": sharding, "model_channels": 64, "log_preview_every": 0, "checkpoint_every": 10}
    return start_job(training(workdir, **fields), PROCESSES, devices=2)


def processes(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Kills each process in turn, with replicated and with divided parameters."""
    for sharding in ("replicated", "fsdp"):
        undisturbed = flags.folder / f"{sharding}-undisturbed"
        ends = [finish(process) for process in job(undisturbed, sharding)]
        if any(code for code, _ in ends):
            raise RuntimeError(f"An undisturbed job ended with {ends}")
        for victim in range(PROCESSES):
            folder = flags.folder / f"{sharding}-{victim}"
            jobs = job(folder, sharding)
            wait_for(jobs[0], folder, "checkpoints/*/SHA256SUMS")
            jobs[victim].send_signal(signal.SIGKILL)
            killed = time.monotonic()
            try:
                code, output = finish(jobs[1 - victim], TIMEOUT_S)
            finally:
                jobs[1 - victim].kill()
            seconds = time.monotonic() - killed
            named = "another task died" in output or "Another process of this job was lost" in output
            lost = "" if code and named else f"the other ended with {code}: {output[-300:]}"
            again = [finish(process) for process in job(folder, sharding)]
            if any(code for code, _ in again):
                lost = f"the next start ended with {again}"
            if not lost and not same_bits(newest_state(folder), newest_state(undisturbed)):
                lost = "another final state"
            lost = lost or ", ".join(leftovers(folder))
            remark = f"The other ends after {seconds:.0f} s with {code}; the next start resumes."
            yield Outcome(f"SIGKILL of process {victim} of {PROCESSES}, {sharding}", 1, lost, remark)
