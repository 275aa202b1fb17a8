"""Runs main.py in a process of its own, as a user does, and reads its results."""

import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np

from ddpm_jax.reporting.curves import read_curves
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.training.seals import seal_of
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
    "train_undisturbed",
]

RECIPE = f"--config={ROOT}/tests/end_to_end/one_stage.py"


def start(*argv: str, devices: int = 1) -> subprocess.Popen:
    """Starts main.py with these arguments on this many simulated CPU devices."""
    return commands.start(["main.py", *argv], devices)


def start_job(*argv: str, processes: int, devices: int) -> list[subprocess.Popen]:
    """Starts the processes of one job, each with this many devices."""
    return commands.start_job(["main.py", *argv], processes, devices)


def train_undisturbed(workdir: Path, *length: str) -> Path:
    """Trains the recipe in a folder to its end, and returns the folder."""
    code, printed = finish(start(RECIPE, f"--workdir={workdir}", *length))
    assert code == 0, printed
    return workdir


def kill_at(process: subprocess.Popen, workdir: AnyPath, step: int, number: signal.Signals) -> int:
    """Sends a signal once the checkpoint of a step is complete; returns the exit code."""
    wait_for_checkpoint(process, workdir, step)
    process.send_signal(number)
    return finish(process)[0]


def wait_for_checkpoint(process: subprocess.Popen, workdir: AnyPath, step: int) -> None:
    """Waits until the checkpoint of a step is complete."""
    deadline = time.monotonic() + 400
    while not seal_of(workdir / "checkpoints" / str(step)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def scalars(workdir: Path, name: str) -> dict[int, float]:
    """A curve of TensorBoard, by step."""
    return dict(read_curves(workdir)[name])


MACHINE_DEPENDENT = ("speed/", "memory/")
"""Groups of metrics that differ from start to start."""


def reported(workdir: Path) -> dict[str, dict[int, float | bytes]]:
    """Everything in TensorBoard that does not depend on the machine, by tag and step.

    A run that is killed while it measures does so again when it resumes; both points must be equal.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in (workdir, workdir / "by_images_seen"):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
        for tag in (tag for tag in events.Tags()["scalars"] if not tag.startswith(MACHINE_DEPENDENT)):
            points = {(event.step, event.value) for event in events.Scalars(tag)}
            found[tag] = dict(sorted(points))
            assert len(found[tag]) == len(points), f"{tag} has unequal points at one step"
        for tag in events.Tags()["images"]:
            found[tag] = {event.step: event.encoded_image_string for event in events.Images(tag)}
    return found


def assert_same_bits(a, b) -> None:
    """Asserts that two trees hold the same numbers, to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)
