"""What was measured of a run: <workdir>/evaluation/<step>.json, charts of it, a table, and curves for TensorBoard.

A result's name ends in a checksum of its protocol, so figures of another protocol stand beside it and never replace it.
"""

import json
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.locks import alone
from ddpm_jax.reporting.charts import line_chart
from ddpm_jax.reporting.writer import TensorBoard

Result = dict[str, Any]
"""Figures by name, and "protocol": all that they depend on."""
COLUMNS = ("kid_mean", "inception_score_mean", "precision", "recall", "density", "coverage", "bits_per_dim")


def result_name(name: str, protocol: dict[str, Any]) -> str:
    """The name of a result, such as "ddim-50steps-seed0-n50000-0a1b2c3d"."""
    return f"{name}-{zlib.crc32(json.dumps(protocol, sort_keys=True).encode()):08x}"


def read_results(folder: Path, step: int) -> dict[str, Result]:
    """What was measured of a checkpoint so far, by name."""
    path = folder / f"{step}.json"
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away to measure anew.") from error
    if not isinstance(results, dict) or not all(isinstance(result, dict) for result in results.values()):
        raise UserError(f"{path} holds no results; move it away to measure anew.")
    return results


def add_result(folder: Path, step: int, name: str, result: Result) -> None:
    """Adds a result to <step>.json, and its figures to TensorBoard; jobs that measure other samplers wait for it."""
    path = folder / f"{step}.json"
    key = result_name(name, result["protocol"])
    with alone(folder / f".{step}.lock", lambda: None):
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(read_results(folder, step) | {key: result}, indent=2) + "\n")
        unfinished.replace(path)
    distance = result["protocol"].get("distance", "")
    tags = {"fid": distance}
    numbers = {
        f"evaluation-{name}/{tags.get(figure, figure)}": value
        for figure, value in result.items()
        if isinstance(value, float)
    }
    writer = TensorBoard(folder / "tensorboard" / key, None)
    writer.scalars(step, numbers)
    writer.close()


def all_results(folder: Path) -> list[tuple[int, str, Result]]:
    """Step, name and result of all that was measured, in order."""
    steps = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())
    return [(step, name, result) for step in steps for name, result in read_results(folder, step).items()]


def draw_charts(folder: Path) -> None:
    """The Fréchet distance against training steps and against sampling steps: a line for each protocol."""
    measured = [(step, name, result) for step, name, result in all_results(folder) if "fid" in result]
    for varied, x_label, file in (
        ("training_step", "training step", "fid-by-training-steps.png"),
        ("steps", "sampling steps", "fid-by-sampling-steps.png"),
    ):
        curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
        labels: dict[str, str] = {}
        for step, name, result in measured:
            line, label = _line(name, step, result["protocol"], varied)
            curves[line].append((result["protocol"]["drawn"][varied], result["fid"]))
            labels[line] = label
        if any(len(points) > 1 for points in curves.values()):
            named = {labels[line]: points for line, points in curves.items()}
            line_chart(folder / file, named, x_label, "Fréchet distance", log_x=varied == "steps")


def _line(name: str, step: int, protocol: dict[str, Any], varied: str) -> tuple[str, str]:
    """What tells the line of a result from others, and its label."""
    # A checkpoint's own parameters tell it as its step does.
    varying = {varied, "parameters_crc32"} if varied == "training_step" else {varied}
    drawn = {key: value for key, value in protocol["drawn"].items() if key not in varying}
    line = json.dumps({**protocol, "drawn": drawn}, sort_keys=True)
    what = name.rpartition("-")[0] if varied == "training_step" else f"{drawn['sampler']} of step {step}"
    return line, f"{what}, {protocol['distance']}, {zlib.crc32(line.encode()) % 1000:03d}"


def table(folder: Path) -> str:
    """All that was measured, a line each."""
    rows = [["step", "what", "distance", "", *COLUMNS]]
    for step, name, result in all_results(folder):
        distance = result["protocol"].get("distance", "-")
        figures = ["-" if result.get(key) is None else f"{result[key]:.4g}" for key in ("fid", *COLUMNS)]
        rows.append([str(step), name.rpartition("-")[0], distance, *figures])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
