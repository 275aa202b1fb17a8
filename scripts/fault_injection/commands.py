"""The commands that are tormented, and how their results are told apart."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.builders import build_learner
from ddpm_jax.commands.train import start_state
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.state import TrainState
from ddpm_jax.workdir import read_config

ROOT = Path(__file__).parents[2]
LENGTH = {"train.steps": 60, "checkpoint.every": 2, "log.preview_every": 20}
LEFTOVERS = (".lock", ".partial", ".replaced", ".building", "-tmp", ".damaged")
"""Parts of the names of what is there only while a command runs, or after damage."""


class Outcome(NamedTuple):
    """What came of a fault."""

    fault: str
    times: int
    lost: str
    """What was lost or wrong; empty if nothing was."""
    remark: str = ""


def flags_of(fields: dict[str, Any]) -> list[str]:
    """Fields of the configuration as flags."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


def training(workdir: Path | str, **fields: Any) -> list[str]:
    """The command that trains; fields: with _ for a dot."""
    chosen = LENGTH | {name.replace("_", ".", 1): value for name, value in fields.items()}
    return ["main.py", f"--config={ROOT}/configs/digits.py:smoke", f"--workdir={workdir}", *flags_of(chosen)]


def start(command: Sequence[str], devices: int = 1, told: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a script of this project on made-up CPU devices; told: of its environment."""
    fast = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    here = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": fast, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / command[0]), *command[1:]],
        env={**os.environ, **here, **(told or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_job(command: Sequence[str], processes: int, devices: int) -> list[subprocess.Popen[str]]:
    """So many processes of one job, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        told = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": str(processes)}
    return [start(command, devices, told | {"JAX_PROCESS_ID": str(number)}) for number in range(processes)]


def finish(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str]:
    """Its exit code, and what it said."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said


def complete(command: Sequence[str]) -> None:
    """Runs a command that has to end well."""
    code, said = finish(start(command))
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {said}")


def newest_state(workdir: Path) -> TrainState:
    """The state of the newest checkpoint."""
    config = read_config(workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return start_state(config, build_learner(config, data_mesh()), checkpoints)


def same_bits(a: TrainState, b: TrainState) -> bool:
    """Whether two states hold the same numbers."""
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def leftovers(folder: Path) -> list[str]:
    """What should have gone when the commands ended."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if any(part in p.name for part in LEFTOVERS)]
