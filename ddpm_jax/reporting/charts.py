"""Curves as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

Points = Sequence[tuple[float | int, float]]

FEW = 20
"""Points that are marked and named one by one."""


def line_chart(path: Path, curves: Mapping[str, Points], x_label: str, y_label: str, *, log_x: bool = False) -> None:
    """Draws each curve and the names of the curves where there are several."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, marker="o" if len(points) < FEW else "", label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({x for points in curves.values() for x, _ in points})
        if len(ticks) < FEW:
            axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
            axes.minorticks_off()
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    figure.savefig(path, dpi=120)
