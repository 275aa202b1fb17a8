"""Starts the commands into which faults are injected, and compares their results."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.builders import build_learner
from ddpm_jax.commands.train import start_state
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.urls import AnyPath
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.state import TrainState
from ddpm_jax.workdir import read_config

ROOT = Path(__file__).parents[2]
LENGTH = {"train.steps": 60, "checkpoint.every": 2, "log.preview_every": 20}
LEFTOVERS = (".lock", ".partial", ".replaced", ".building", "-tmp", ".damaged")
"""Parts of the names of files that exist only while a command runs, or after damage."""


class Outcome(NamedTuple):
    """The outcome of a fault."""

    fault: str
    times: int
    lost: str
    """The loss or error; empty if there is none."""
    remark: str = ""


def flags_of(fields: dict[str, Any]) -> list[str]:
    """Fields of the configuration as flags."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


def training(workdir: Path | str, **fields: Any) -> list[str]:
    """The command that trains; fields: those of the configuration, with _ for the first dot."""
    chosen = LENGTH | {name.replace("_", ".", 1): value for name, value in fields.items()}
    return ["main.py", f"--config={ROOT}/configs/digits.py:smoke", f"--workdir={workdir}", *flags_of(chosen)]


def start(command: Sequence[str], devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    """Starts a script of this project on simulated CPU devices; variables: further environment variables."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    jax_variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / command[0]), *command[1:]],
        env={**os.environ, **jax_variables, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_job(command: Sequence[str], processes: int, devices: int) -> list[subprocess.Popen[str]]:
    """Starts the processes of one job, each with this many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        job = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": str(processes)}
    return [start(command, devices, **job, JAX_PROCESS_ID=str(number)) for number in range(processes)]


def finish(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str]:
    """Waits for a process; returns its exit code and its standard error."""
    _, output = process.communicate(timeout=seconds)
    return process.returncode, output


def complete(command: Sequence[str]) -> None:
    """Runs a command that must succeed."""
    code, output = finish(start(command))
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {output}")


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Waits until a file of the pattern exists in the folder or the process has ended."""
    while not any(folder.glob(pattern)) and process.poll() is None:
        time.sleep(0.01)


def newest_state(workdir: AnyPath) -> TrainState:
    """The state of the newest checkpoint."""
    config = read_config(workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return start_state(config, build_learner(config, data_mesh()), checkpoints, {})


def same_bits(a: TrainState, b: TrainState) -> bool:
    """Whether two states hold the same numbers."""
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def leftovers(folder: Path) -> list[str]:
    """Files that should not exist once the commands have ended."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if any(part in p.name for part in LEFTOVERS)]
