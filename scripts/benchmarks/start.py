"""Time from the command to the first training step, with an empty compilation cache and with a full one."""

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
    """Seconds until the first step is done, of the first start and the median of later ones."""
    with tempfile.TemporaryDirectory(prefix="ddpm_jax-benchmark-") as folder:
        place = Path(folder)
        cold = first_step(place, "first", flags)
        middle = statistics.median(first_step(place, f"again-{number}", flags) for number in range(flags.rounds))
    return {"recipe": flags.config, "first_start_seconds": cold, "later_start_seconds": middle, "ratio": middle / cold}


def first_step(place: Path, name: str, flags: argparse.Namespace) -> float:
    """Seconds from the start of a command, on made-up images, until its log has the first step."""
    workdir = place / name
    settings = {"data.source": "synthetic", "data.batch_size": flags.batch, "data.holdout": 0, "train.steps": 1}
    settings |= {"log.every": 1, "log.preview_every": 0}
    command = [sys.executable, MAIN, f"--config={flags.config}", f"--workdir={workdir}"]
    command += flags.overrides + [f"--config.{field}={value}" for field, value in settings.items()]
    environment = {**os.environ, "XDG_CACHE_HOME": str(place)}  # Where main.py keeps compiled code.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    log, start = workdir / "train.log", time.perf_counter()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (done := log.exists() and "step 1:" in log.read_text()):
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        _, said = process.communicate()
    if process.returncode or not done:
        last = said.strip().splitlines()[-1:]
        raise UserError(f"The first step was not seen; {' '.join(command)} said: {' '.join(last)}")
    return seconds
