"""Parameters that were trained elsewhere, as a new run at step 0, from which one can sample and train."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ddpm_jax.builders import state_extras
from ddpm_jax.config import Config, flatten, to_tree
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import staged
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.urls import is_url
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.optimizer import build_optimizer
from ddpm_jax.training.state import first_state
from ddpm_jax.workdir import checkpoint_folder, next_command, refuse_fields_of_commands, write_config

CHANGEABLE = ("sample.", "train.", "model.dropout")
"""Fields of an imported model that may be changed."""

logger = logging.getLogger(__name__)


def refuse_contradictions(fields: Mapping[str, Any], config: Config) -> None:
    """Raises UserError if a configuration changes a field that the imported parameters determine."""
    given = flatten(config)
    for name, value in fields.items():
        if given[name] != value and not name.startswith(CHANGEABLE):
            raise UserError(f"{name} is {value!r} in the imported model and cannot be set to {given[name]!r}.")


def start_run(
    config: Config, workdir: Path, params: PyTree, names: Sequence[str], *, ema: PyTree | None = None
) -> None:
    """Writes a new run with these parameters at step 0; ema: EMA parameters, by default the same.

    names: of the classes or attributes. The workdir appears once it is complete.
    """
    refuse_fields_of_commands(config)
    with new_folder(workdir) as partial:
        params, ema = jax.tree.map(jnp.asarray, (params, ema))
        optimizer = build_optimizer(config.optimizer, config.train.steps)
        state = first_state(params, optimizer, ema, **state_extras(config))
        with Checkpoints(checkpoint_folder(partial)) as checkpoints:
            checkpoints.save(state, to_tree(config))
        write_config(partial, config, names)
    logger.info("Wrote %s. Next: %s", workdir, next_command(config, workdir))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder to fill, which is renamed to the target when the block succeeds and removed when it fails.

    Raises UserError if the target is not empty, or another job is writing it.
    """
    refusal = f"Another job is writing {target}; wait for it, or choose another folder."
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target} cannot be created ({error.strerror}); choose a writable folder.") from error
    with exclusive_lock(target.with_name(f".{target.name}.lock"), refusal):
        refuse_full(target)
        with staged(target, folder=True) as partial:
            yield partial


def new_workdir(path: str) -> Path:
    """The absolute path of a new run, which must be a local folder without files."""
    if is_url(path):
        raise UserError(f"{path} is a URL; write the run to a local folder, and copy that there.")
    workdir = Path(path).expanduser().resolve()
    refuse_full(workdir)
    return workdir


def refuse_full(folder: Path) -> None:
    """Raises UserError if a folder is not empty, or would be inside a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; choose a new folder, or remove its files.")
    nearest = next(parent for parent in folder.parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"{folder} cannot be created: {nearest} is a file; choose another folder.")


def numbered(config: Config) -> list[str]:
    """Numbers as the names of classes or attributes without names."""
    return [str(number) for number in range(config.label_width)]
