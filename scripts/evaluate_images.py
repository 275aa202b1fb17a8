"""Compares a set of images with another: FID, KID, Inception Score, precision, recall, density, coverage.

    python scripts/evaluate_images.py real/ fake/
    python scripts/evaluate_images.py cifar10.npz runs/x/samples/…/samples.npz --features=inception-768 --weights=W
    python scripts/evaluate_images.py real/ fake/ --json
    python scripts/evaluate_images.py real/ --save=real-statistics.npz
    python scripts/evaluate_images.py real-statistics.npz fake/

A set is a folder or zip of images of one size, an .npz or .npy (uint8, [N, height, width, channels]), a folder of the
cache of decoded images, or statistics (mu and sigma) that this command or pytorch-fid saved. Inception Score and the
fakes' side of precision are those of the second set.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Reads the flags, measures both sets, prints the figures."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.evaluation.features import EXTRACTORS, open_extractor
    from ddpm_jax.evaluation.image_sets import open_statistics
    from ddpm_jax.evaluation.statistics import compare, save_statistics, warn_of_few

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("real", type=Path, help="a set of images, or statistics")
    parser.add_argument("fake", type=Path, nargs="?", help="another; may be left out with --save")
    parser.add_argument("--features", default="inception", metavar="NAME", help=f"{', '.join(EXTRACTORS)}")
    parser.add_argument("--weights", type=Path, help="of Inception, .safetensors or .pth (default: fetched)")
    parser.add_argument("--split", help="of a set that has splits, such as train; default: all of it")
    parser.add_argument("--neighbours", type=int, default=10_000, help="most images for all but FID and IS (10000)")
    parser.add_argument("--save", type=Path, metavar="NPZ", help="where to keep the statistics of the first set")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    if flags.fake is None and flags.save is None:
        raise UserError("A second set is missing; name one to compare with, or --save=FILE.npz.")
    if flags.neighbours < 10:
        raise UserError(f"--neighbours={flags.neighbours} is too few; expected 10 or more.")
    if flags.save and (flags.save.suffix != ".npz" or flags.save.exists() or not flags.save.absolute().parent.is_dir()):
        raise UserError(f"--save={flags.save} should be a new .npz file in a folder that is there.")
    if flags.features == "pixels" and flags.weights:
        raise UserError(f"--weights={flags.weights} has no effect with --features=pixels.")
    extractor = open_extractor(flags.features, flags.weights and flags.weights.expanduser())
    sets = {"real": flags.real, "fake": flags.fake}
    found = {
        name: open_statistics(path, extractor, flags.split, flags.neighbours) for name, path in sets.items() if path
    }
    if flags.save:
        save_statistics(flags.save, found["real"])
    if "fake" not in found:
        return
    numbers = [found[name].moments.images for name in ("real", "fake")]
    warn_of_few(numbers[0], numbers[1], len(found["fake"].moments.mean))
    figures: dict[str, Any] = dict(compare(found["real"], found["fake"]))
    figures["protocol"] = {
        "features": extractor.name,
        "weights_sha256": extractor.weights,
        "real": {"from": str(flags.real), "images": found["real"].moments.images},
        "fake": {"from": str(flags.fake), "images": found["fake"].moments.images},
        "split": flags.split,
        "neighbours": flags.neighbours,
    }
    show(figures, extractor.distance, flags.json)


def show(figures: dict[str, Any], distance: str, as_json: bool) -> None:
    """Prints the figures as a table or as JSON."""
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        if name != "protocol":
            print(f"{distance if name == 'fid' else name:22}{'-' if value is None else f'{value:.6g}'}")
    for name in ("real", "fake"):
        side = figures["protocol"][name]
        print(f"{name:22}{side['images'] or 'an unknown number of'} images of {side['from']}")


if __name__ == "__main__":
    from ddpm_jax.cli import exit_code

    sys.exit(exit_code(main))
