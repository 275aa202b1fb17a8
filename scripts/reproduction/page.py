"""The page docs/results.md, rendered from the records of runs and from the recipes as they are now."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.commands.plan import duration_in_words
from ddpm_jax.config.recipes import RECIPES
from ddpm_jax.data.dataset import held_out
from ddpm_jax.evaluation.results import Row, table_cells
from ddpm_jax.workdir import Segment
from scripts.reproduction.record import Record, read_records, recipe_fields

INTRODUCTION = """\
# Results

Runs of the recipes that were trained here, and what they measured. This page is rendered from `docs/results/*.json`,
which `scripts/results.py` copies from the files of the runs; only notes are written by hand.

Reproduced here: *yes*, if a run of the whole recipe, as it is now, went to its end; *in part*, if a run differs from
the recipe in the fields that are listed; *no*, if there is no run. A run with another seed is one of the same recipe.
The docstring of a recipe says what it should reach, and from where that is known.

"""
ADDING = """\
## Adding a run

    python main.py --config=configs/digits.py --workdir=runs/digits
    python main.py --mode=sample --workdir=runs/digits --config.sample.sampler=ddim
    python main.py --mode=evaluate --workdir=runs/digits --config.evaluate.features=pixels
    python scripts/results.py add runs/digits --name=digits

The run knows its recipe, its commit, its devices and its time ([reliability.md](reliability.md)); each metric has its
protocol ([evaluation.md](evaluation.md)). The last command copies them, with the losses, the pictures of the samples
and the remark in `--note`, and renders this page; `python scripts/results.py render` renders it again when a
recipe has changed.
"""


def page(docs: Path) -> str:
    """The text of docs/results.md."""
    records = read_records(docs)
    recipes = {f"configs/{path.name}" for path in RECIPES.glob("*.py")} | {each.recipe for each in records.values()}
    fields = {recipe: recipe_fields(recipe) for recipe in sorted(recipes)}
    rows = []
    for recipe, known in fields.items():
        runs = {name: record for name, record in records.items() if record.recipe == recipe}
        for name, record in runs.items():
            rows.append([link(recipe), reproduced(record, known), f"[{name}](#{name})", distances(record)])
        if not runs:
            rows.append([link(recipe), "no", "", ""])
    rows.sort(key=lambda row: ("yes", "in part", "no").index(row[1].partition(":")[0]))
    sections = [section(name, record, fields[record.recipe]) for name, record in records.items()]
    heading = ["recipe", "reproduced here", "run", "lowest distances"]
    return INTRODUCTION + "\n".join([table([heading, *rows]), *sections, ADDING])


def link(recipe: str) -> str:
    """A recipe's name with a link to its file."""
    path, colon, variant = recipe.partition(":")
    return f"[{Path(path).stem}{colon}{variant}](../{path})"


def changed_fields(record: Record, recipe: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, as {name: (recipe, run)}; those that only one of them knows are of another version."""
    return {
        name: (recipe[name], value) for name, value in record.config.items() if name in recipe and recipe[name] != value
    }


def reproduced(record: Record, recipe: dict[str, Any]) -> str:
    """Whether a run reproduces its recipe, and in what it differs."""
    changed = changed_fields(record, recipe)
    parts = [f"`{name}` {new} instead of {old}" for name, (old, new) in changed.items() if name != "seed"]
    if record.step < record.config["train.steps"]:
        parts.append(f"stopped at step {record.step:,} of {record.config['train.steps']:,}")
    return f"in part: {', '.join(parts)}" if parts else "yes"


def distances(record: Record) -> str:
    """The lowest Fréchet distance of each kind."""
    found: dict[str, float] = {}
    for result in record.results.values():
        if "fid" in result:
            kind = result["protocol"]["distance"]
            found[kind] = min(result["fid"], found.get(kind, result["fid"]))
    return ", ".join(f"{kind} {value:.4g}" for kind, value in found.items())


def section(name: str, record: Record, recipe: dict[str, Any]) -> str:
    """A record: how the run was trained, its metrics with their protocols, and its pictures."""
    parts = [f"## {name}\n", table([["", ""], *facts(record, recipe)]), f"    {command(name, record, recipe)}\n"]
    if record.note:
        parts.append(f"{record.note}\n")
    if record.results:
        rows = [Row(record.measured_step or 0, each, result) for each, result in record.results.items()]
        parts += [table(table_cells(rows)), f"{protocols(record)} [{name}.json](results/{name}.json) holds all.\n"]
    for each in record.pictures:
        parts.append(f"![Samples of {name}: {each}](pictures/results/{name}-{each}.png)\n")
    if record.losses:
        parts.append(f"![Losses of {name}](pictures/results/{name}-loss.png)\n")
    if record.pictures:
        parts.append(f"Samples of the run: `{record.samples}`.\n")
    return "\n".join(parts)


def facts(record: Record, recipe: dict[str, Any]) -> Iterable[Sequence[str]]:
    """The rows about the training of a run."""
    size, trained_on = record.config["data.batch_size"], record.images
    trained_on -= held_out(record.images, record.config["data.holdout"])
    seen = record.step * size
    yield "recipe", f"{link(record.recipe)}, reproduced {reproduced(record, recipe)}"
    yield "steps", f"{record.step:,} of {size} images"
    yield "images seen", f"{seen:,}: each of the {trained_on:,} training images {seen / trained_on:,.1f} times"
    segments = [Segment(command="", **each) for each in record.segments]
    if not segments or segments[0].start:
        yield "commit, devices, time", "not recorded for the whole run"
        return
    yield "commit", in_turn(f"`{each.commit}`" if each.commit else "unknown" for each in segments)
    yield "devices", in_turn(f"{each.devices}, jax {each.jax}" for each in segments)
    yield "training time", training_time(segments, record.step)


def training_time(segments: Sequence[Segment], step: int) -> str:
    """The time of all segments of a run that has reached a step; a lower bound if one ended after its last record."""
    starts, ends = [*(each.start for each in segments[1:]), step], [each.end for each in segments]
    return "at least " * (starts != ends) + duration_in_words(sum(each.seconds for each in segments) / 3600)


def in_turn(values: Iterable[str]) -> str:
    """Different values in the order in which they first occur."""
    return ", then ".join(dict.fromkeys(values))


def command(name: str, record: Record, recipe: dict[str, Any]) -> str:
    """The command that trains such a run."""
    changed = {field: new for field, (_, new) in changed_fields(record, recipe).items()}
    if path := record.config["data.path"]:
        changed["data.path"] = path
    flags = (f"--config.{field}={tuple(new) if isinstance(new, list) else new}" for field, new in changed.items())
    return shlex.join(["python", "main.py", f"--config={record.recipe}", *flags, f"--workdir=runs/{name}"])


def protocols(record: Record) -> str:
    """The part of the protocols that the table of metrics does not show."""
    sentences = []
    for protocol in (result["protocol"] for result in record.results.values()):
        if "real" in protocol:
            real, samples = protocol["real"], f"{protocol['drawn']['images']:,} samples"
            images = f"{real['images']:,} images" if real["images"] else "an unknown number of images"
            split = f", split {real['split']}" if real["split"] else ""
            compared = f"{samples} with {images} ({real['from']}{split}) by {protocol['features']}"
            sentences.append(f"{protocol['distance']} compares {compared}.")
        else:
            sentences.append(f"The bound is that of {protocol['images']:,} {protocol['split']} images.")
    return " ".join(dict.fromkeys(sentences))


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row has the headings."""
    first, *others = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([first, "|" + "---|" * len(rows[0]), *others, ""])
