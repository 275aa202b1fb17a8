"""Compares two sets of images: FID, KID, Inception Score, precision, recall, density, coverage.

    python scripts/evaluate_images.py real/ fake/
    python scripts/evaluate_images.py cifar10.npz runs/x/samples/…/samples.npz --features=inception-768 --weights=W
    python scripts/evaluate_images.py real/ fake/ --json
    python scripts/evaluate_images.py real/ --save=real-statistics.npz
    python scripts/evaluate_images.py real-statistics.npz fake/

A set is a folder or zip of images of one size, an .npz or .npy (uint8, [N, height, width, channels], or uint16 grey),
a folder of the cache of decoded images, a folder that --mode=sample wrote, or statistics (mu and sigma) that this
command or pytorch-fid saved. The first set is real; Inception Score and precision are those of the second.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Measures both sets and prints the metrics."""
    from ddpm_jax.evaluation.features import full_name, open_extractor
    from ddpm_jax.evaluation.statistics import (
        Statistics,
        compare,
        measure,
        metrics_protocol,
        save_statistics,
        warn_of_small_sets,
    )

    flags = checked_flags()
    # Both sets are opened first, since measuring one may take hours.
    sets = open_sets(flags, full_name(flags.features))
    extractor = open_extractor(flags.features, flags.weights and flags.weights.expanduser(), grey=flags.grey)
    found: dict[str, Statistics] = {}
    for side, images in sets.items():
        is_known, what = isinstance(images, Statistics), getattr(flags, side).name
        found[side] = images if is_known else measure(extractor, images, what, limit=flags.neighbours)
        if flags.save and side == "real":
            save_statistics(flags.save, found["real"])
    if "fake" not in found:
        return
    real, fake = found["real"], found["fake"]
    warn_of_small_sets({"real": real.moments.images, "fake": fake.moments.images}, len(fake.moments.mean))
    kept = [None if side.subset is None else len(side.subset) for side in (real, fake)]
    protocol = {
        **metrics_protocol(extractor, *kept, flags.neighbours),
        "real": describe(flags.real, sets["real"], real, flags.split),
        "fake": describe(flags.fake, sets["fake"], fake, flags.split),
    }
    show({**compare(real, fake), "protocol": protocol}, extractor.distance, flags.json)


def checked_flags() -> argparse.Namespace:
    """The flags; raises UserError for those that contradict each other."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.evaluation.features import EXTRACTORS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("real", type=Path, help="a set of images, or statistics")
    parser.add_argument("fake", type=Path, nargs="?", help="another; optional with --save")
    parser.add_argument("--features", default="inception", metavar="NAME", help=", ".join(EXTRACTORS))
    parser.add_argument("--weights", type=Path, help="Inception's weights, .safetensors or .pth (default: fetched)")
    parser.add_argument("--split", help="the split of a set that has splits, such as train; default: all images")
    parser.add_argument("--neighbours", type=int, default=10_000, help="most images for all but FID and IS (10000)")
    parser.add_argument("--save", type=Path, metavar="NPZ", help="a new file for the statistics of the first set")
    parser.add_argument("--grey", action="store_true", help="with --features=pixels: one number for each pixel")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    if flags.fake is None and flags.save is None:
        raise UserError("A second set is missing; name one to compare with, or --save=FILE.npz.")
    if flags.neighbours < 10:
        raise UserError(f"--neighbours={flags.neighbours} is too few; expected 10 or more.")
    if flags.save and (flags.save.suffix != ".npz" or flags.save.exists() or not flags.save.absolute().parent.is_dir()):
        raise UserError(f"--save={flags.save} should be a new .npz file in an existing folder.")
    if flags.features == "pixels" and flags.weights:
        raise UserError(f"--weights={flags.weights} has no effect with --features=pixels.")
    if flags.grey and flags.features != "pixels":
        raise UserError(f"--grey has no effect with --features={flags.features}, which take three channels.")
    return flags


def open_sets(flags: argparse.Namespace, extractor: str) -> dict[str, Any]:
    """The images or statistics of each side that is given, "real" and "fake"."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.evaluation.image_sets import open_set
    from ddpm_jax.evaluation.statistics import Statistics

    paths = {side: path for side, path in (("real", flags.real), ("fake", flags.fake)) if path is not None}
    sets = {side: open_set(path, extractor, flags.split) for side, path in paths.items()}
    if flags.save and isinstance(sets["real"], Statistics):
        raise UserError(f"{flags.real} already holds statistics; --save would only copy them.")
    for side, images in sets.items():
        if isinstance(images, Statistics) and images.extractor != extractor:
            raise UserError(f"{paths[side]} holds statistics of {images.extractor}; expected {extractor} (--features).")
    return sets


def describe(path: Path, images: Any, statistics: Any, split: str | None) -> dict[str, Any]:
    """The description of one set for the protocol."""
    shape = getattr(images, "shape", None)
    known = {"size": list(shape[1:3]), "split": split} if shape else {}
    return {"from": str(path), "images": statistics.moments.images, **known}


def show(metrics: dict[str, Any], distance: str, as_json: bool) -> None:
    """Prints the metrics as a table or as JSON."""
    if as_json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        if name != "protocol":
            print(f"{distance if name == 'fid' else name:22}{'-' if value is None else f'{value:.6g}'}")
    for name in ("real", "fake"):
        side = metrics["protocol"][name]
        print(f"{name:22}{side['images'] or 'an unknown number of'} images of {side['from']}")


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
