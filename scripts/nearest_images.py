"""Shows the training images nearest to generated ones, and compares distances with those of held-out images.

    python scripts/nearest_images.py runs/x/samples/900-ddim-50steps-leading-seed0-n1000 --out=nearest.png
    python scripts/nearest_images.py fake/ --training=runs/x --features=pixels,inception-768 --weights=W --out=n.png
    python scripts/nearest_images.py fake/ --training=train/ --held-out=test/ --mirrored --out=nearest.png

The training images are those of the run in whose samples/ the samples lie, of the run --training, or a set: a folder,
zip, .npz or other set as for evaluate_images.py. If a run mirrors its images (data.flip), they count mirrored, too.
Runs and their folders of samples may be URLs.

For each kind of features, prints the smallest and the median distance from a sample to its nearest training image, the
same for held-out images, and in how many pairs the sample is closer: 0.5 if the samples are as new as held-out images,
1 if they are copies. Distances of pixels are root mean squares in grey levels (0 to 255), others Euclidean. The picture
has the samples that are closest by each kind of features, each before its nearest training images; below, held-out
images in the same way.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from ddpm_jax.evaluation.neighbours import Neighbours, Selection
    from ddpm_jax.runtime.urls import AnyPath

SIDES = ("samples", "held_out")
LARGEST_FEATURES = 2**32
"""Bytes of the float64 features of all samples and held-out images; computing the distances needs about thrice that."""


class Sets(NamedTuple):
    """The images that are compared."""

    samples: "Selection"
    held_out: "Selection"
    training: "Selection"


def main() -> None:
    """Measures all distances, prints them, and writes the picture."""
    flags = checked_flags()
    from ddpm_jax.evaluation.features import open_extractor

    sets = open_sets(flags)
    extractors = [open_extractor(name, flags.weights and flags.weights.expanduser()) for name in flags.features]
    found = {extractor.name: measure(extractor, sets, flags.k) for extractor in extractors}
    shown = {side: closest([found[name][side] for name in found], flags.shown) for side in SIDES}
    write_picture(flags.out, sets, found, shown)
    report = {
        "images": {name: int((~images.mirrored).sum()) for name, images in sets._asdict().items()},
        "mirrored": bool(sets.training.mirrored.any()),
        "features": {name: summary(each) for name, each in found.items()},
        "shown": [described(sets.training, found, number) for number in shown[SIDES[0]]],
        "picture": str(flags.out),
    }
    if flags.json:
        print(json.dumps(report))
    else:
        show(report)


def checked_flags() -> argparse.Namespace:
    """The flags; raises UserError for impossible values."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.evaluation.features import EXTRACTORS, full_name

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "samples", metavar="SAMPLES", help="generated images: a folder that --mode=sample wrote, or another set"
    )
    parser.add_argument("--training", metavar="RUN|SET", help="(the run of the samples)")
    parser.add_argument("--held-out", metavar="SET", help="(those of the run)")
    parser.add_argument("--mirrored", action="store_true", help="compare with mirrored training images of a set, too")
    parser.add_argument("--features", default="pixels,inception", metavar="NAMES", help=f"of {', '.join(EXTRACTORS)}")
    parser.add_argument("--weights", type=Path, help="Inception's weights, .safetensors or .pth (default: fetched)")
    parser.add_argument("--k", type=int, default=5, help="training images for each sample in the picture (5)")
    parser.add_argument("--shown", type=int, default=10, help="samples in the picture (10)")
    parser.add_argument("--count", type=int, default=1000, help="most samples, and most held-out images (1000)")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    for name in ("k", "shown", "count"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name}={getattr(flags, name)} is too few; expected 1 or more.")
    if flags.out.suffix != ".png" or not flags.out.absolute().parent.is_dir():
        raise UserError(f"--out={flags.out} cannot be written; give a .png file in an existing folder.")
    flags.features = list(dict.fromkeys(map(full_name, flags.features.split(","))))
    if flags.weights and flags.features == ["pixels"]:
        raise UserError(f"--weights={flags.weights} has no effect with --features=pixels.")
    return flags


def open_sets(flags: argparse.Namespace) -> Sets:
    """The samples, the held-out images and the training images; raises UserError if they cannot be compared."""
    import numpy as np

    from ddpm_jax.errors import UserError
    from ddpm_jax.evaluation.neighbours import Selection

    samples = open_images(located(flags.samples, "SAMPLES"))
    training, held_out = open_training(flags)
    if flags.held_out:
        held_out = open_images(located(flags.held_out, "--held-out"))
    if held_out is None or not len(held_out):
        raise UserError("No images are held out of the training to compare with; name a set of them: --held-out=…")
    chosen = np.random.default_rng(0).permutation(len(held_out))[: flags.count]
    sets = Sets(Selection(samples, np.arange(len(samples))[: flags.count]), Selection(held_out, chosen), training)
    for name, each in (("samples", sets.samples), ("held-out images", sets.held_out)):
        if each.shape[1:] != training.shape[1:]:
            raise UserError(
                f"The {name} are {size(each)} pixels, the training images {size(training)}; expected one size. Scale "
                "them to that of the training images."
            )
    if flags.k > len(training):
        raise UserError(f"--k={flags.k} exceeds the number of training images, {len(training)}; lower it.")
    for name in flags.features:
        refuse_large_features(name, sets)
    return sets


def refuse_large_features(name: str, sets: Sets) -> None:
    """Raises UserError if the features of this kind of all samples and held-out images exceed LARGEST_FEATURES."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.evaluation.features import INCEPTION
    from ddpm_jax.reporting.memory import size_in_words

    dimensions = INCEPTION[name] if name in INCEPTION else math.prod(sets.samples.shape[1:])
    count, fitting = len(sets.samples) + len(sets.held_out), LARGEST_FEATURES // (8 * dimensions)
    if count > fitting:
        remedy = f"lower --count to {fitting // 2}" if fitting > 1 else f"leave {name} out of --features"
        raise UserError(
            f"The features ({name}) of {count:,} samples and held-out images take "
            f"{size_in_words(8 * count * dimensions)}; expected at most {size_in_words(LARGEST_FEATURES)}: {remedy}."
        )


def size(images: "Selection") -> str:
    """Width and height in words."""
    return f"{images.shape[2]}x{images.shape[1]}"


def located(path: str, name: str) -> "AnyPath":
    """A path on this machine, or a URL whose store answers; name: of the argument, for messages."""
    from ddpm_jax.runtime.urls import as_path, check_folder

    found = as_path(path, name)
    check_folder(found)
    return found


def open_images(path: "AnyPath") -> Any:
    """A set of images, at a URL a folder of samples; raises UserError for statistics, which hold no images."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.evaluation.image_sets import open_set
    from ddpm_jax.evaluation.statistics import Statistics

    if not isinstance(path, Path):
        return read_samples(path)
    images = open_set(path, "pixels", None)
    if isinstance(images, Statistics):
        raise UserError(f"{path} holds statistics; expected images.")
    return images


def read_samples(url: "AnyPath") -> Any:
    """The images in a folder at a URL that --mode=sample wrote."""
    import numpy as np

    from ddpm_jax.errors import UserError
    from ddpm_jax.runtime.files import NO_ARRAYS
    from ddpm_jax.runtime.urls import store_errors

    try:
        with store_errors(url), (url / "samples.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["arr_0"]
    except (FileNotFoundError, *NO_ARRAYS) as error:
        raise UserError(
            f"{url} holds no samples ({error}); give a folder that --mode=sample wrote, or copy another set here."
        ) from error


def open_training(flags: argparse.Namespace) -> tuple["Selection", Any]:
    """The training images, and the images that the run holds out; None for those if there are none."""
    import numpy as np

    from ddpm_jax.data.dataset import hold_out
    from ddpm_jax.data.open import open_dataset
    from ddpm_jax.evaluation.neighbours import Selection
    from ddpm_jax.runtime.urls import store_errors
    from ddpm_jax.workdir import read_config

    path = located(flags.training, "--training") if flags.training else run_of(located(flags.samples, "SAMPLES"))
    with store_errors(path):
        config = read_config(path) if (path / "config.json").exists() else None
    if config is None:
        images = open_images(path)
        return Selection(images, np.arange(len(images)), mirrored=flags.mirrored), None
    dataset = open_dataset(config)
    rows, held = hold_out(dataset, config.data.holdout)
    mirrored = flags.mirrored or config.data.flip
    held_out = Selection(dataset.images, held) if len(held) else None
    return Selection(dataset.images, rows, mirrored=mirrored), held_out


def run_of(samples: "AnyPath") -> "AnyPath":
    """The workdir in whose samples/ a folder lies."""
    from ddpm_jax.errors import UserError

    folder = samples.parent
    if folder.name != "samples" or not (folder.parent / "config.json").exists():
        raise UserError(f"{samples} does not lie in the samples/ of a run; name the training images: --training=…")
    return folder.parent


def measure(extractor: Any, sets: Sets, k: int) -> dict[str, "Neighbours"]:
    """The training images nearest to each sample and to each held-out image, by SIDES."""
    import numpy as np

    from ddpm_jax.evaluation.neighbours import Neighbours, features_of, nearest_neighbours

    queries = [features_of(extractor, images, side) for side, images in zip(SIDES, sets[:2], strict=True)]
    found = nearest_neighbours(extractor, np.concatenate(queries), sets.training, k, "training images")
    unit = 255.0 / np.sqrt(queries[0].shape[1]) if extractor.name == "pixels" else 1.0
    numbers, distances = (np.split(each, [len(queries[0])]) for each in found)
    return {side: Neighbours(numbers[i], distances[i] * unit) for i, side in enumerate(SIDES)}


def closest(found: list["Neighbours"], shown: int) -> list[int]:
    """The images that are closest to the training images, by each kind of features in turn."""
    import numpy as np

    orders = [np.argsort(each.distances[:, 0], kind="stable") for each in found]
    return list(dict.fromkeys(np.stack(orders, axis=1).ravel().tolist()))[:shown]


def summary(found: dict[str, "Neighbours"]) -> dict[str, Any]:
    """The distances to the nearest training image by SIDES, and in how many pairs the sample is closer."""
    import numpy as np

    from ddpm_jax.evaluation.neighbours import share_closer

    nearest = {side: found[side].distances[:, 0] for side in SIDES}
    each = {side: {"smallest": float(np.min(d)), "median": float(np.median(d))} for side, d in nearest.items()}
    return {**each, "closer": share_closer(*(nearest[side] for side in SIDES))}


def described(training: "Selection", found: dict[str, dict[str, "Neighbours"]], number: int) -> dict[str, Any]:
    """The training images nearest to a sample, by kind of features: rows of the data set, and distances."""
    nearest = {}
    for name, each in found.items():
        numbers, distances = each["samples"].numbers[number], each["samples"].distances[number]
        columns = training.rows[numbers], training.mirrored[numbers], distances
        rows = zip(*(column.tolist() for column in columns), strict=True)
        nearest[name] = [dict(zip(("row", "mirrored", "distance"), row, strict=True)) for row in rows]
    return {"sample": number, "nearest": nearest}


def write_picture(
    path: Path, sets: Sets, found: dict[str, dict[str, "Neighbours"]], shown: dict[str, list[int]]
) -> None:
    """Rows of an image and its nearest training images by each kind of features, with the distances of the nearest."""
    import numpy as np

    from ddpm_jax.reporting.images import captioned_rows, save_png

    rows = []
    for side, images in zip(SIDES, sets[:2], strict=True):
        for number in shown[side]:
            parts = [images[np.array([number])]]
            for each in found.values():
                parts += [np.full_like(parts[0], 255), sets.training[each[side].numbers[number]]]
            nearest = [f"{name} {each[side].distances[number, 0]:.4g}" for name, each in found.items()]
            noun = side.removesuffix("s").replace("_", " ")
            rows.append((f"{noun} {number}: {', '.join(nearest)}", np.concatenate(parts)))
    save_png(captioned_rows(rows), path)


def show(report: dict[str, Any]) -> None:
    """Prints the report as tables."""
    images, also = report["images"], ", also mirrored" * report["mirrored"]
    print(f"{'features':16}{'images':24}{'smallest':>10}{'median':>10}{'closer':>8}")
    for name, facts in report["features"].items():
        for side in SIDES:
            closer = f"{facts['closer']:8.3f}" if side == SIDES[0] else ""
            numbers = "".join(f"{value:10.4g}" for value in facts[side].values())
            measured = f"{images[side]:,} {side.replace('_', ' ')}"
            print(f"{name:16}{measured:24}{numbers}{closer}")
    print(f"\nWrote {report['picture']}: the samples closest to the {images['training']:,} training images{also}")
    for each in report["shown"]:
        nearest = (
            f"{name} {found[0]['distance']:.4g} (training image {found[0]['row']}{', mirrored' * found[0]['mirrored']})"
            for name, found in each["nearest"].items()
        )
        print(f"sample {each['sample']}: {', '.join(nearest)}")


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import exit_code

    sys.exit(exit_code(main))
