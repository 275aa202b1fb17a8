"""How fast the parts are on this machine.

    python scripts/benchmark.py data            reading, preparing and waiting for data
    python scripts/benchmark.py sample          each sampler, on a recipe's network with random parameters
    python scripts/benchmark.py data --json     one JSON object instead of the table

Rates are medians of several rounds; machines are noisy, so compare figures of one run.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

SIDE, BATCH = 64, 128
RECIPE = str(Path(__file__).parents[1] / "configs" / "digits.py")


def main() -> None:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="from files to the cache, and on to the device")
    data.add_argument("--images", type=int, default=20_000, help="in the cached set (default 20000)")
    data.add_argument("--files", type=int, default=4_000, help="JPEG files to prepare (default 4000)")
    data.add_argument("--rounds", type=int, default=5, help="of each measurement (default 5)")
    data.add_argument(
        "--steps", type=int, default=20, help="of training, to see how long it waits (default 20; 0: none)"
    )
    data.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    sample = commands.add_parser("sample", help="images/s of each sampler, compilation left out")
    sample.add_argument("--config", default=RECIPE, help="a recipe (default configs/digits.py)")
    sample.add_argument("--batch", type=int, default=64, help="images at once (default 64)")
    sample.add_argument("--rounds", type=int, default=3, help="of each measurement (default 3)")
    sample.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    facts = {"data": benchmark_data, "sample": benchmark_samplers}[flags.command](flags)
    if flags.json:
        print(json.dumps(facts))
    else:
        print(
            "\n".join(
                f"{name:34}{value:>14,.4g}" if isinstance(value, float) else f"{name:34}{value!s:>14}"
                for name, value in facts.items()
            )
        )


def benchmark_data(flags: argparse.Namespace) -> dict[str, Any]:
    """Rates in images/s at 64x64x3 in batches of 128 with flips; memory in MiB; the share of training spent waiting."""
    from ddpm_jax.data.prepare import cores

    with tempfile.TemporaryDirectory(prefix="ddpm_jax-benchmark-") as folder:
        place = Path(folder)
        small, large = (read_rate(place, count, flags.rounds) for count in (flags.images, 4 * flags.images))
        one, all_cores = prepare_rates(place, flags.files, flags.rounds)
        facts: dict[str, Any] = {
            "cores": cores(),
            "cache_to_device_images_per_second": large["rate"],
            "memory_growth_mebibytes": small["growth"],
            "memory_growth_of_4x_set_mebibytes": large["growth"],
            "prepare_images_per_second": all_cores,
            "prepare_one_process_images_per_second": one,
            "prepare_ratio": all_cores / one,
        }
        if flags.steps:
            facts |= waiting(place, flags.steps)
    return facts


def read_rate(place: Path, count: int, rounds: int) -> dict[str, float]:
    """Batches of a cached set of `count` images, gathered, mirrored by chance and put on the device."""
    import jax
    import numpy as np

    from ddpm_jax.data.batches import Batches, prefetch
    from ddpm_jax.data.cache import cached
    from ddpm_jax.data.dataset import Dataset
    from ddpm_jax.training.sharding import data_mesh, to_devices

    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
    images, numbers = cached(place, f"{count}", (SIDE, SIDE, 3), lambda: ((i, blocks[i % 64]) for i in range(count)))
    dataset = Dataset(images, numbers.astype(np.int32), ())
    batches, mesh = Batches(dataset, np.arange(count), BATCH, seed=0, flip=True), data_mesh()
    steps = max(count // BATCH, 1)
    before = own_memory()

    def read() -> None:
        for batch in prefetch(lambda step: to_devices(mesh, batches(step), axis=1), range(steps)):
            jax.block_until_ready(batch)

    read()
    return {"rate": steps * BATCH / median(read, rounds), "growth": own_memory() - before}


def prepare_rates(place: Path, count: int, rounds: int) -> tuple[float, float]:
    """JPEG files of CelebA's size, decoded by one process and by all cores."""
    import numpy as np
    from PIL import Image

    from ddpm_jax.config.sections import Data
    from ddpm_jax.data.decode import Decoding, decode
    from ddpm_jax.data.prepare import decode_all
    from ddpm_jax.data.sources.folder import open_folder

    folder = place / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (28, 23, 3), np.uint8))
        coarse.resize((178, 218), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)
    collection, how = open_folder(Data(path=str(folder))), Decoding(SIDE, 3)

    def by_one() -> None:
        for number in range(count):
            decode(collection.read(number), how)

    def by_all() -> None:
        for _ in decode_all(collection, np.arange(count), how):
            pass

    return count / median(by_one, rounds), count / median(by_all, rounds)


def waiting(place: Path, steps: int) -> dict[str, float]:
    """Trains the U-Net of configs/celeba64_small.py, at an eighth of its width, on the prepared files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ddpm_jax.cli import load_recipe, override
    from ddpm_jax.config import config_of
    from ddpm_jax.train import train

    recipe = str(Path(__file__).parents[1] / "configs" / "celeba64_small.py")
    settings = {
        "data.path": place / "photos",
        "data.cache": place,
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
    train(config_of(override(load_recipe(recipe), flags)), place / "run")
    events = EventAccumulator(str(place / "run")).Reload()
    # The first reading holds the wait for the very first batch.
    shares, rates = (events.Scalars(f"train/{name}")[-1].value for name in ("data_wait_share", "images_per_second"))
    return {"training_images_per_second": rates, "training_data_wait_share": shares}


def benchmark_samplers(flags: argparse.Namespace) -> dict[str, Any]:
    """Images/s of DDPM with all steps and of the others with their defaults, on one network and batch."""
    import dataclasses

    import jax
    import numpy as np

    from ddpm_jax.assemble import build_pairs, build_unet
    from ddpm_jax.cli import load_recipe
    from ddpm_jax.config import checked, config_of
    from ddpm_jax.config.sections import Sample
    from ddpm_jax.network.unet import init_params
    from ddpm_jax.sample import compile_sampler
    from ddpm_jax.training.sharding import data_mesh

    config, mesh = config_of(load_recipe(flags.config)), data_mesh()
    params = init_params(build_unet(config), jax.random.key(0), config.data.image_size, config.data.channels)
    facts: dict[str, Any] = {"recipe": flags.config, "batch": flags.batch}
    rates = {}
    for sampler in ("ddpm", "ddim", "dpm_solver", "unipc"):
        settings = Sample(sampler=sampler, threshold=config.sample.threshold)
        one = checked(dataclasses.replace(config, sample=settings))
        draw, indices = compile_sampler(one, mesh), np.arange(flags.batch)

        def work(draw: Any = draw, indices: Any = indices) -> None:
            jax.block_until_ready(draw(params, 0, indices, None))

        work()
        rates[sampler] = flags.batch / median(work, flags.rounds)
        facts[f"{sampler}_{len(build_pairs(one))}_images_per_second"] = rates[sampler]
    return facts | {"ddim_over_ddpm": rates["ddim"] / rates["ddpm"]}


def median(work: Callable[[], None], rounds: int) -> float:
    """Seconds that some work takes."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def own_memory() -> float:
    """MiB that only this process holds; pages of mapped files, which the system drops at need, are left out."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    words = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon")).split()
    return int(words[1]) / 1024


if __name__ == "__main__":
    from ddpm_jax.cli import exit_code

    sys.exit(exit_code(main))
