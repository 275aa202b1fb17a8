"""Compares a set of images with another: FID, KID, Inception Score, precision, recall, density, coverage.

    python scripts/evaluate_images.py real/ fake/
    python scripts/evaluate_images.py cifar10.npz runs/x/samples/…/samples.npz --features=inception-768 --weights=W
    python scripts/evaluate_images.py real/ fake/ --json
    python scripts/evaluate_images.py real/ --save=real-statistics.npz
    python scripts/evaluate_images.py real-statistics.npz fake/

A set is a folder or zip of images of one size, an .npz or .npy (uint8, [N, height, width, channels]), a folder of the
cache of decoded images, a folder that --mode=sample wrote, or statistics (mu and sigma) that this command or
pytorch-fid saved. Inception Score and the fakes' side of precision are those of the second set.
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
    from ddpm_jax.evaluation.features import EXTRACTORS, full_name, open_extractor
    from ddpm_jax.evaluation.image_sets import open_set
    from ddpm_jax.evaluation.statistics import (
        Statistics,
        compare,
        figures_protocol,
        measure,
        save_statistics,
        warn_of_few,
    )

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
    parser.add_argument("--grey", action="store_true", help="with --features=pixels: one number for each pixel")
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
    if flags.grey and flags.features != "pixels":
        raise UserError(f"--grey has no effect with --features={flags.features}, which see grey in all colours.")
    name = full_name(flags.features)
    # Both are opened before one is measured, which may take hours.
    sets = {
        side: open_set(path, name, flags.split)
        for side, path in (("real", flags.real), ("fake", flags.fake))
        if path is not None
    }
    if flags.save and isinstance(sets["real"], Statistics):
        raise UserError(f"{flags.real} holds statistics already; --save would copy them.")
    for path, found_there in ((flags.real, sets["real"]), (flags.fake, sets.get("fake"))):
        if isinstance(found_there, Statistics) and found_there.extractor != name:
            raise UserError(f"{path} holds statistics of {found_there.extractor}; expected {name} (--features).")
    extractor = open_extractor(flags.features, flags.weights and flags.weights.expanduser(), grey=flags.grey)
    found: dict[str, Statistics] = {}
    for side, path in (("real", flags.real), ("fake", flags.fake)):
        if side in sets:
            images = sets[side]
            is_known = isinstance(images, Statistics)
            found[side] = images if is_known else measure(extractor, images, path.name, limit=flags.neighbours)
        if flags.save and side == "real":
            save_statistics(flags.save, found["real"])
    if "fake" not in found:
        return
    real, fake = found["real"], found["fake"]
    warn_of_few(real.moments.images, fake.moments.images, len(fake.moments.mean))
    figures: dict[str, Any] = dict(compare(real, fake))
    kept = [None if side.subset is None else len(side.subset) for side in (real, fake)]
    figures["protocol"] = {
        **figures_protocol(extractor, kept[0], kept[1], flags.neighbours),
        "real": about(flags.real, sets["real"], real, flags.split),
        "fake": about(flags.fake, sets["fake"], fake, flags.split),
    }
    show(figures, extractor.distance, flags.json)


def about(path: Path, images: Any, statistics: Any, split: str | None) -> dict[str, Any]:
    """What is known of one side."""
    shape = getattr(images, "shape", None)
    known = {"size": list(shape[1:3]), "split": split} if shape else {}
    return {"from": str(path), "images": statistics.moments.images, **known}


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
    from ddpm_jax.runtime.exit_codes import exit_code

    sys.exit(exit_code(main))
