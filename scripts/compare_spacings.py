"""Compares spacings of the sampling steps, with the model of digits that comes with the package.

    python scripts/compare_spacings.py                                      # numbers of steps, T = 1000
    python scripts/compare_spacings.py --total=10,60,200 --steps=50         # numbers of diffusion steps
    python scripts/compare_spacings.py --samplers=ddim --spacings=leading,trailing --steps=10 --json

For each combination: the first step and its signal rate sqrt(alpha_bar), a signal that the noise where sampling starts
does not have; the share of samples whose NEIGHBOURS nearest real digits all have the class asked for; and the
Fréchet distance between the pixels of the samples and of all digits. With another T than that of the model, the network
is given the step of the same log-SNR, so that nothing is trained anew.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

STEPS = (1, 2, 3, 5, 7, 10, 20, 50, 100, 250, 333, 500, 501, 600, 750, 999, 1000)
NEIGHBOURS = 5
COLUMNS = {"T": 5, "sampler": 10, "steps": 5, "spacing": 13, "first": 5, "signal": 6, "agreement": 9, "FID-pixels": 10}


class Row(NamedTuple):
    """A measured combination."""

    T: int
    sampler: str
    steps: int
    spacing: str
    first: int
    signal: float
    agreement: float
    distance: float


def main() -> None:
    """Prints each row as soon as it is measured; with --json, all of them at the end as one object."""
    flags = parse_flags()
    if not flags.json:
        print(*(f"{name:>{width}}" for name, width in COLUMNS.items()), flush=True)
    rows = []
    for row in measure(flags):
        rows.append(row)
        if not flags.json:
            cells = (*row[:5], f"{row.signal:.3f}", f"{row.agreement:.1%}", f"{row.distance:.3f}")
            print(*(f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True)), flush=True)
    if flags.json:
        print(json.dumps({"images": flags.images, "rows": [row._asdict() for row in rows]}))


def parse_flags() -> argparse.Namespace:
    """The flags."""
    from ddpm_jax.builders import SAMPLERS
    from ddpm_jax.errors import UserError
    from ddpm_jax.sampling.timesteps import SPACINGS

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--total", type=numbers, default=[1000], help="numbers of diffusion steps T (1000)")
    parser.add_argument("--steps", type=numbers, default=list(STEPS), help="numbers of sampling steps; above T: T")
    parser.add_argument("--samplers", type=names, default=["ddpm", "ddim"], help="(ddpm,ddim)")
    parser.add_argument("--spacings", type=names, default=["leading", "linspace", "trailing"], help="(the plain ones)")
    parser.add_argument("--images", type=int, default=500, help="images in each row (500)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    for flag, known in (("samplers", SAMPLERS), ("spacings", SPACINGS)):
        unknown = sorted(set(getattr(flags, flag)) - set(known))
        if unknown:
            raise UserError(f"--{flag}={','.join(unknown)} do not exist; expected some of {', '.join(known)}.")
    if min(*flags.total, *flags.steps, flags.images - 1) < 1:
        raise UserError("--total and --steps must be 1 or more, --images 2 or more.")
    return flags


def measure(flags: argparse.Namespace) -> Iterator[Row]:
    """Measures each combination once."""
    import numpy as np

    from ddpm_jax import load_run
    from ddpm_jax.builders import build_pairs, build_schedule
    from ddpm_jax.evaluation.features import open_extractor
    from ddpm_jax.evaluation.frechet import frechet_distance
    from ddpm_jax.evaluation.statistics import measure as statistics

    run, (real, classes) = load_run("pretrained:digits"), real_digits()
    extractor = open_extractor("pixels", None)
    moments = statistics(extractor, real, "Digits", limit=1).moments
    labels = np.arange(flags.images) % 10
    for total in flags.total:
        for sampler in flags.samplers:
            for steps in dict.fromkeys(min(steps, total) for steps in flags.steps):
                for spacing in flags.spacings:
                    config = dataclasses.replace(
                        run.config,
                        diffusion=dataclasses.replace(run.config.diffusion, steps=total),
                        sample=dataclasses.replace(run.config.sample, sampler=sampler, steps=steps, spacing=spacing),
                    )
                    pixels = sample(run, config, labels)
                    first = int(build_pairs(config)[0, 0])
                    distance = frechet_distance(statistics(extractor, pixels, "Samples", limit=1).moments, moments)
                    signal = float(build_schedule(config).signal_rate[first])
                    share = agreement(pixels, labels, real, classes)
                    yield Row(total, sampler, steps, spacing, first, signal, share, distance)


def real_digits() -> tuple[Any, Any]:
    """All digits, uint8 [N, 8, 8, 1], and their classes."""
    from ddpm_jax.config.sections import Data
    from ddpm_jax.data.sources.digits import load_digits

    digits = load_digits(Data(source="digits"))
    return digits.decoded, digits.annotations.classes


def sample(run: Any, config: Any, labels: Any) -> Any:
    """The samples of a configuration whose T may differ from that of the run, uint8."""
    import jax.numpy as jnp
    import numpy as np

    from ddpm_jax.builders import build_pairs, build_sampler, build_schedule, build_unet
    from ddpm_jax.diffusion.denoiser import prediction_of_output
    from ddpm_jax.diffusion.pixels import to_pixels
    from ddpm_jax.network.bind import Conditioning, apply_unet, label_vectors
    from ddpm_jax.runtime.compilation import jit
    from ddpm_jax.sampling.noise import draw_noise, image_keys

    unet, kind, sampler = build_unet(config), config.diffusion.prediction, build_sampler(config)
    trained, schedule = build_schedule(run.config), build_schedule(config)
    gaps = np.abs(trained.log_snr[None, 1:] - schedule.log_snr[1:, None])
    known = np.append(0, 1 + gaps.argmin(axis=1)).astype(np.int32)

    @jit
    def work(params: Any, keys: Any) -> Any:
        def denoiser(x_t: Any, t: Any) -> Any:
            given = Conditioning(label_vectors(labels, unet.labels))
            output = apply_unet(unet, params, x_t, jnp.asarray(known)[t], given)
            return prediction_of_output(schedule, kind, output, x_t, t)

        return sampler(denoiser, draw_noise(keys, 0, config.image_shape), keys, build_pairs(config)).images

    return to_pixels(work(run.params, image_keys(config.sample.seed, np.arange(len(labels)))))


def agreement(pixels: Any, labels: Any, real: Any, classes: Any) -> float:
    """Share of the images whose nearest neighbours among the real ones all have the label of the image."""
    import numpy as np

    flat, known = (images.reshape(len(images), -1).astype(np.float64) for images in (pixels, real))
    distances = (flat**2).sum(1)[:, None] - 2.0 * flat @ known.T + (known**2).sum(1)
    nearest = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return float((classes[nearest] == labels[:, None]).all(axis=1).mean())


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
