"""Results of evaluating a run: <workdir>/evaluation/<step>.json, charts, a table, and curves for TensorBoard.

A chart holds only metrics of the same distance, reference and number of images. A result's name ends in a checksum of
its protocol, so results under other protocols stand beside it and never replace it.
"""

import json
import logging
import re
import zlib
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.charts import line_chart, panels
from ddpm_jax.reporting.writer import TensorBoard
from ddpm_jax.runtime.files import staged
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.runtime.urls import AnyPath, local_folder, remove_tree

Result = dict[str, Any]
"""Metrics by name, and "protocol", which holds everything that they depend on."""
COLUMNS = (
    *("kid_mean", "inception_score_mean", "precision", "recall", "density", "coverage"),
    *("psnr", "ssim", "baseline_psnr", "baseline_ssim", "consistency", "bits_per_dim"),
)

logger = logging.getLogger(__name__)


def result_name(name: str, protocol: dict[str, Any]) -> str:
    """A result's name, such as "ddim-50steps-seed0-n50000-0a1b2c3d"."""
    return f"{name}-{zlib.crc32(json.dumps(protocol, sort_keys=True).encode()):08x}"


def read_results(folder: AnyPath, step: int) -> dict[str, Result]:
    """The results of a checkpoint so far, by name; raises UserError if their file is damaged."""
    path = folder / f"{step}.json"
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away to measure again.") from error
    if not isinstance(results, dict) or not all(map(_is_result, results.values())):
        raise UserError(f"{path} holds no results; move it away to measure again.")
    return results


def _is_result(result: Any) -> bool:
    protocol = result.get("protocol") if isinstance(result, dict) else None
    if not isinstance(protocol, dict):
        return False
    return "fid" not in result or {"distance", "real", "drawn"} <= protocol.keys()


def add_result(folder: AnyPath, step: int, name: str, result: Result) -> None:
    """Adds a result to <step>.json and its metrics to TensorBoard, one job at a time."""
    path, protocol = folder / f"{step}.json", result["protocol"]
    with exclusive_lock(folder / ".results.lock", None):  # One lock for all steps, since curves span them.
        results = read_results(folder, step) | {result_name(name, protocol): result}
        with staged(path) as partial:
            partial.write_text(json.dumps(results, indent=2) + "\n")
        _write_curve(folder, name, protocol)


def _write_curve(folder: AnyPath, name: str, protocol: Result) -> None:
    """Rewrites a protocol's curves, since TensorBoard connects points in the order in which they were written."""
    key, name = _curve_name(name, protocol), _without_checksum(name)
    tags = {"fid": protocol.get("distance", "")}
    remove_tree(folder / "tensorboard" / key)
    with (
        local_folder(folder / "tensorboard" / key) as curves,
        closing(TensorBoard(curves.path, None)) as writer,
    ):
        for step, other, result in all_results(folder):
            if _curve_name(other.rpartition("-")[0], result["protocol"]) == key:
                numbers = {tags.get(metric, metric): each for metric, each in result.items() if isinstance(each, float)}
                writer.scalars(step, {f"evaluation-{name}/{metric}": each for metric, each in numbers.items()})


def _curve_name(name: str, protocol: dict[str, Any]) -> str:
    """The name of a curve of results of several checkpoints under one protocol."""
    return result_name(_without_checksum(name), _without(protocol, "training_step"))


def _without_checksum(name: str) -> str:
    """A name of samples without the checksum that stands for characters a file name lacks, as in "checkpoint:300".

    That also covers the training step and whatever else varies along a curve. Protocols tell curves apart.
    """
    return re.sub(r"(?<!-timesteps)-[0-9a-f]{8}$", "", name)


class Row(NamedTuple):
    """A result with its step and name."""

    step: int
    name: str
    result: Result


def all_results(folder: AnyPath) -> list[Row]:
    """The results of all checkpoints, in order; damaged files are skipped with a warning."""
    rows = []
    for step in sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()):
        try:
            rows += [Row(step, name, result) for name, result in read_results(folder, step).items()]
        except UserError as error:
            logger.warning("%s", error)
    return rows


def draw_charts(folder: AnyPath) -> None:
    """Draws the Fréchet distance by training steps, by sampling steps and by EMA width, and each bound by t."""
    rows = all_results(folder)
    measured = [row for row in rows if "fid" in row.result]
    for varied, x_label, file in (
        ("training_step", "training step", "fid-by-training-steps.png"),
        ("steps", "sampling steps", "fid-by-sampling-steps.png"),
        ("ema_width", "EMA width", "fid-by-ema-width.png"),
    ):
        if charts := comparable_curves(measured, varied):
            with staged(folder / file) as partial:
                panels(partial, charts, x_label, "Fréchet distance", log_x=varied == "steps")
    for step, name, result in rows:
        if "L_by_t" in result:
            curve = {"": list(enumerate(result["L_by_t"], start=1))}
            with staged(folder / f"{step}-{name}.png") as partial:
                line_chart(partial, curve, "t", "bits per dimension at t", log_x=True)


def comparable_curves(rows: list[Row], varied: str) -> dict[str, dict[str, list[tuple[int | float, float]]]]:
    """Curves of comparable metrics, by title and label; titles without a curve of several points are left out."""
    grouped: dict[str, dict[str, list[tuple[int | float, float]]]] = defaultdict(lambda: defaultdict(list))
    named: dict[str, str] = {}
    for row in rows:
        drawn = row.result["protocol"]["drawn"]
        if varied not in drawn:  # The EMA of optimizer.ema_decay has no ema_width.
            continue
        label, fixed = _label(row, varied), json.dumps(_without(row.result["protocol"], varied), sort_keys=True)
        title = _title(row.result["protocol"])
        if named.setdefault(title + label, fixed) != fixed:
            label += f" ({zlib.crc32(fixed.encode()):08x})"
        grouped[title][label].append((drawn[varied], row.result["fid"]))
    charts = {}
    for title, curves in grouped.items():
        if varied == "training_step":  # A single point does not show the course of training.
            curves = {label: points for label, points in curves.items() if len(points) > 1}
        if any(len({x for x, _ in points}) > 1 for points in curves.values()):
            charts[title] = dict(curves)
    return charts


def _title(protocol: dict[str, Any]) -> str:
    """A chart's title: everything that metrics must share to be comparable."""
    real, drawn = protocol["real"], protocol["drawn"]
    origin = Path(str(real["from"])).name
    images = f"{real['images']:,} of" if real["images"] else "images of"
    title = f"{protocol['distance']} of {drawn['images']:,} images against {images} {origin} [{real['identity'][:8]}]"
    given = protocol.get("condition")
    return f"{title}, conditions: {given['originals']} [{given['originals_crc32']:08x}]" if given else title


def _label(row: Row, varied: str) -> str:
    """A curve's label: the name of its results without the varied number and without what the title holds."""
    drawn = row.result["protocol"]["drawn"]
    name = _without_checksum(row.name.rpartition("-")[0])
    kept = [part for part in name.split("-") if part != f"n{drawn['images']}"]
    if varied == "training_step":
        return "-".join(kept)
    name = "-".join(part for part in kept if varied != "steps" or part != f"{drawn['steps']}steps")
    if varied == "ema_width":
        name = name.replace(f"-ema_width-{drawn['ema_width']}", "")
    return f"{name}, step {row.step}"


def _without(protocol: dict[str, Any], varied: str) -> dict[str, Any]:
    """A protocol without the varied number and the checksum that varies with it: of the parameters, of the steps."""
    varying = {varied, "steps_crc32" if varied == "steps" else "parameters_crc32"}
    drawn = _leave_out(protocol.get("drawn", {}), varying)
    if varied == "training_step" and drawn.get("guide", {}).get("from", "").startswith("ema_width:"):
        drawn["guide"] = _leave_out(drawn["guide"], varying)  # Another EMA at the same step.
    return _leave_out(protocol, varying) | {"drawn": drawn}


def _leave_out(table: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in names}


def table(rows: list[Row]) -> str:
    """One line per result, in columns."""
    columns = list(zip(*table_cells(rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    padded = ([cell.ljust(width) for cell in column] for column, width in zip(columns, widths, strict=True))
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))


def table_cells(rows: list[Row]) -> list[list[str]]:
    """The headings, and for each result the step, the name with the checksum of its protocol, and the metrics."""
    lines = [["step", "result", "reference", "conditions", "distance", "value", *COLUMNS]]
    for step, name, result in rows:
        protocol = result["protocol"]
        real, distance = protocol.get("real", {}), protocol.get("distance", "-")
        reference = Path(str(real["from"])).name if real else f"{protocol['images']} held out"
        metrics = ["-" if result.get(key) is None else f"{result[key]:.4g}" for key in ("fid", *COLUMNS)]
        conditions = protocol.get("condition", {}).get("originals", "-")
        lines.append([str(step), name, reference, conditions, distance, *metrics])
    # Columns that no result has are left out.
    columns = [column for column in zip(*lines, strict=True) if set(column[1:]) != {"-"}]
    return [list(row) for row in zip(*columns, strict=True)]
