"""The real command, in a process of its own, as a user runs it."""

import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np

from scripts.fault_injection import commands
from scripts.fault_injection.commands import ROOT, finish
from scripts.fault_injection.commands import newest_state as final_state

__all__ = [
    "RECIPE",
    "ROOT",
    "assert_same_bits",
    "final_state",
    "finish",
    "kill_at",
    "reported",
    "scalars",
    "start",
    "start_job",
]

RECIPE = f"--config={ROOT}/configs/digits.py:smoke"


def start(*argv: str, devices: int = 1) -> subprocess.Popen:
    """main.py with these arguments, on so many made-up CPU devices."""
    return commands.start(["main.py", *argv], devices)


def start_job(*argv: str, processes: int, devices: int) -> list[subprocess.Popen]:
    """So many processes of one job, each with so many devices."""
    return commands.start_job(["main.py", *argv], processes, devices)


def kill_at(process: subprocess.Popen, workdir: Path, step: int, number: signal.Signals) -> int:
    """Sends a signal once the checkpoint of a step is sealed; returns the exit code."""
    wait_for_checkpoint(process, workdir, step)
    process.send_signal(number)
    return finish(process)[0]


def wait_for_checkpoint(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Returns once the checkpoint of a step is sealed."""
    deadline = time.monotonic() + 400
    while not (workdir / "checkpoints" / str(step) / "SHA256SUMS").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def scalars(workdir: Path, name: str) -> dict[int, float]:
    """A curve that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return {event.step: event.value for event in EventAccumulator(str(workdir)).Reload().Scalars(name)}


OF_THE_MACHINE = ("speed/", "memory/")
"""Groups of metrics that differ from start to start."""


def reported(workdir: Path) -> dict[str, dict[int, float | bytes]]:
    """All that TensorBoard shows of a run and that does not depend on the machine, by tag and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in (workdir, workdir / "by_images_seen"):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
        for tag in (tag for tag in events.Tags()["scalars"] if not tag.startswith(OF_THE_MACHINE)):
            found[tag] = {event.step: event.value for event in events.Scalars(tag)}
            assert len(found[tag]) == len(events.Scalars(tag)), f"{tag} has several points of one step"
        for tag in events.Tags()["images"]:
            found[tag] = {event.step: event.encoded_image_string for event in events.Images(tag)}
    return found


def assert_same_bits(a, b) -> None:
    """Two trees hold the same numbers, to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)
