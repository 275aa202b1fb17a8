"""Calls of --mode=sample, and the images that they wrote."""

import numpy as np

from ddpm_jax.commands import cli


def sample(workdir, **options) -> int:
    flags = [f"--config.sample.{name}={value}" for name, value in options.items()]
    return cli.main(["main.py", "--mode=sample", f"--workdir={workdir}", *flags])


def newest(workdir):
    return max((workdir / "samples").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def assert_shows_inputs(images) -> None:
    """Asserts that few pixels are black or white: those show nothing of the noise, condition or label."""
    assert np.isin(images, (0, 255)).mean() < 0.2


def sampled(workdir) -> np.ndarray:
    return np.load(newest(workdir) / "samples.npz")["arr_0"]
