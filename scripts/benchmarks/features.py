"""How fast Inception's features come, against pytorch-fid's network on the same images."""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from scripts.benchmarks.peer import VARIANTS, Peer, comparison, in_turn, python_of

AGREEMENT = 1e-4
"""Largest difference of features, relative to their largest."""


def measure_features(flags: argparse.Namespace) -> dict[str, Any]:
    """Images/s of 32x32x3 images, resize and copies to and from the device included."""
    import jax

    from ddpm_jax.evaluation.features import BATCH, features_of, open_extractor

    extractor = open_extractor(flags.features, flags.weights)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH * jax.device_count(), 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory(prefix="ddpm_jax-benchmark-") as folder, ExitStack() as stack:
        inputs, outputs = Path(folder, "inputs.npz"), Path(folder, "outputs.npy")
        np.savez(inputs, pixels=pixels)
        spec = {"work": "features", "weights": str(flags.weights.resolve()), "dimensions": extractor.dimensions}
        spec |= {"inputs": str(inputs), "outputs": str(outputs)}
        peers = {}
        for variant in (flags.variants or VARIANTS) if flags.peer else ():
            peers[variant] = stack.enter_context(Peer(python_of(flags), {**spec, "variant": variant}))
        ((own, _),) = features_of(extractor, pixels, "Features")
        if peers:
            theirs = np.load(outputs)
            difference = float(np.abs(own - theirs).max() / np.abs(theirs).max())
            if difference > AGREEMENT:
                raise UserError(f"The peer's features differ by {difference:.1e} of the largest, expected {AGREEMENT}.")

        def work() -> None:
            jax.device_get(extractor.extract(pixels))

        return {
            "features": extractor.name,
            "batch": len(pixels),
            **comparison(len(pixels), *in_turn(work, peers, flags.rounds), peers),
        }
