"""Time from the command to the first training step, with an empty and with a full compilation cache."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError

MAIN = str(Path(__file__).parents[2] / "main.py")


def measure_start(flags: argparse.Namespace) -> dict[str, Any]:
    """Seconds until the end of the first step: of the first start, and the median of later ones."""
    with tempfile.TemporaryDirectory(prefix="ddpm_jax-benchmark-") as name:
        folder = Path(name)
        cold = first_step(folder, "first", flags)
        warm = statistics.median(first_step(folder, f"again-{number}", flags) for number in range(flags.rounds))
    return {"recipe": flags.config, "first_start_seconds": cold, "later_start_seconds": warm, "ratio": warm / cold}


def first_step(folder: Path, name: str, flags: argparse.Namespace) -> float:
    """Seconds from the start of a command on synthetic images until its log reports the first step."""
    workdir = folder / name
    settings = {"data.source": "synthetic", "data.batch_size": flags.batch, "data.holdout": 0, "train.steps": 1}
    settings |= {"log.every": 1, "log.preview_every": 0}
    command = [sys.executable, MAIN, f"--config={flags.config}", f"--workdir={workdir}"]
    command += flags.overrides + [f"--config.{field}={value}" for field, value in settings.items()]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}  # For main.py's cache of compiled code.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    log, start = workdir / "train.log", time.perf_counter()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (done := log.exists() and "step 1:" in log.read_text()):
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        _, output = process.communicate()
    if process.returncode or not done:
        last = output.strip().splitlines()[-1:]
        raise UserError(f"No first step was logged; {' '.join(command)} ended with: {' '.join(last)}")
    return seconds
