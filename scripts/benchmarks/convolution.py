"""Speed of Winograd's 3x3 convolutions beside direct ones, for the rule in network/winograd.py."""

import argparse
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.network.winograd import tile_size, winograd_conv
from ddpm_jax.runtime.compilation import jit
from scripts.benchmarks.timing import seconds_of

SHAPES = tuple(
    (batch, side, inputs, outputs)
    for batch, side, channels in (
        (1, 32, (64, 128)),
        (8, 32, (32, 64, 128)),
        (8, 16, (128, 256)),
        (8, 8, (256,)),
        (8, 4, (256,)),
        (32, 32, (32, 64, 128)),
        (32, 16, (64, 256)),
        (64, 28, (32, 64)),
        (64, 14, (64, 128)),
        (64, 7, (128,)),
        (64, 8, (32, 64)),
        (64, 4, (64, 256)),
        (8, 64, (64, 128)),
    )
    for inputs, outputs in [*((c, c) for c in channels), (2 * channels[-1], channels[-1])]
)
"""Batch, height and width, inputs, outputs: those of the recipes."""


def measure_convolutions(flags: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each convolution, forward and with both gradients, and the rule's choice."""
    results = {}
    for batch, side, inputs, outputs in SHAPES:
        random = np.random.default_rng(0)
        x, kernel, dy = (
            jnp.asarray(random.normal(size=shape), jnp.float32)
            for shape in ((batch, side, side, inputs), (3, 3, inputs, outputs), (batch, side, side, outputs))
        )
        row: dict[str, Any] = {}
        for what, arguments in (("forward", (x, kernel)), ("with gradients", (x, kernel, dy))):
            works = {name: _work(function, arguments) for name, function in CONVOLUTIONS.items()}
            rounds = [{name: 1e3 * seconds_of(work) for name, work in works.items()} for _ in range(flags.rounds)]
            row[f"{what}, ms"] = {name: statistics.median(times[name] for times in rounds) for name in works}
        tile = tile_size(x.shape, outputs)
        row["chosen"] = f"F({tile})" if tile else "direct"
        results[f"{batch} x {side}x{side}, {inputs} to {outputs}"] = row
    return results


def _direct(x: Any, kernel: Any) -> Any:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


CONVOLUTIONS = {
    "direct": _direct,
    "F(2)": lambda x, kernel: winograd_conv(2, x, kernel),
    "F(4)": lambda x, kernel: winograd_conv(4, x, kernel),
}


def _work(convolve: Any, arguments: tuple[Any, ...]) -> Any:
    def run(x: Any, kernel: Any, *dy: Any) -> Any:
        if not dy:
            return convolve(x, kernel)
        y, gradients = jax.vjp(convolve, x, kernel)
        return y, gradients(*dy)

    compiled = jit(run)
    jax.block_until_ready(compiled(*arguments))
    return lambda: jax.block_until_ready(compiled(*arguments))
