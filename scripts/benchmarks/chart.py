"""Images/s of this code and of a peer, from what measurements with --json have printed, as one picture."""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_jax.errors import UserError

OURS, THEIRS = "#1f77b4", "#bbbbbb"


def draw_comparisons(flags: argparse.Namespace) -> dict[str, Any]:
    """A panel for each file, named after it: a bar for each side's images/s, with the spread of its rounds."""
    comparisons = [(path.stem.replace("_", " "), read_comparison(path)) for path in flags.results]
    bars = [len(rates) for _, rates in comparisons]
    figure = Figure(figsize=(8.0, sum(0.9 + 0.3 * count for count in bars)), layout="constrained")
    panels = figure.subplots(len(bars), squeeze=False, height_ratios=bars)[:, 0]
    for axes, (title, rates) in zip(panels, comparisons, strict=True):
        draw(axes, title, rates)
    panels[-1].set_xlabel("images/s (line: as long as rounds lie apart)")
    try:
        figure.savefig(flags.picture, dpi=120, format="png")
    except OSError as error:
        raise UserError(f"{flags.picture} cannot be written ({error.strerror}); choose another place.") from error
    return {"chart": str(flags.picture)}


def read_comparison(path: Path) -> dict[str, tuple[float, float]]:
    """{name: (images/s, spread)} of this code, first, and of each variant of the peer."""
    try:
        facts = json.loads(path.read_text())
        peer = facts["peer"]
        theirs = {f"{peer['name']}, {variant}": rates for variant, rates in peer["variants"].items()}
        sides = {"ddpm_jax": facts["ours"], **theirs}
        return {name: (float(rates["images_per_second"]), float(rates["spread"])) for name, rates in sides.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no comparison ({error!r}); expected what --peer --json has printed.") from error


def draw(axes: Axes, title: str, rates: dict[str, tuple[float, float]]) -> None:
    """Horizontal bars, this code's above the others."""
    values = [value for value, _ in rates.values()]
    errors = [value * spread / 2 for value, spread in rates.values()]
    colours = [OURS] + [THEIRS] * (len(values) - 1)
    found = axes.barh(list(rates), values, xerr=errors, color=colours, error_kw={"elinewidth": 0.8})
    axes.bar_label(found, [f" {value:,.3g}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"{title}: {values[0] / max(values[1:]):.2f} times the peer's best", fontsize=10)
