"""Checks every annotated shape and type of the package at run time, and keeps caches out of the user's folders."""

import atexit
import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

# Before JAX starts: tests need no accelerator, and their subprocesses share what was compiled.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Optimising code that runs once would take most of the time.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ["XDG_CACHE_HOME"] = CACHE = tempfile.mkdtemp(prefix="ddpm_jax-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from jaxtyping import install_import_hook

# The configuration checks its own types, and says what is wrong in words of its own; recipes are its input.
UNCHECKED = {"__init__", "__pycache__", "config", "configs", "pretrained", "py.typed"}
PACKAGE = Path(__file__).parents[1] / "ddpm_jax"
CHECKED = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()} - UNCHECKED
install_import_hook([f"ddpm_jax.{name}" for name in sorted(CHECKED)], "beartype.beartype")

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from ddpm_jax.diffusion.schedule import Schedule, cosine_betas, linear_betas, schedule_of_betas

OF_ALL = {"deadline": 5_000, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("short", max_examples=60, derandomize=True, **OF_ALL)
settings.register_profile("long", max_examples=20_000, **OF_ALL)
settings.load_profile("short")  # --hypothesis-profile=long comes after.


@pytest.fixture(autouse=True)
def strict_mathematics(request):
    """No silent broadcasting or type promotion in the mathematics and the networks."""
    if not any(package in request.path.parts for package in ("diffusion", "network", "sampling")):
        yield
        return
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def reference() -> dict:
    """Facts computed elsewhere in float64; t counts 1..T."""
    return json.loads((Path(__file__).parent / "reference_values.json").read_text())


@pytest.fixture(scope="session")
def linear() -> Schedule:
    return schedule_of_betas(linear_betas(1000))


@pytest.fixture(scope="session")
def cosine() -> Schedule:
    return schedule_of_betas(cosine_betas(1000))


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def package_log(caplog):
    """The messages that the package logs, from INFO up; start_log otherwise keeps them from propagating."""
    logger = logging.getLogger("ddpm_jax")
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, "ddpm_jax"):
        yield caplog
    logger.propagate = before


@pytest.fixture(scope="session")
def emulator():
    """Google Cloud Storage on this machine, with a bucket named "bucket"."""
    from tests.gcs_emulator import Emulator

    started = Emulator()
    started.start()
    yield started
    started.end()


@pytest.fixture
def bucket(emulator, request):
    """A folder of this test's own in the bucket."""
    from etils import epath

    return epath.Path("gs://bucket") / re.sub(r"\W", "_", request.node.name)


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A run that the command line trained for three steps, shared by the tests that sample from one."""
    from ddpm_jax.commands import cli
    from tests.end_to_end.commands import RECIPE

    workdir = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--config.log.preview_every=0", "--config.log.validate_every=0"]
    assert cli.main(["main.py", RECIPE, f"--workdir={workdir}", *options]) == 0
    return workdir
