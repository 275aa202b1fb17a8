"""Curves as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

Points = Sequence[tuple[float | int, float]]


def line_chart(path: Path, curves: Mapping[str, Points], x_label: str, y_label: str, *, log_x: bool = False) -> None:
    """Draws each curve with a mark at every point, and the names of the curves where there are several."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, marker="o" if len(points) < 100 else "", label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if log_x:
        ticks = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    figure.savefig(path, dpi=120)
