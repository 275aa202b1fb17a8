"""A chart of images/s of this code and of a peer, from the output of measurements with --json."""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_jax.errors import UserError

OURS, THEIRS = "#1f77b4", "#bbbbbb"


def draw_comparisons(flags: argparse.Namespace) -> dict[str, Any]:
    """Draws a panel for each file, named after it, with a bar for the median images/s of each side."""
    comparisons = [(path.stem.replace("_", " "), *read_comparison(path)) for path in flags.results]
    bars = [len(rates) for *_, rates in comparisons]
    figure = Figure(figsize=(8.0, sum(0.7 + 0.27 * count for count in bars)), layout="constrained")
    panels = figure.subplots(len(bars), squeeze=False, height_ratios=bars)[:, 0]
    for axes, (title, peer, rates) in zip(panels, comparisons, strict=True):
        draw(axes, f"{title}, against {peer}", rates)
    panels[-1].set_xlabel("images/s")
    try:
        figure.savefig(flags.picture, dpi=120, format="png")
    except OSError as error:
        raise UserError(f"{flags.picture} cannot be written ({error.strerror}); choose another path.") from error
    return {"chart": str(flags.picture)}


def read_comparison(path: Path) -> tuple[str, dict[str, float]]:
    """The peer's name, and images/s by name: this code first, then each variant of the peer."""
    try:
        facts = json.loads(path.read_text())
        sides = {"ddpm_jax": facts["ours"], **facts["peer"]["variants"]}
        rates = {name: float(rates["images_per_second"]) for name, rates in sides.items()}
        return str(facts["peer"]["name"]), rates
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); expected the output of --peer --json.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no comparison ({error!r}); expected the output of --peer --json.") from error


def draw(axes: Axes, title: str, rates: dict[str, float]) -> None:
    """Horizontal bars labelled with their rates, this code's first, with its ratio to the best of the others."""
    own, *others = rates.values()
    colours = [OURS] + [THEIRS] * len(others)
    bars = axes.barh(list(rates), list(rates.values()), color=colours)
    best = max(others, default=own)
    axes.bar_label(bars, [f"{own:.3g} ({own / best:.2f})", *(f"{rate:.3g}" for rate in others)], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title(title, fontsize=10, loc="left")
