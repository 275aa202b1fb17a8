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
    from ddpm_jax.evaluation.neighbours import ImageSubset, Neighbours
    from ddpm_jax.runtime.urls import AnyPath

QUERIES = ("samples", "held_out")
"""The sets whose nearest training images are searched."""
LARGEST_FEATURES = 2**32
"""Bytes of the float64 features of all samples and held-out images; computing the distances needs about thrice that."""


class Sets(NamedTuple):
    """The images that are compared."""

    samples: "ImageSubset"
    held_out: "ImageSubset"
    training: "ImageSubset"


def main() -> None:
    """Measures all distances, prints them, and writes the picture."""
    flags = checked_flags()
    from ddpm_jax.evaluation.features import open_extractor

    sets = open_sets(flags)
    extractors = [open_extractor(name, flags.weights and flags.weights.expanduser()) for name in flags.features]
    neighbours = {extractor.name: measure(extractor, sets, flags.k) for extractor in extractors}
    closest = {
        query: closest_images([by_set[query] for by_set in neighbours.values()], flags.closest) for query in QUERIES
    }
    write_picture(flags.out, sets, neighbours, closest)
    report = {
        "images": {name: int((~images.mirrored).sum()) for name, images in sets._asdict().items()},
        "mirrored": bool(sets.training.mirrored.any()),
        "features": {name: summary(by_set) for name, by_set in neighbours.items()},
        "closest": [describe(sets.training, neighbours, index) for index in closest["samples"]],
        "picture": str(flags.out),
    }
    if flags.json:
        print(json.dumps(report))
    else:
        print_report(report)


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
    parser.add_argument("--closest", type=int, default=10, help="closest samples in the picture (10)")
    parser.add_argument("--count", type=int, default=1000, help="most samples, and most held-out images (1000)")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args()
    for name in ("k", "closest", "count"):
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
    from ddpm_jax.evaluation.neighbours import ImageSubset

    samples = open_images(located(flags.samples, "SAMPLES"))
    training, held_out = open_training(flags)
    if flags.held_out:
        held_out = open_images(located(flags.held_out, "--held-out"))
    if held_out is None or not len(held_out):
        raise UserError("No images are held out of the training to compare with; name a set of them: --held-out=…")
    chosen = np.random.default_rng(0).permutation(len(held_out))[: flags.count]
    sets = Sets(ImageSubset(samples, np.arange(len(samples))[: flags.count]), ImageSubset(held_out, chosen), training)
    for name, images in (("samples", sets.samples), ("held-out images", sets.held_out)):
        if images.shape[1:] != training.shape[1:]:
            raise UserError(
                f"The {name} are {size(images)} pixels, the training images {size(training)}; expected one size. Scale "
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


def size(images: "ImageSubset") -> str:
    """Width and height in words."""
    return f"{images.shape[2]}x{images.shape[1]}"


def located(path: str, name: str) -> "AnyPath":
    """A path on this machine, or a URL whose store answers; name: of the argument, for messages."""
    from ddpm_jax.runtime.urls import as_path, check_folder

    folder = as_path(path, name)
    check_folder(folder)
    return folder


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


def open_training(flags: argparse.Namespace) -> tuple["ImageSubset", Any]:
    """The training images, and the images that the run holds out; None for those if there are none."""
    import numpy as np

    from ddpm_jax.data.dataset import hold_out
    from ddpm_jax.data.open import open_dataset
    from ddpm_jax.evaluation.neighbours import ImageSubset
    from ddpm_jax.runtime.urls import store_errors
    from ddpm_jax.workdir import read_config

    path = located(flags.training, "--training") if flags.training else run_of(located(flags.samples, "SAMPLES"))
    with store_errors(path):
        config = read_config(path) if (path / "config.json").exists() else None
    if config is None:
        images = open_images(path)
        return ImageSubset(images, np.arange(len(images)), mirrored=flags.mirrored), None
    dataset = open_dataset(config)
    rows, held = hold_out(dataset, config.data.holdout)
    mirrored = flags.mirrored or config.data.flip
    held_out = ImageSubset(dataset.images, held) if len(held) else None
    return ImageSubset(dataset.images, rows, mirrored=mirrored), held_out


def run_of(samples: "AnyPath") -> "AnyPath":
    """The workdir in whose samples/ a folder lies."""
    from ddpm_jax.errors import UserError

    folder = samples.parent
    if folder.name != "samples" or not (folder.parent / "config.json").exists():
        raise UserError(f"{samples} does not lie in the samples/ of a run; name the training images: --training=…")
    return folder.parent


def measure(extractor: Any, sets: Sets, k: int) -> dict[str, "Neighbours"]:
    """The training images nearest to each sample and to each held-out image, by QUERIES."""
    import numpy as np

    from ddpm_jax.evaluation.neighbours import Neighbours, features_of, nearest_neighbours

    features = [features_of(extractor, images, query) for query, images in zip(QUERIES, sets[:2], strict=True)]
    nearest = nearest_neighbours(extractor, np.concatenate(features), sets.training, k, "training images")
    unit = 255.0 / np.sqrt(features[0].shape[1]) if extractor.name == "pixels" else 1.0
    indices, distances = (np.split(array, [len(features[0])]) for array in nearest)
    return {query: Neighbours(indices[i], distances[i] * unit) for i, query in enumerate(QUERIES)}


def closest_images(neighbours: list["Neighbours"], count: int) -> list[int]:
    """The indices of the images that are closest to the training images, by each kind of features in turn."""
    import numpy as np

    orders = [np.argsort(distances[:, 0], kind="stable") for _, distances in neighbours]
    return list(dict.fromkeys(np.stack(orders, axis=1).ravel().tolist()))[:count]


def summary(neighbours: dict[str, "Neighbours"]) -> dict[str, Any]:
    """The distances to the nearest training image by QUERIES, and in how many pairs the sample is closer."""
    import numpy as np

    from ddpm_jax.evaluation.neighbours import share_closer

    nearest = {query: neighbours[query].distances[:, 0] for query in QUERIES}
    statistics = {query: {"smallest": float(np.min(d)), "median": float(np.median(d))} for query, d in nearest.items()}
    return {**statistics, "closer": share_closer(nearest["samples"], nearest["held_out"])}


def describe(training: "ImageSubset", neighbours: dict[str, dict[str, "Neighbours"]], sample: int) -> dict[str, Any]:
    """The training images nearest to a sample, by kind of features: rows of the data set, and distances."""
    nearest = {}
    for name, by_set in neighbours.items():
        indices, distances = (array[sample] for array in by_set["samples"])
        columns = training.rows[indices], training.mirrored[indices], distances
        rows = zip(*(column.tolist() for column in columns), strict=True)
        nearest[name] = [dict(zip(("row", "mirrored", "distance"), row, strict=True)) for row in rows]
    return {"sample": sample, "nearest": nearest}


def write_picture(
    path: Path, sets: Sets, neighbours: dict[str, dict[str, "Neighbours"]], closest: dict[str, list[int]]
) -> None:
    """Rows of an image and its nearest training images by each kind of features, with the distances of the nearest."""
    import numpy as np

    from ddpm_jax.reporting.images import captioned_rows, save_png

    rows = []
    for query, images in zip(QUERIES, sets[:2], strict=True):
        for index in closest[query]:
            parts = [images[np.array([index])]]
            for by_set in neighbours.values():
                parts += [np.full_like(parts[0], 255), sets.training[by_set[query].indices[index]]]
            nearest = [f"{name} {by_set[query].distances[index, 0]:.4g}" for name, by_set in neighbours.items()]
            noun = query.removesuffix("s").replace("_", " ")
            rows.append((f"{noun} {index}: {', '.join(nearest)}", np.concatenate(parts)))
    save_png(captioned_rows(rows), path)


def print_report(report: dict[str, Any]) -> None:
    """Prints the report as tables."""
    images, also = report["images"], ", also mirrored" * report["mirrored"]
    print(f"{'features':16}{'images':24}{'smallest':>10}{'median':>10}{'closer':>8}")
    for name, facts in report["features"].items():
        for query in QUERIES:
            closer = f"{facts['closer']:8.3f}" if query == "samples" else ""
            distances = "".join(f"{value:10.4g}" for value in facts[query].values())
            measured = f"{images[query]:,} {query.replace('_', ' ')}"
            print(f"{name:16}{measured:24}{distances}{closer}")
    print(f"\nWrote {report['picture']}: the samples closest to the {images['training']:,} training images{also}")
    for sample in report["closest"]:
        nearest = (
            f"{name} {first['distance']:.4g} (training image {first['row']}{', mirrored' * first['mirrored']})"
            for name, (first, *_) in sample["nearest"].items()
        )
        print(f"sample {sample['sample']}: {', '.join(nearest)}")


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
