"""The real command, in a process of its own, as a user runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ddpm_jax.config import config_of
from ddpm_jax.train import build_learner, start_state
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.sharding import data_mesh
from ddpm_jax.training.state import TrainState

ROOT = Path(__file__).parents[2]
RECIPE = f"--config={ROOT}/configs/digits.py:smoke"


def start(*argv: str, devices: int = 1, told: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen:
    """main.py with these arguments, on so many made-up CPU devices; told: of its environment."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, ROOT / "main.py", *argv],
        env={**os.environ, "XLA_FLAGS": flags, **told},
        stderr=subprocess.PIPE,
        text=True,
    )


def start_job(*argv: str, processes: int, devices: int) -> list[subprocess.Popen]:
    """So many processes of one job, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        told = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": str(processes)}
    return [start(*argv, devices=devices, told=told | {"JAX_PROCESS_ID": str(i)}) for i in range(processes)]


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """The exit code and what was printed."""
    _, printed = process.communicate(timeout=500)
    return process.returncode, printed


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


def final_state(workdir: Path) -> TrainState:
    """The newest checkpoint of a run."""
    config = config_of(json.loads((workdir / "config.json").read_text()))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return start_state(config, build_learner(config, data_mesh()), checkpoints)


def scalars(workdir: Path, name: str) -> dict[int, float]:
    """A curve that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return {event.step: event.value for event in EventAccumulator(str(workdir)).Reload().Scalars(name)}


def assert_same_bits(a, b) -> None:
    """Two trees hold the same numbers, to the last bit."""
    import jax

    jax.tree.map(np.testing.assert_array_equal, a, b)
