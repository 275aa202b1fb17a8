"""TensorFlow Datasets sets by name.

Prepared sets are read without TensorFlow; others are downloaded and prepared first, in a separate process
(prepare_tfds.py). Sets are stored in <data.path, TFDS_DATA_DIR or ~/tensorflow_datasets>/<name>[/<config>]/<version>/.
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ddpm_jax.config.sections import Data
from ddpm_jax.data.collection import Collection
from ddpm_jax.data.sources.array_record import open_array_record
from ddpm_jax.data.sources.prepare_tfds import INSTALL
from ddpm_jax.errors import UserError, shell_command
from ddpm_jax.runtime.signals import POLL_S, raise_if_stopped

PREPARE = "ddpm_jax.data.sources.prepare_tfds"
NEEDED = ("tensorflow", "tensorflow_datasets")


def open_tfds(data: Data) -> Collection:
    """The images of a set such as "mnist", "celeb_a", "name/config" or "name:1.0.0"."""
    if not data.name:
        raise UserError("data.name is not set; name a TensorFlow Datasets set, such as --config.data.name=mnist.")
    place = data_dir(data.path)
    prepared = find_prepared(place, data.name)
    if prepared is None:
        _prepare(place, data.name)
        prepared = find_prepared(place, data.name)
        if prepared is None:
            raise UserError(f"data.name={data.name!r}: nothing was prepared in {place}.")
    return open_array_record(dataclasses.replace(data, path=str(prepared)))


def data_dir(path: str | None) -> Path:
    """The folder of prepared sets."""
    try:
        return Path(path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    except RuntimeError as error:
        raise UserError("data.path is not set, and there is no home folder; set it to the prepared sets.") from error


def find_prepared(place: Path, name: str) -> Path | None:
    """The folder of a prepared set; without a version in its name, that of the newest."""
    match = re.fullmatch(r"(\w+)(?:/([\w.-]+))?(?::(\d+\.\d+\.\d+))?", name)
    if match is None:
        raise UserError(f"data.name={name!r} is not the name of a set; expected name, name/config or name:1.0.0.")
    base, config, version = match.groups()
    folder = place / base
    if config is None and (default := folder / ".config" / "metadata.json").is_file():
        try:
            config = json.loads(default.read_text()).get("default_config_name")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"{default} cannot be read ({error}); prepare the set again.") from error
    folder = folder / config if config else folder
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    if version is not None:
        versions = [path for path in versions if path.name == version]
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def _prepare(place: Path, name: str) -> None:
    """Runs prepare_tfds.py, whose last line of output is the reason for a failure."""
    suggested = shell_command("python", "-m", PREPARE, name, "--data_dir", place)
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"data.name={name!r} is not prepared in {place}, and {missing[0]} is not installed to prepare it; "
            f"{INSTALL} (in a separate environment if you like, running {suggested} there), or set data.path to the "
            "images."
        )
    code, printed = _run([sys.executable, "-m", PREPARE, name, "--data_dir", str(place)])
    if code:
        raise_if_stopped()  # A signal to the whole process group ends that process, too.
        lines = printed.decode("utf-8", "replace").strip().splitlines()
        raise UserError(f"data.name={name!r}: {lines[-1] if lines else f'{suggested} failed, see above'}")


def _run(command: list[str]) -> tuple[int, bytes]:
    """The exit code and output of a command, which is killed if this process is stopped."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    printed, _ = process.communicate(timeout=POLL_S)
                    return process.returncode, printed
                raise_if_stopped()
        finally:
            process.kill()
