"""All that is kept of a set of images to compare it with another: moments, the Inception Score, and some features.

    images -> features_of -> Statistics -> figures

Moments and scores are of all images. KID and the manifold figures are of at most `limit` of them, drawn at random,
whose features are kept.
"""

import dataclasses
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import Extractor, features_of
from ddpm_jax.evaluation.inception_score import ScoreSums, random_parts
from ddpm_jax.evaluation.kernel import kernel_distance
from ddpm_jax.evaluation.manifold import DENSITY_K, manifold
from ddpm_jax.evaluation.moments import Moments, MomentSums, frechet_distance

FIGURES = (
    *("fid", "kid_mean", "kid_std", "inception_score_mean", "inception_score_std"),
    *("precision", "recall", "density", "coverage"),
)


logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of one set of images under one extractor."""

    extractor: str
    moments: Moments
    some: Float[np.ndarray, "some D"] | None
    """Features of some of the images; None where only moments are known, as in pytorch-fid's files."""
    score: tuple[float, float] | None = None
    """Inception Score, mean and standard deviation over ten parts."""


def measure(extractor: Extractor, images: Any, what: str, *, limit: int, seed: int = 0) -> Statistics:
    """The statistics of images [N, height, width, channels], uint8; limit: features that are kept."""
    count = len(images)
    kept = np.zeros(count, bool)
    kept[np.random.default_rng(seed).permutation(count)[:limit]] = True
    sums, scores, some, seen = MomentSums(), ScoreSums(random_parts(count)), [], 0
    scored = False
    for features, logits in features_of(extractor, images, what):
        sums.add(features)
        if logits is not None:
            scores.add(logits)
            scored = True
        some.append(features[kept[seen : seen + len(features)]])
        seen += len(features)
    return Statistics(extractor.name, sums.moments(), np.concatenate(some), scores.score() if scored else None)


def compare(real: Statistics, fake: Statistics) -> dict[str, float | None]:
    """Every figure by its name in FIGURES; None for those that what is known of the sets cannot give."""
    if real.extractor != fake.extractor:
        raise UserError(
            f"statistics of {real.extractor} and of {fake.extractor} cannot be compared; use one extractor."
        )
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    figures["fid"] = frechet_distance(real.moments, fake.moments)
    if fake.score is not None:
        figures["inception_score_mean"], figures["inception_score_std"] = fake.score
    if real.some is not None and fake.some is not None and min(len(real.some), len(fake.some)) > DENSITY_K:
        figures["kid_mean"], figures["kid_std"] = kernel_distance(real.some, fake.some)
        figures |= manifold(real.some, fake.some)._asdict()
    return figures


def few_images(real: Statistics, fake: Statistics) -> None:
    """Warns of sets whose figures are worth little, and says why."""
    dimensions = len(fake.moments.mean)
    for what, moments in (("real", real.moments), ("drawn", fake.moments)):
        if 0 < moments.images <= dimensions:
            logger.warning(
                "%d %s images are fewer than the %d dimensions of a feature: their covariance is singular, and the "
                "Fréchet distance comes out far too large. Compare it only with others of as many images.",
                *(moments.images, what, dimensions),
            )


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Writes mu and sigma under pytorch-fid's names, and what is known besides under names of our own."""
    moments = statistics.moments
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "count": np.array(moments.images)}
    arrays["extractor"] = np.array(statistics.extractor)
    if statistics.some is not None:
        arrays["features"] = statistics.some
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    unfinished.replace(path)


def load_statistics(path: Path, extractor: str) -> Statistics:
    """What `save_statistics` or pytorch-fid wrote; a file that does not say its extractor is taken for this one's."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} holds no statistics ({reason}); expected an .npz with mu and sigma.") from error
    if not {"mu", "sigma"} <= found.keys():
        raise UserError(f"{path} holds {', '.join(found) or 'nothing'}; expected mu and sigma, as pytorch-fid writes.")
    mean, covariance = (found[name].astype(np.float64) for name in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{path}: mu {mean.shape} and sigma {covariance.shape} are no mean and covariance.")
    name = str(found.get("extractor", extractor))
    moments = Moments(int(found.get("count", 0)), mean, covariance)
    return Statistics(name, moments, found.get("features"))
