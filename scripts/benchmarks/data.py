"""Speed of reading and preparing images and moving them to the device, and the time that training waits for them."""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

from scripts.benchmarks.timing import median

SIDE, BATCH = 64, 128


def measure_data(flags: argparse.Namespace) -> dict[str, Any]:
    """Rates in images/s at 64x64x3 in batches of 128 with flips; memory in MiB; the share of training spent waiting."""
    from ddpm_jax.runtime.cpu import usable_cpus

    with tempfile.TemporaryDirectory(prefix="ddpm_jax-benchmark-") as name:
        folder = Path(name)
        small, large = (read_rate(folder, count, flags.rounds) for count in (flags.images, 4 * flags.images))
        one, all_cores = prepare_rates(folder, flags.files, flags.rounds)
        facts: dict[str, Any] = {
            "cores": usable_cpus(),
            "cache_to_device_images_per_second": large["rate"],
            "memory_growth_mebibytes": small["growth"],
            "memory_growth_of_4x_set_mebibytes": large["growth"],
            "prepare_images_per_second": all_cores,
            "prepare_one_process_images_per_second": one,
            "prepare_ratio": all_cores / one,
        }
        if flags.steps:
            facts |= training_rates(folder, flags.steps)
    return facts


def read_rate(folder: Path, count: int, rounds: int) -> dict[str, float]:
    """The rate at which batches of `count` cached images are gathered, flipped and moved to the device."""
    import jax
    import numpy as np

    from ddpm_jax.data.batches import Batches, prefetch
    from ddpm_jax.data.cache import Cache, cached
    from ddpm_jax.data.dataset import Dataset
    from ddpm_jax.reporting.memory import memory_in_use
    from ddpm_jax.runtime.devices import data_mesh, to_devices

    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
    images, numbers, fingerprints = cached(
        Cache(folder), f"{count}", (SIDE, SIDE, 3), lambda: ((i, blocks[i % 64]) for i in range(count))
    )
    dataset = Dataset(images, numbers.astype(np.int32), (), fingerprints)
    batches, mesh = Batches(dataset, np.arange(count), BATCH, seed=0, flip=True), data_mesh()
    steps = max(count // BATCH, 1)
    before = memory_in_use().get("host_memory_mebibytes", math.nan)

    def read() -> None:
        for batch in prefetch(lambda step: to_devices(mesh, batches(step), axis=1), range(steps)):
            jax.block_until_ready(batch)

    read()
    rate = steps * BATCH / median(read, rounds)
    return {"rate": rate, "growth": memory_in_use().get("host_memory_mebibytes", math.nan) - before}


def prepare_rates(folder: Path, count: int, rounds: int) -> tuple[float, float]:
    """The rates at which one process and all cores decode JPEG files of CelebA's size."""
    import numpy as np
    from PIL import Image

    from ddpm_jax.config.sections import Data
    from ddpm_jax.data.decode import Decoding, decode
    from ddpm_jax.data.prepare import decode_all
    from ddpm_jax.data.sources.folder import open_folder

    photos = folder / "photos"
    photos.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (28, 23, 3), np.uint8))
        coarse.resize((178, 218), Image.Resampling.BICUBIC).save(photos / f"{number:06d}.jpg", quality=90)
    collection, decoding = open_folder(Data(path=str(photos))), Decoding(SIDE, 3)

    def by_one() -> None:
        for number in range(count):
            decode(collection.read(number), decoding)

    def by_all() -> None:
        for _ in decode_all(collection, np.arange(count), decoding):
            pass

    return count / median(by_one, rounds), count / median(by_all, rounds)


def training_rates(folder: Path, steps: int) -> dict[str, float]:
    """Trains the U-Net of configs/celeba64_small.py, at an eighth of its width, on the prepared files."""
    from ddpm_jax.commands.train import train
    from ddpm_jax.config import config_of, load_recipe, override
    from ddpm_jax.reporting.curves import read_curves
    from ddpm_jax.reporting.writer import tag

    recipe = str(Path(__file__).parents[2] / "configs" / "celeba64_small.py")
    settings = {
        "data.path": folder / "photos",
        "data.cache": folder,
        "data.crop": "()",
        "data.batch_size": 32,
        "train.accumulate": 1,
        "train.steps": steps,
        "model.channels": 32,
        "model.dtype": "float32",
        "log.every": steps // 2,
        "log.validate_every": 0,
        "log.preview_every": 0,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    train(config_of(override(load_recipe(recipe), flags)), folder / "run")
    curves = read_curves(folder / "run")
    # The first reading includes the wait for the first batch.
    share, rate = (curves[tag(name)][-1][1] for name in ("data_wait_share", "images_per_second"))
    return {"training_images_per_second": rate, "training_data_wait_share": share}
