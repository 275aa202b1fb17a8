"""What a run keeps on disk, and the rule that one workdir holds one run.

<workdir>/config.json  data.json  labels.json  progress.json  train.log  checkpoints/<step>/  samples/<name>/
          wandb.json (only where log.wandb is set)  TensorBoard's events
"""

import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpm_jax.config import Config, changes, differences, fields_fixed_by, from_json, to_json
from ddpm_jax.data.dataset import Traits
from ddpm_jax.errors import UserError, program
from ddpm_jax.runtime.devices import wait_for_all
from ddpm_jax.runtime.files import staged
from ddpm_jax.runtime.locks import exclusive_lock

logger = logging.getLogger(__name__)


def checkpoint_folder(workdir: Path) -> Path:
    """Where the checkpoints of a run lie."""
    return workdir / "checkpoints"


def no_checkpoint(workdir: Path) -> UserError:
    """The error for a run that has no checkpoint to sample from."""
    return UserError(f"{workdir} holds no checkpoint yet; train first: {program()} --config=… --workdir={workdir}")


def read_config(workdir: Path) -> Config:
    """The configuration that a run was started with."""
    path = workdir / "config.json"
    try:
        return from_json(path.read_text(), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{workdir} holds no run (no config.json); train one: {program()} --config=… --workdir={workdir}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text ({error}); every checkpoint of the run holds a copy.") from error


def refuse_another_run(workdir: Path, config: Config) -> None:
    """Refuses to go on with a run under a configuration that it was not started with; writes nothing."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; give a folder.")
    if not (workdir / "config.json").exists():
        _refuse_checkpoints_without_config(workdir)
        return
    before = read_config(workdir)
    # Parameters that came from elsewhere have seen no data here yet, so only what they were made with is settled.
    begun = has_begun(workdir)
    changed = differences(before, config) if begun else unfit(before, config)
    if changed:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        remedy = "choose another --workdir." if begun else "what parameters need is settled when they are imported."
        raise UserError(f"{workdir} holds a run with another configuration ({listed}); {remedy}")


def _refuse_checkpoints_without_config(workdir: Path) -> None:
    """Nobody could tell whether the run that they are of is the one that is asked for."""
    copies = {path.parts[-3]: path for path in checkpoint_folder(workdir).glob("*/config/metadata")}
    if steps := [int(step) for step in copies if step.isdecimal()]:
        raise UserError(
            f"{workdir} holds checkpoints, but its config.json is gone; bring it back: "
            f"cp {copies[str(max(steps))]} {workdir / 'config.json'}"
        )


def has_begun(workdir: Path) -> bool:
    """Whether a run has trained here, or is about to: it knows its data, or has a checkpoint of a later step."""
    later = (path.name for path in checkpoint_folder(workdir).glob("*") if path.name.isdecimal() and int(path.name))
    return (workdir / "data.json").exists() or any(later)


def unfit(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which a run cannot change before its first step: those of its parameters and of its optimiser."""
    settled = fields_fixed_by("parameters", "optimizer")
    return {name: values for name, values in changes(before, now).items() if name in settled}


@contextmanager
def acquired(workdir: Path, config: Config, data: Traits) -> Iterator[None]:
    """Keeps the workdir for this job while it trains, and writes down what it trains; other processes wait for that."""
    refusal = f"Another job is training in {workdir}; wait for it, or choose another --workdir."
    with ExitStack() as held:
        if jax.process_index() == 0:
            held.enter_context(exclusive_lock(workdir / ".train.lock", refusal))
            acquire(workdir, config, data)
        wait_for_all("acquired")
        yield


def acquire(workdir: Path, config: Config, data: Traits) -> None:
    """Writes the configuration, and says what changed since the run was last started; refuses other images."""
    workdir.mkdir(parents=True, exist_ok=True)
    if (workdir / "data.json").exists():
        _refuse_other_data(workdir, data)
    if (workdir / "config.json").exists():
        for name, (before, now) in changes(read_config(workdir), config).items():
            follows = "; the learning-rate schedule follows the new length" if name == "train.steps" else ""
            logger.info("%s was %r and is now %r%s", name, before, now, follows)
    write_config(workdir, config, data.names)
    _write(workdir / "data.json", json.dumps({"images": data.images, "crc32": data.crc32}) + "\n")


def write_config(workdir: Path, config: Config, names: Sequence[str]) -> None:
    """The configuration, and the names of the classes or attributes."""
    _write(workdir / "config.json", to_json(config))
    _write(workdir / "labels.json", json.dumps(names, ensure_ascii=False) + "\n")


def _refuse_other_data(workdir: Path, now: Traits) -> None:
    """A run that goes on with other images would be neither the one nor the other."""
    images, crc32 = _read_traits(workdir / "data.json")
    names = read_label_names(workdir)
    if (images, names, crc32) != (now.images, now.names, now.crc32):
        what = f"{images:,} images, now {now.images:,}" if images != now.images else "other images or labels"
        raise UserError(
            f"{workdir} was trained on other data ({what}); bring back what data.path held, or choose another "
            "--workdir."
        )


def read_label_names(workdir: Path) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers."""
    path = workdir / "labels.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); it lists the names of the classes as JSON.") from error
    return parse_label_names(text, str(path))


def parse_label_names(text: str, where: str) -> tuple[str, ...]:
    """The names in a JSON list of texts."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read ({error}); it lists the names of the classes as JSON.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} holds {str(names)[:80]}; expected a list of names.")
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds a name that is no text ({error}).") from error
    return tuple(names)


class Progress(NamedTuple):
    """What a run has measured so far, besides what its checkpoints hold."""

    monitored: int
    """The step up to which all validation, evaluation and previews that were due are done."""
    lows: Mapping[str, Sequence[tuple[int, float]]]
    """For each curve the points (step, value) that were lower than all before them."""


def read_progress(workdir: Path, step: int) -> Progress:
    """The progress as it stood at a step from which the run resumes.

    Where nothing is noted, as in runs that older versions trained, all that was due counts as done. The first process
    reads; the others get the same without the curves.
    """
    path = workdir / "progress.json"
    if jax.process_index() > 0 or not path.exists():
        return Progress(step, {})
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        lows = {str(name): [(int(at), float(low)) for at, low in points] for name, points in saved["lows"].items()}
        return Progress(min(int(saved["monitored"]), step), lows)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s cannot be read (%r); the lowest values of the run so far are not known.", path, error)
        return Progress(step, {})


def write_progress(workdir: Path, progress: Progress) -> None:
    """Notes the progress for a later start; only the first process writes.

    Raises UserError where the workdir is gone.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} was moved or removed while it was trained in; bring it back, and start again.")
    if jax.process_index() == 0:
        _write(workdir / "progress.json", json.dumps(progress._asdict()) + "\n")


def wandb_id(workdir: Path) -> str:
    """The id under which Weights & Biases knows this run: made once, so that runs of one name stay apart."""
    path = workdir / "wandb.json"
    if not path.exists():
        # Older versions took the folder's name, and left wandb's own folder there.
        made = workdir.name if (workdir / "wandb").is_dir() else uuid.uuid4().hex[:12]
        _write(path, json.dumps({"id": made}) + "\n")
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); remove it to begin another run at W&B.") from error


def images_trained_on(workdir: Path) -> int | None:
    """How many images a run's set has, or None where it has seen none yet."""
    path = workdir / "data.json"
    return _read_traits(path)[0] if path.exists() else None


def _read_traits(path: Path) -> tuple[int, int]:
    try:
        table = json.loads(path.read_text())
        return int(table["images"]), int(table["crc32"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); remove it if the data is what it was.") from error


def _write(path: Path, text: str) -> None:
    with staged(path) as partial:
        partial.write_text(text, encoding="utf-8")
