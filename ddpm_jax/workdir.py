"""The files of a run, and the rule that one workdir holds one run.

<workdir>/config.json  data.json  labels.json  progress.json  train.log  checkpoints/<step>/  samples/<name>/
          ema_snapshots/<step>/ (with optimizer.ema_snapshots)  wandb.json (with log.wandb)
          TensorBoard event files  .train.* (while a job trains: locks.py)

A workdir is a folder, or a URL (runtime/urls.py).
"""

import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from ddpm_jax.config import Config, changes, differences, fields_fixed_by, from_tree, to_json
from ddpm_jax.data.dataset import Dataset, Identity, Traits, difference, identity
from ddpm_jax.data.fingerprints import Fingerprints
from ddpm_jax.errors import UserError, copy_command, script, shell_command
from ddpm_jax.runtime.devices import wait_for_all
from ddpm_jax.runtime.files import staged
from ddpm_jax.runtime.locks import exclusive_lock, newest_job
from ddpm_jax.runtime.urls import AnyPath, names_in

T = TypeVar("T")

logger = logging.getLogger(__name__)


def checkpoint_folder(workdir: AnyPath) -> AnyPath:
    """The folder of the checkpoints of a run."""
    return workdir / "checkpoints"


def snapshot_folder(workdir: AnyPath) -> AnyPath:
    """The folder of the snapshots of power-function EMAs of a run."""
    return workdir / "ema_snapshots"


def no_checkpoint(workdir: AnyPath) -> UserError:
    """The error for a run that has no checkpoint yet."""
    return UserError(f"{workdir} holds no checkpoint yet; train first: {_training_command(workdir)}")


def _training_command(workdir: AnyPath) -> str:
    return shell_command("--config=FILE", f"--workdir={workdir}")


def read_config(workdir: AnyPath) -> Config:
    """The configuration of the run in a workdir."""
    path = workdir / "config.json"
    try:
        tree = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{workdir} holds no run (no config.json); train one: {_training_command(workdir)}") from error
    except (ValueError, RecursionError) as error:  # A UnicodeDecodeError is a ValueError.
        restore = _restoring_config(workdir)
        remedy = f"; restore it: {restore}" if restore else "."
        raise UserError(f"{path} is not valid JSON ({error}){remedy}") from error
    return from_tree(tree, str(path))


def refuse_another_run(workdir: AnyPath, config: Config) -> None:
    """Raises UserError if the workdir holds a run that cannot continue with this configuration; writes nothing."""
    refuse_fields_of_commands(config)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; give a folder.")
    if not (workdir / "config.json").exists():
        _refuse_checkpoints_without_config(workdir)
        return
    before = read_config(workdir)
    steps = [int(name) for name in names_in(checkpoint_folder(workdir)) if name.isdecimal()]
    # Imported parameters, at step 0, have not been trained here yet, so only the fields that they depend on are fixed.
    if (workdir / "data.json").exists() or any(steps):
        changed = differences(before, config)
        fields = {name: now for name, (_, now) in changed.items()}
        # Training writes data.json before its first checkpoint.
        remedy = _remedy_for(workdir, fields) if any(steps) else "choose another --workdir, or remove this one."
    else:
        fixed = fields_fixed_by("parameters", "optimizer")
        changed = {name: values for name, values in changes(before, config).items() if name in fixed}
        remedy = "imported parameters fix these fields."
    if changed:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise UserError(f"{workdir} holds a run with another configuration ({listed}); {remedy}")
    if (workdir / "data.json").exists():
        _read_identity(workdir)  # Damage is refused before anything else is prepared.


def refuse_fields_of_commands(config: Config) -> None:
    """Raises UserError for fields that config.json must not hold, where all later commands would take them over."""
    for name in ("out", "guide"):
        if (value := getattr(config.sample, name)) is not None:
            raise UserError(
                f"sample.{name}={value} is for --mode=sample and --mode=evaluate; leave it out, or set "
                f"--config.sample.{name}=None if the recipe or the run's config.json sets it."
            )


def _remedy_for(workdir: AnyPath, fields: Mapping[str, Any]) -> str:
    """The remedy for fields that cannot change while a run resumes, by their new values."""
    if fields.keys() & {"train.start_from", *fields_fixed_by("parameters")}:
        return "choose another --workdir."
    file, new = (workdir.with_name(workdir.name + suffix) for suffix in (".safetensors", "-2"))
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    steps = (
        shell_command("python", script("scripts/export_safetensors.py"), workdir, file),
        shell_command("python", script("scripts/import_safetensors.py"), file, new, *flags),
        shell_command(f"--workdir={new}"),
    )
    return f"to train its parameters on with these, from step 0 of a new workdir: {' && '.join(steps)}"


def next_command(config: Config, workdir: AnyPath) -> str:
    """The command that samples from a run."""
    given = ["--config.sample.task=condition", "--config.sample.originals=photos/"] if config.condition_shape else []
    return shell_command("--mode=sample", f"--workdir={workdir}", *given)


def _refuse_checkpoints_without_config(workdir: AnyPath) -> None:
    """Without the configuration, it is unknown whether the checkpoints belong to the requested run."""
    if restore := _restoring_config(workdir):
        raise UserError(f"{workdir} holds checkpoints, but its config.json is missing; restore it: {restore}")


def _restoring_config(workdir: AnyPath) -> str | None:
    """The command that copies the configuration from the newest checkpoint; None if there is no checkpoint."""
    copies = {path.parts[-3]: path for path in checkpoint_folder(workdir).glob("*/config/metadata")}
    steps = [int(step) for step in copies if step.isdecimal()]
    return copy_command(copies[str(max(steps))], workdir / "config.json") if steps else None


@contextmanager
def acquired(workdir: AnyPath, config: Config, dataset: Dataset) -> Iterator[Callable[[], None]]:
    """Makes this the job that trains in the workdir, and calls `acquire`; other processes wait until that is done.

    Yields a function to call before each save, which raises UserError if another job has begun since, as at a URL.
    """
    refusal = f"Another job is training in {workdir}; wait for it, or choose another --workdir."
    with ExitStack() as held:
        confirm: Callable[[], None] = lambda: None  # noqa: E731
        if jax.process_index() == 0:
            if isinstance(workdir, Path):
                held.enter_context(exclusive_lock(workdir / ".train.lock", refusal))
            else:
                confirm = held.enter_context(newest_job(workdir / ".train.holder.json"))
            acquire(workdir, config, identity(dataset))
        wait_for_all("acquired")
        yield confirm


def acquire(workdir: AnyPath, config: Config, data: Identity) -> None:
    """Writes the configuration and the identity of the data, and logs changed fields; refuses other data."""
    workdir.mkdir(parents=True, exist_ok=True)
    if (workdir / "data.json").exists():
        _refuse_other_data(workdir, data)
    if (workdir / "config.json").exists():
        for name, (before, now) in changes(read_config(workdir), config).items():
            follows = "; the learning-rate schedule follows the new length" if name == "train.steps" else ""
            logger.info("%s was %r and is now %r%s", name, before, now, follows)
    write_config(workdir, config, data.traits.names)
    table = {"images": data.traits.images, "crc32": data.traits.crc32, "labels": data.labels}
    _write(workdir / "data.json", table | (data.fingerprints._asdict() if data.fingerprints else {}))


def write_config(workdir: AnyPath, config: Config, names: Sequence[str]) -> None:
    """Writes the configuration, and the names of the classes or attributes."""
    with staged(workdir / "config.json") as partial:
        partial.write_text(to_json(config), encoding="utf-8")
    _write(workdir / "labels.json", names)


def _refuse_other_data(workdir: AnyPath, now: Identity) -> None:
    before = _read_identity(workdir)
    if changed := difference(before, now):
        raise UserError(
            f"{workdir} was trained on other data ({changed}); restore what data.path held, give the "
            "data.path of the original images, or choose another --workdir."
        )
    if before.fingerprints is None:
        logger.info("%s covered few of the images; from now on it covers all of them", workdir / "data.json")


def read_label_names(workdir: AnyPath) -> tuple[str, ...]:
    """The names of the classes or attributes, in the order of their numbers."""
    path = workdir / "labels.json"
    text = _read(path, str, "it lists the names of the classes as JSON.")
    return parse_label_names(text, str(path))


def parse_label_names(text: str, where: str) -> tuple[str, ...]:
    """The names in a JSON list of strings; where: the source of the text, for messages."""
    try:
        names = json.loads(text)
        "".join(names).encode()  # Surrogates cannot be written to a file or a terminal.
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{where} cannot be read ({error}); expected a JSON list of names.") from error
    if not isinstance(names, list):
        raise UserError(f"{where} holds {str(names)[:80]}; expected a JSON list of names.")
    return tuple(names)


class Segment(NamedTuple):
    """The part of a run that one command trained: where, with which code, and how long."""

    command: str
    """The command line of the process; control characters, and bytes that are not UTF-8, are written as escapes."""
    commit: str | None
    """The commit of the code, with "-dirty" if files differ from it; None if it is unknown."""
    devices: str
    """Number and kind of the devices, as logged at the start."""
    jax: str
    """The version of JAX."""
    start: int
    end: int
    """Steps of the run that were done before the segment, and at its latest record."""
    seconds: float
    """Time from loading the state to that record: compiling, steps, validation, evaluation, previews and checkpoints.

    After a kill it may include steps that the next segment repeats, and it lacks the time from the record to the kill.
    So the sum of a run is a lower bound; where the next segment starts at another step than `end`, results say so.
    """


class Progress(NamedTuple):
    """The state of monitoring and the history of a run, which checkpoints do not hold."""

    monitored: int
    """The step up to which all due validations, evaluations and previews are done."""
    lows: Mapping[str, Sequence[tuple[int, float]]]
    """For each curve the points (step, value) lower than all before."""
    segments: Sequence[Segment] = ()
    """In the order of their starts; runs of older versions recorded none."""


def read_progress(workdir: AnyPath, step: int) -> Progress:
    """The progress at a step from which the run resumes.

    Without the file, as in runs of older versions, everything due counts as done. Only the first process reads it; the
    others get no curves.
    """
    path = workdir / "progress.json"
    if jax.process_index() > 0 or not path.exists():
        return Progress(step, {})
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        lows = {str(name): [(int(at), float(low)) for at, low in points] for name, points in saved["lows"].items()}
        monitored = min(int(saved["monitored"]), step)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        logger.warning("%s cannot be read (%r); the lowest values and the training times so far are lost.", path, error)
        return Progress(step, {})
    try:
        segments = tuple(_segment(table) for table in saved.get("segments", ()))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        logger.warning("The segments in %s cannot be read (%r); the training times so far are lost.", path, error)
        segments = ()
    return Progress(monitored, lows, segments)


def _segment(table: Mapping[str, Any]) -> Segment:
    """A segment from its JSON; fields that a later version has added are ignored."""
    commit = table["commit"]
    return Segment(
        command=str(table["command"]),
        commit=None if commit is None else str(commit),
        devices=str(table["devices"]),
        jax=str(table["jax"]),
        start=int(table["start"]),
        end=int(table["end"]),
        seconds=float(table["seconds"]),
    )


def write_progress(workdir: AnyPath, progress: Progress, confirm: Callable[[], None] = lambda: None) -> None:
    """Saves the progress for a later start; only the first process writes.

    confirm: as `acquired` yields it. Raises UserError if the workdir is gone, or another job has begun.
    """
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} was moved or removed during training; restore it, and start again.")
    if jax.process_index() == 0:
        confirm()
        segments = [segment._asdict() for segment in progress.segments]
        _write(workdir / "progress.json", {**progress._asdict(), "segments": segments})


def wandb_id(workdir: AnyPath) -> str:
    """The id of this run at Weights & Biases: created once, so that runs of the same name are distinct."""
    path = workdir / "wandb.json"
    if not path.exists():
        # Older versions used the folder's name, and left wandb's own folder there.
        _write(path, {"id": workdir.name if (workdir / "wandb").is_dir() else uuid.uuid4().hex[:12]})
    return _read(path, lambda text: str(json.loads(text)["id"]), "remove it to begin another run at W&B.")


def images_trained_on(workdir: AnyPath) -> int | None:
    """The number of images in the data set of a run; None before its first training."""
    return _read_data(workdir, ()).traits.images if (workdir / "data.json").exists() else None


def _read_identity(workdir: AnyPath) -> Identity:
    return _read_data(workdir, read_label_names(workdir))


def _read_data(workdir: AnyPath, names: tuple[str, ...]) -> Identity:
    """The identity of the data in data.json; names: of the labels, which it does not hold."""

    def parse(text: str) -> Identity:
        table = json.loads(text)
        found = Traits(int(table["images"]), names, int(table["crc32"]))
        if "ordered" not in table:  # As older versions wrote it.
            return Identity(found, 0, None)
        kind = table["kind"] if "kind" in table else table["basis"]  # Its name for a while.
        unordered = table["unordered"]
        known = Fingerprints(str(kind), int(table["ordered"]), None if unordered is None else int(unordered))
        return Identity(found, int(table["labels"]), known)

    return _read(workdir / "data.json", parse, "remove it if the data is unchanged.")


def _read(path: AnyPath, parse: Callable[[str], T], remedy: str) -> T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); {remedy}") from error


def _write(path: AnyPath, value: Any) -> None:
    with staged(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
