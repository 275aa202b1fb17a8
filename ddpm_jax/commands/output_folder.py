"""The folder for samples, evaluations and their logs: the workdir, or sample.out.

<sample.out>/run.json  samples/<name>/  evaluation/  sample.log  evaluate.log

Names of results do not tell runs apart, so a folder belongs to the run in its run.json, and others are refused.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.urls import AnyPath, as_path, check_folder


def output_folder(config: Config, workdir: AnyPath) -> AnyPath:
    """The folder for results of a run."""
    out = config.sample.out
    return workdir if out is None else as_path(out, "sample.out")


def create_output_folder(config: Config, workdir: AnyPath) -> AnyPath:
    """Creates the folder for results, and records in a new one to which run it belongs.

    Raises UserError if the folder is of another run.
    """
    folder = output_folder(config, workdir)
    if folder == workdir:
        return folder
    if (folder / "config.json").exists():
        raise UserError(f"sample.out={folder} is the workdir of another run; choose another folder.")
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        _record_run(folder / "run.json", str(workdir))
    return folder


def _record_run(path: AnyPath, run: str) -> None:
    """Writes run.json, or raises UserError if it names another run."""
    text = json.dumps({"workdir": run}, ensure_ascii=False) + "\n"
    if isinstance(path, Path):
        with (
            suppress(FileExistsError),
            path.open("x", encoding="utf-8") as file,
        ):  # Of two that start at once, one does.
            file.write(text)
            return
    elif not path.exists():
        path.write_text(text)
        return
    try:
        found = json.loads(path.read_bytes())["workdir"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); remove it if the folder is of {run}.") from error
    if found != run:
        raise UserError(
            f"sample.out={path.parent} holds results of {found}, not of {run}; choose another folder, or remove {path} "
            "if that run was moved."
        )


@contextmanager
def read_only_explained(workdir: AnyPath) -> Iterator[None]:
    """Turns a write that the system denies in a workdir into one line with the field that avoids writing there."""
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename))
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and isinstance(workdir, Path)
        if not denied or not path.is_relative_to(workdir) or not _is_readable(path):
            raise
        raise UserError(
            f"{error.filename}: {error.strerror}; if the run can only be read, name a folder for the results: "
            "--config.sample.out=FOLDER"
        ) from error


def _is_readable(path: Path) -> bool:
    """Whether a file can be read or, before it exists, the folder in which it would be."""
    nearest = next(each for each in (path, *path.parents) if os.path.exists(each))
    return os.access(nearest, os.R_OK | os.X_OK if nearest.is_dir() else os.R_OK)
