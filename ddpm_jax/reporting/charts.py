"""Curves as PNG files."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float | int, float]]

FEW = 20
"""Up to this number, points get markers and ticks of their own."""
STYLES = [(line, marker) for line in ("-", "--", ":", "-.") for marker in "osD^vX"]
CLOSEST_TICKS = 1.12
"""Smallest ratio of two ticks on a logarithmic axis whose labels do not overlap."""


def line_chart(path: Path, curves: Mapping[str, Points], x_label: str, y_label: str, *, log_x: bool = False) -> None:
    """Draws curves in one chart, with a legend if there are several."""
    panels(path, {"": curves}, x_label, y_label, log_x=log_x)


def panels(
    path: Path, charts: Mapping[str, Mapping[str, Points]], x_label: str, y_label: str, *, log_x: bool = False
) -> None:
    """Draws charts one below the other, each with its own title and axes."""
    from matplotlib.figure import Figure  # Imported here, since it takes 0.4 s.

    longest = max(len(name) for curves in charts.values() for name in curves)
    several = any(len(curves) > 1 for curves in charts.values())
    heights = [max(4.0, 1.0 + 0.24 * len(curves)) for curves in charts.values()]  # So that the legend fits.
    width = 7.0 + (0.085 * longest + 0.7 if several else 0.0)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    all_axes = figure.subplots(len(charts), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, curves) in zip(all_axes, charts.items(), strict=True):
        _draw(axes, curves, log_x)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if len(curves) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    figure.savefig(path, dpi=120, format="png")


def _draw(axes: "Axes", curves: Mapping[str, Points], log_x: bool) -> None:
    for (line, marker), (name, points) in zip(cycle(STYLES), curves.items(), strict=False):
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, linestyle=line, marker=marker if len(points) < FEW else "", label=name)
    if log_x:
        axes.set_xscale("log")
        positions = sorted({x for points in curves.values() for x, _ in points})
        if len(positions) < FEW:
            ticks: list[float] = []
            for x in positions:
                if not ticks or x >= CLOSEST_TICKS * ticks[-1]:
                    ticks.append(x)
            axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
            axes.minorticks_off()
    axes.grid(alpha=0.3)
