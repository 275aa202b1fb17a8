"""One of the processes of a job is killed: the others end, and the next start goes on."""

import argparse
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.fault_injection.commands import Outcome, finish, leftovers, newest_state, same_bits, start_job, training

PROCESSES = 2
BOUND = 150.0
"""Seconds: JAX counts a process as lost after at most 100 without a sign of life."""


def job(workdir: Path, sharding: str) -> list[subprocess.Popen[str]]:
    """A training by two processes of two devices each."""
    fields = {"train_sharding": sharding, "model_channels": 64, "log_preview_every": 0, "checkpoint_every": 10}
    return start_job(training(workdir, **fields), PROCESSES, devices=2)


def processes(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Kills each process in turn, with parameters on every device and divided."""
    for sharding in ("replicated", "fsdp"):
        undisturbed = flags.folder / f"{sharding}-alone"
        ends = [finish(process) for process in job(undisturbed, sharding)]
        if any(code for code, _ in ends):
            raise RuntimeError(f"A job that was left alone ended with {ends}")
        for victim in range(PROCESSES):
            folder = flags.folder / f"{sharding}-{victim}"
            jobs = job(folder, sharding)
            while not any(folder.glob("checkpoints/*/SHA256SUMS")) and jobs[0].poll() is None:
                time.sleep(0.01)
            jobs[victim].send_signal(signal.SIGKILL)
            killed = time.monotonic()
            try:
                code, said = finish(jobs[1 - victim], BOUND)
            finally:
                jobs[1 - victim].kill()
            seconds = time.monotonic() - killed
            told = "another task died" in said or "Another process of this job was lost" in said
            lost = "" if code and told else f"the other ended with {code}: {said[-300:]}"
            again = [finish(process) for process in job(folder, sharding)]
            if any(code for code, _ in again):
                lost = f"the next start ended with {again}"
            if not lost and not same_bits(newest_state(folder), newest_state(undisturbed)):
                lost = "another final state"
            lost = lost or ", ".join(leftovers(folder))
            remark = f"The other ends after {seconds:.0f} s with {code}; the next start goes on."
            yield Outcome(f"SIGKILL of process {victim} of {PROCESSES}, {sharding}", 1, lost, remark)
