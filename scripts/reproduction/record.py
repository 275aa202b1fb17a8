"""The record of a run, docs/results/<name>.json: how it was trained and what it measured, from its own files.

    config.json  data.json  progress.json  events.*  evaluation/<step>.json  samples/<folder>/*.png

A record is published, so of paths on the machine that trained the run it keeps the last part only. Names hold no more
of a guide's path (generation/guides.py). But those of samples hold the whole paths of images that they were made from,
with underscores for slashes, so these are left out.
"""

import copy
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.commands.cli import parse_flags
from ddpm_jax.config import Config, config_of, fields_fixed_by, flatten, load_recipe, without_folders
from ddpm_jax.config.recipes import RECIPES
from ddpm_jax.errors import UserError, abbreviated, nearest, shell_command
from ddpm_jax.evaluation.results import Result, all_results
from ddpm_jax.reporting.charts import line_chart
from ddpm_jax.reporting.curves import read_curves
from ddpm_jax.runtime.files import staged
from ddpm_jax.runtime.urls import AnyPath, names_in
from ddpm_jax.training.checkpoint import checkpoint_steps
from ddpm_jax.workdir import Segment, checkpoint_folder, images_trained_on, read_config, read_progress

PICTURES = ("grid", "strip", "stages")
"""Pictures in a folder of samples that a record shows."""
CURVES = ("train/loss", "validation/loss_ema")
"""The curves in TensorBoard that a record shows."""
LARGEST_PICTURE = 2**21
"""Bytes; a picture stays in the repository for good."""
PATHS_IN_NAME = re.compile(r"-(?:images|originals|mask)-.*?((?:-of)?(?:-[0-9a-f]{8})*)$")
"""The fields of sample.* with paths in the name of a folder of samples, before the checksums at its end."""
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Record(NamedTuple):
    """What is known of a run."""

    recipe: str
    """Such as "configs/digits.py" or "configs/digits.py:consistency"."""
    config: dict[str, Any]
    """The fields that training depends on, by their dotted names."""
    step: int
    """The last step of the run."""
    images: int
    """Number of images in its data set, held-out ones included."""
    segments: list[dict[str, Any]]
    """`workdir.Segment`s without their commands, which name paths."""
    measured_step: int | None
    results: dict[str, Result]
    """The results of that step by name, as --mode=evaluate wrote them, without the terms of the bound by t."""
    samples: str | None
    """The name of the folder of samples that the pictures are from, without paths."""
    pictures: list[str]
    """Those of PICTURES that there are."""
    losses: bool = False
    """Whether there is a chart of CURVES."""
    note: str = ""
    """A remark of whoever added the run, such as the credit for its images."""


def add(
    workdir: AnyPath,
    name: str,
    docs: Path,
    *,
    recipe: str | None = None,
    samples: str | None = None,
    note: str | None = None,
) -> None:
    """Writes the record of a run, and its pictures.

    recipe: for a run that has not recorded it; samples: a folder in <workdir>/samples/, for a run with several;
    note: as in the record, or None for that of the former record of this name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name={name} should be lower-case letters, digits and hyphens, such as cifar10-small.")
    shown = chosen_samples(workdir, samples)
    record, curves = record_of(workdir, recipe, shown), loss_curves(workdir)
    contents = {each: (workdir / "samples" / str(shown) / f"{each}.png").read_bytes() for each in record.pictures}
    if note is None:
        note = former.note if (former := read_records(docs).get(name)) else ""
    record = record._replace(note=note, losses=bool(curves))
    for each, content in contents.items():
        if len(content) > LARGEST_PICTURE:
            raise UserError(
                f"{each}.png of {shown} has {len(content):,} bytes; expected at most {LARGEST_PICTURE:,}. "
                "Sample fewer images (--config.sample.count=16) and name their folder in --samples."
            )
    folder = docs / "pictures" / "results"
    for needed in (folder, docs / "results"):
        needed.mkdir(parents=True, exist_ok=True)
    for each in PICTURES:
        (folder / f"{name}-{each}.png").unlink(missing_ok=True)
        if each in contents:
            (folder / f"{name}-{each}.png").write_bytes(contents[each])
    chart = folder / f"{name}-loss.png"
    chart.unlink(missing_ok=True)
    if curves:
        line_chart(chart, curves, "step", "loss", log_x=True)
    with staged(docs / "results" / f"{name}.json") as partial:
        partial.write_text(json.dumps(record._asdict(), indent=2) + "\n", encoding="utf-8")


def record_of(workdir: AnyPath, recipe: str | None = None, shown: str | None = None) -> Record:
    """The record of a run and a folder of its samples; raises UserError for one that has measured and shown nothing."""
    config, images = read_config(workdir), images_trained_on(workdir)
    segments = read_progress(workdir, config.train.steps).segments
    # A copy of a run may have no checkpoints, which are large.
    reached = checkpoint_steps(checkpoint_folder(workdir)) or [segment.end for segment in segments]
    if images is None or not reached:
        raise UserError(f"{workdir} has not been trained yet (no data.json, or no checkpoint); train it first.")
    rows = all_results(workdir / "evaluation")
    measured = max((row.step for row in rows), default=None)
    if measured is None and shown is None:
        commands = (shell_command(f"--mode={mode}", f"--workdir={workdir}") for mode in ("sample", "evaluate"))
        raise UserError(f"{workdir} holds neither results nor samples; run one of: {'; '.join(commands)}")
    files = names_in(workdir / "samples" / shown) if shown else []
    return Record(
        recipe=recipe_name(recipe or recorded_recipe(segments, workdir)),
        config=training_fields(config) | {"data.path": without_folders(config).data.path},
        step=max(reached),
        images=images,
        segments=[{key: value for key, value in part._asdict().items() if key != "command"} for part in segments],
        measured_step=measured,
        results={row.name: result_without_folders(row.result) for row in rows if row.step == measured},
        samples=shown and PATHS_IN_NAME.sub(r"\1", shown),
        pictures=[each for each in PICTURES if f"{each}.png" in files],
    )


def loss_curves(workdir: AnyPath) -> dict[str, list[tuple[int, float]]]:
    """The points (step, loss) of CURVES, as far as a run has them on this machine."""
    curves = read_curves(workdir) if isinstance(workdir, Path) else {}
    return {name: curves[name] for name in CURVES if name in curves}


def recorded_recipe(segments: Sequence[Segment], workdir: AnyPath) -> str:
    """The recipe in the command that began a run."""
    try:
        recipe = parse_flags(shlex.split(segments[0].command)).recipe if segments else None
    except (UserError, ValueError):  # The command of another program, such as a notebook.
        recipe = None
    if recipe is None:
        raise UserError(f"{workdir} has not recorded its recipe; name it: --recipe=configs/NAME.py")
    return recipe


def recipe_name(recipe: str) -> str:
    """The name under which results list a recipe, such as "configs/digits.py:consistency"."""
    path, colon, variant = recipe.partition(":")
    known = {shipped.stem for shipped in RECIPES.glob("*.py")}
    if (stem := Path(path).stem) not in known:
        raise UserError(f"{path} is none of the recipes of this project; {nearest(stem, known)}")
    return f"configs/{stem}.py{colon}{variant}"


def recipe_fields(recipe: str) -> dict[str, Any]:
    """The fields of a recipe, by its name, that training depends on."""
    return training_fields(config_of(load_recipe(recipe)))


def training_fields(config: Config) -> dict[str, Any]:
    """The fields that the result of training depends on, as JSON reads them."""
    flat, free = flatten(without_folders(config)), set(fields_fixed_by("nothing")) - {"train.steps"}
    return json.loads(json.dumps({name: value for name, value in flat.items() if name not in free}))


def result_without_folders(result: Result) -> Result:
    """A result without the terms by t, and without the folders of paths in its protocol."""
    result = copy.deepcopy({key: value for key, value in result.items() if key != "L_by_t"})
    protocol = result["protocol"]
    for part in (protocol.get("real"), protocol.get("drawn", {}).get("guide")):
        if part:
            part["from"] = part["from"] and Path(part["from"]).name
    return result


def chosen_samples(workdir: AnyPath, given: str | None) -> str | None:
    """The folder of samples to show: the given one, or the only one; None if there is none."""
    names = sorted(name for name in names_in(workdir / "samples") if not name.startswith("."))
    if given is not None:
        if given not in names:
            raise UserError(f"--samples={given} is no folder in {workdir / 'samples'}; {nearest(given, names)}")
        return given
    if len(names) > 1:
        raise UserError(f"{workdir / 'samples'} has several folders; name one in --samples: {abbreviated(names)}")
    return names[0] if names else None


def read_records(docs: Path) -> dict[str, Record]:
    """All records by name; raises UserError for a file that is none."""
    records = {}
    for path in sorted((docs / "results").glob("*.json")):
        try:
            records[path.stem] = Record(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is no record of a run ({error}); add the run again, or remove the file."
            ) from error
    return records
