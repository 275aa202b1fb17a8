"""Statistics of a set of images, by which it is compared with another: moments, Inception Score and features.

    images -> iter_features -> Statistics -> metrics

Moments and Inception Score cover all images; KID and the manifold metrics use the features of a random subset.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ddpm_jax.config.checks import MOST_PIXELS
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import Extractor, iter_features
from ddpm_jax.evaluation.frechet import Moments, MomentSums, frechet_distance
from ddpm_jax.evaluation.inception_score import InceptionScore, ScoreSums, random_splits
from ddpm_jax.evaluation.kid import SUBSET_SIZE, SUBSETS, KernelDistance, kid
from ddpm_jax.evaluation.manifold import DENSITY_K, PRECISION_K, Manifold, manifold
from ddpm_jax.runtime.files import NO_ARRAYS, staged

METRICS = ("fid", *KernelDistance._fields, *InceptionScore._fields, *Manifold._fields)
LARGEST = 1e30
"""Limit of the numbers in statistics; larger ones would overflow in a distance."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of one set of images under one extractor."""

    extractor: str
    moments: Moments
    subset: Float[np.ndarray, "kept D"] | None
    """Features of a random subset; None if only moments are known, as in pytorch-fid's files."""
    score: InceptionScore | None = None
    weights: str | None = None
    """SHA-256 of the extractor's weights, if known."""


def measure(extractor: Extractor, images: Any, name: str, *, limit: int, seed: int = 0) -> Statistics:
    """Measures images [N, height, width, channels], uint8.

    name: of the set, for messages and progress; limit: the most images whose features are kept.
    """
    count = len(images)
    if count < 2:
        raise UserError(f"{name}: {count} image(s) have no covariance; expected 2 or more, and thousands for a metric.")
    numbers = math.prod(np.shape(images[np.arange(1)])[1:])
    if extractor.name == "pixels" and numbers > MOST_PIXELS:  # Their covariance has the square of that.
        raise UserError(f"features 'pixels' are for images of at most {MOST_PIXELS:,} numbers, got {numbers:,}.")
    kept = np.zeros(count, bool)
    kept[np.random.default_rng(seed).permutation(count)[:limit]] = True
    sums, scores, subset, seen = MomentSums(), ScoreSums(random_splits(count)), [], 0
    for features, logits in iter_features(extractor, images, name):
        sums.add(features)
        if logits is not None:
            scores.add(logits)
        subset.append(features[kept[seen : seen + len(features)]])
        seen += len(features)
    return Statistics(extractor.name, sums.moments(), np.concatenate(subset), scores.score(), extractor.weights)


def compare(real: Statistics, fake: Statistics) -> dict[str, float | None]:
    """Every metric of METRICS by name; None for metrics that need more than the statistics hold."""
    if real.extractor != fake.extractor:
        raise UserError(f"statistics of {real.extractor} and {fake.extractor} cannot be compared; use one extractor.")
    if real.weights and fake.weights and real.weights != fake.weights:
        raise UserError("The statistics come from different weights of the extractor; measure both sets with the same.")
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    metrics["fid"] = frechet_distance(real.moments, fake.moments, real.extractor)
    if fake.score is not None:
        metrics |= fake.score._asdict()
    if real.subset is not None and fake.subset is not None and min(len(real.subset), len(fake.subset)) > DENSITY_K:
        metrics |= kid(real.subset, fake.subset)._asdict() | manifold(real.subset, fake.subset)._asdict()
    return metrics


def metrics_protocol(extractor: Extractor, real: int | None, fake: int | None, most: int) -> dict[str, Any]:
    """Everything that the metrics depend on besides the images.

    real, fake: the number of features kept of each set, None if none were; most: the limit on that number.
    """
    kept = [number for number in (real, fake) if number is not None]
    return {
        "distance": extractor.distance,
        "features": extractor.name,
        "weights_sha256": extractor.weights,
        "resize": "to 299x299, bilinear without antialiasing" if extractor.dimensions else None,
        "neighbours": {"real": real, "fake": fake, "most": most},
        "kid": {"subsets": SUBSETS, "size": min([SUBSET_SIZE, *kept])} if len(kept) == 2 else None,
        "k": {"precision": PRECISION_K, "density": DENSITY_K},
    }


def warn_of_small_sets(sizes: Mapping[str, int | None], dimensions: int) -> None:
    """Warns of sets with no more images than a feature has dimensions; sizes: of the sets by name, None if unknown."""
    for name, images in sizes.items():
        if images is not None and images <= dimensions:
            logger.warning(
                "%d %s images for features of %d dimensions: their covariance is singular, and the Fréchet distance "
                "comes out far too large. Compare it only with distances of equally many images.",
                *(images, name, dimensions),
            )


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Writes an .npz file atomically."""
    with staged(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays_of(statistics))  # pyright: ignore[reportArgumentType]


def load_statistics(path: Path, extractor: str) -> Statistics:
    """Reads a file of `save_statistics` or pytorch-fid; extractor: the name for files that do not hold one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, *NO_ARRAYS) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise UserError(f"{path} holds no statistics ({reason}); expected an .npz with mu and sigma.") from error
    return statistics_of(found, extractor, str(path))


def arrays_of(statistics: Statistics) -> dict[str, np.ndarray]:
    """Statistics as arrays by name: pytorch-fid's mu and sigma, and whatever else is known."""
    moments = statistics.moments
    fields = {
        "mu": moments.mean,
        "sigma": moments.covariance,
        "extractor": statistics.extractor,
        "count": moments.images,
        "features": statistics.subset,
        "score": statistics.score,
        "weights": statistics.weights,
    }
    return {name: np.asarray(value) for name, value in fields.items() if value is not None}


def statistics_of(arrays: Mapping[str, np.ndarray], extractor: str, where: str) -> Statistics:
    """The inverse of `arrays_of`, also for pytorch-fid's arrays; raises UserError for others."""
    if not {"mu", "sigma"} <= arrays.keys():
        raise UserError(
            f"{where} holds {', '.join(arrays) or 'nothing'}; expected mu and sigma, as pytorch-fid writes."
        )
    mean, covariance, subset = arrays["mu"], arrays["sigma"], arrays.get("features")
    if mean.ndim != 1 or not mean.size or covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{where}: mu {mean.shape} and sigma {covariance.shape} are not a mean and its covariance.")
    count, score, weights = (arrays.get(name) for name in ("count", "score", "weights"))
    for name, array in (("mu", mean), ("sigma", covariance), ("features", subset), ("score", score)):
        if array is not None and not (array.dtype.kind == "f" and (np.abs(array) < LARGEST).all()):
            raise UserError(f"{where}: {name} is not numeric, not finite, or beyond {LARGEST}.")
    if subset is not None and (subset.ndim != 2 or subset.shape[1] != len(mean)):
        raise UserError(f"{where}: features {subset.shape} and mu {mean.shape} differ in dimensions.")
    if score is not None and score.shape != (2,):
        raise UserError(f"{where}: score {score.shape} should be a mean and a standard deviation.")
    if count is not None and (count.ndim or count.dtype.kind not in "iu" or count < 2):
        raise UserError(f"{where}: count={count} is not a number of images.")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    scale = max(np.abs(covariance).max(), 1e-12)
    if (
        not np.allclose(covariance, covariance.T, atol=1e-6 * scale)
        or np.linalg.eigvalsh(covariance)[0] < -1e-5 * scale
    ):
        raise UserError(f"{where}: sigma is not a covariance; it must be symmetric, without negative variances.")
    return Statistics(
        str(arrays.get("extractor", extractor)),
        Moments(None if count is None else int(count), mean, covariance),
        subset,
        None if score is None else InceptionScore(float(score[0]), float(score[1])),
        None if weights is None else str(weights),
    )
