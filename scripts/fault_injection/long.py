"""A long run with previews, checkpoints, validation and evaluation: does anything grow or slow down?"""

import argparse
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ddpm_jax.reporting.charts import panels
from ddpm_jax.reporting.curves import read_curves
from scripts.fault_injection.commands import Outcome, start, training

SAMPLE_EVERY_S = 2.0
"""Seconds between two samples of memory and open files."""


def long(flags: argparse.Namespace) -> Iterator[Outcome]:
    """Compares memory, open files and speed in the second and last quarter of a run."""
    workdir = flags.folder / "run"
    fields = {"log_preview_every": 500, "log_validate_every": 200, "checkpoint_every": 250, "log_every": 50}
    fields |= {"evaluate_every": 1000, "evaluate_features": "pixels"}
    fields |= {"evaluate_light_count": 50, "evaluate_light_sampler": "ddim:4"}
    process = start(training(workdir, train_steps=flags.steps, **fields))
    samples = list(iter_usage(process))
    output = process.communicate()[1]
    if process.returncode:
        yield Outcome(f"{flags.steps} steps", 1, f"ended with {process.returncode}: {output[-500:]}")
        return
    rates = speeds(workdir)
    curves = {
        "memory, MiB": {"resident": [(second, memory) for second, memory, _ in samples]},
        "open files": {"open": [(second, files) for second, _, files in samples]},
        "images/s": {"training": rates},
    }
    if flags.chart:
        panels(flags.chart, curves, "seconds, or steps for images/s", "")
    for name, points in (("memory", [m for _, m, _ in samples]), ("open files", [f for _, _, f in samples])):
        middle, last = quarter(points, 1), quarter(points, 3)
        grown = f"{name} grew from {middle:.0f} to {last:.0f}" if last > 1.05 * middle + 1 else ""
        yield Outcome(
            f"{name} over {flags.steps} steps", 1, grown, f"{middle:.1f} in the second quarter, {last:.1f} in the last."
        )
    middle, last = quarter([rate for _, rate in rates], 1), quarter([rate for _, rate in rates], 3)
    slower = f"from {middle:.0f} to {last:.0f} images/s" if last < 0.8 * middle else ""
    yield Outcome(f"speed over {flags.steps} steps", 1, slower, f"{middle:.0f} images/s, then {last:.0f}.")


def iter_usage(process: subprocess.Popen[str]) -> Iterator[tuple[float, float, int]]:
    """Seconds, MiB of memory and number of open files, until the process ends."""
    began, status = time.monotonic(), Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            lines = dict(line.split(":", 1) for line in (status / "status").read_text().splitlines())
            files = len(list((status / "fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return
        if "VmRSS" in lines:
            yield time.monotonic() - began, int(lines["VmRSS"].split()[0]) / 1024, files
        time.sleep(SAMPLE_EVERY_S)


def speeds(workdir: Path) -> list[tuple[float, float]]:
    """Steps and images per second."""
    return read_curves(workdir)["speed/images_per_second"]


def quarter(values: list[float], number: int) -> float:
    """The median of one quarter of the values, counted from 0."""
    return float(np.median(np.array_split(values, 4)[number]))
