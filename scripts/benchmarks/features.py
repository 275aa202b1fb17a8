"""Speed of Inception's features, against pytorch-fid's network on the same images."""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks.peer import VARIANTS, Peer, comparison, in_turn, python_of, refuse_disagreement

AGREEMENT = 1e-4
"""Largest permitted difference of features, relative to the largest feature."""


def measure_features(flags: argparse.Namespace) -> dict[str, Any]:
    """Images/s at 32x32x3, including resize and copies to and from the device."""
    import jax

    from ddpm_jax.evaluation.features import BATCH, iter_features, open_extractor

    extractor = open_extractor(flags.features, flags.weights)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH * jax.device_count(), 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory(prefix="ddpm_jax-benchmark-") as folder, ExitStack() as stack:
        inputs = Path(folder, "inputs.npz")
        np.savez(inputs, pixels=pixels)
        spec = {"work": "features", "weights": str(flags.weights.resolve()), "dimensions": extractor.dimensions}
        peers = {}
        ((own, _),) = iter_features(extractor, pixels, "Features")
        for number, variant in enumerate((flags.variants or VARIANTS) if flags.peer else ()):
            outputs = Path(folder, f"outputs-{number}.npy")
            spec |= {"inputs": str(inputs), "outputs": str(outputs), "variant": variant}
            peers[variant] = stack.enter_context(Peer(python_of(flags), spec))
            refuse_disagreement(own, np.load(outputs), AGREEMENT, variant)

        def work() -> None:
            jax.device_get(extractor.extract(pixels))

        return {
            "features": extractor.name,
            "batch": len(pixels),
            **comparison(len(pixels), *in_turn(work, peers, flags.rounds), peers),
        }
