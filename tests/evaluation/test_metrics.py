"""The figures on features whose figures are known: closed forms, and the definitions written out."""

import numpy as np
import pytest
import scipy.linalg

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.frechet import Moments, MomentSums, frechet_distance
from ddpm_jax.evaluation.inception_score import SPLITS, ScoreSums, random_parts
from ddpm_jax.evaluation.kid import kid, squared_mmd
from ddpm_jax.evaluation.manifold import BLOCK, DENSITY_K, PRECISION_K, manifold, neighbour_distances


def gaussian(draw, mean, covariance) -> Moments:
    return Moments(10**6, np.asarray(mean, float), np.asarray(covariance, float))


def gathered(features, size: int = 7) -> Moments:
    sums = MomentSums()
    for start in range(0, len(features), size):
        sums.add(features[start : start + size])
    return sums.moments()


def test_moments_gathered_in_batches_are_those_of_all(draw):
    features = (draw.normal(size=(100, 5)) * 1e-3 + 1e4).astype(np.float32)
    moments = gathered(features)
    np.testing.assert_allclose(moments.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features.T.astype(np.float64)), rtol=1e-8, atol=1e-15)
    assert moments.images == 100


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_distance_of_isotropic_gaussians_is_known(draw, scale):
    a, b = gaussian(draw, np.zeros(6), np.eye(6)), gaussian(draw, np.full(6, 2.0), scale**2 * np.eye(6))
    assert frechet_distance(a, b) == pytest.approx(6 * 4.0 + 6 * (1.0 - scale) ** 2, rel=1e-12)


def test_the_distance_is_that_of_the_matrix_square_root(draw):
    """pytorch-fid's formula, by SciPy."""
    a, b = (gathered(draw.normal(size=(200, 12)) @ draw.normal(size=(12, 12))) for _ in range(2))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    shift = ((a.mean - b.mean) ** 2).sum()
    expected = shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_singular_covariances_have_a_distance(draw):
    """Fewer images than dimensions; the distance of a set to itself is nothing, and to its shift the shift's square."""
    features = draw.normal(size=(10, 40))
    a, shifted = gathered(features), gathered(features + 0.5)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(a, shifted) == pytest.approx(40 * 0.25, rel=1e-6)


def test_features_that_are_no_numbers_and_sets_that_do_not_fit_are_refused(draw):
    with pytest.raises(UserError, match="A feature is not finite"):
        gathered(np.array([[1.0, np.nan]]))
    with pytest.raises(UserError, match="1 image.s. have no covariance"):
        gathered(np.ones((1, 3)))
    with pytest.raises(UserError, match="features of 3 and 2 dimensions cannot be compared"):
        frechet_distance(gaussian(draw, np.zeros(3), np.eye(3)), gaussian(draw, np.zeros(2), np.eye(2)))
    with pytest.raises(UserError, match="5 images have no 5 neighbours each"):
        manifold(draw.normal(size=(5, 2)), draw.normal(size=(9, 2)))


def test_the_kernel_distance_is_the_definition(draw):
    a, b = draw.normal(size=(6, 4)), draw.normal(size=(6, 4)) + 0.3

    def k(x, y):
        return (x @ y / 4 + 1.0) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6)]
    within = sum(k(x[i], x[j]) for x in (a, b) for i, j in pairs if i != j) / 30
    assert squared_mmd(a, b) == pytest.approx(within - 2 * sum(k(a[i], b[j]) for i, j in pairs) / 36, rel=1e-12)


def test_the_kernel_distance_of_equal_sets_is_about_nothing(draw):
    real, fake, far = (draw.normal(size=(600, 8)) + shift for shift in (0, 0, 0.5))
    same, deviation = kid(real, fake, subsets=20, size=200)
    assert abs(same) < 3 * deviation and kid(real, far, subsets=20, size=200)[0] > 10 * abs(same)
    assert kid(real, fake, subsets=3, size=10**6)[1] == pytest.approx(0.0, abs=1e-12)  # All, each time.


def test_the_inception_score_is_the_definition(draw):
    logits = draw.normal(size=(95, 7)) * 3
    parts = random_parts(95)
    assert np.bincount(parts).tolist() == [10, 9] * 5 or sorted(np.bincount(parts).tolist()) == [9] * 5 + [10] * 5
    sums = ScoreSums(parts)
    for start in range(0, 95, 8):
        sums.add(logits[start : start + 8])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for part in range(SPLITS):
        q = p[parts == part]
        scores.append(np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()))
    assert sums.score() == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-10)


def test_the_inception_score_of_certain_classes_is_their_number():
    logits = np.where(np.arange(100)[:, None] % 5 == np.arange(5), 50.0, 0.0)
    sums = ScoreSums(np.arange(100) // 10)
    sums.add(logits)
    assert sums.score() == pytest.approx((5.0, 0.0), abs=1e-9)


def test_nested_and_disjoint_sets_have_their_precision_and_recall(draw):
    """Fakes from the middle of the real ones are precise and recall little; far ones neither."""
    real, inner = draw.uniform(-1, 1, (400, 2)), draw.uniform(-0.2, 0.2, (400, 2))
    nested = manifold(real, inner)
    assert nested.precision > 0.9 and nested.recall < 0.1 and nested.coverage < 0.15 and nested.density > 0.8
    swapped = manifold(inner, real)
    assert (swapped.precision, swapped.recall) == (nested.recall, nested.precision)
    assert manifold(real, real + 100.0) == (0.0, 0.0, 0.0, 0.0)
    itself = manifold(real, real)
    assert (itself.precision, itself.recall, itself.coverage) == (1.0, 1.0, 1.0)
    # Each image lies in its own neighbourhood and, on average, in those of k - 1 others: the k-th bounds it.
    assert itself.density == pytest.approx(1.0, rel=1e-12)


def test_neighbours_and_shares_are_the_definitions_over_more_than_a_block(draw):
    real, fake = draw.normal(size=(BLOCK + 30, 3)), draw.normal(size=(50, 3)) + 0.5

    def distances(a, b):
        return ((a[:, None] - b[None]) ** 2).sum(axis=-1)

    radii = {k: np.sort(distances(real, real), axis=1)[:, k] for k in (PRECISION_K, DENSITY_K)}
    for k, found in neighbour_distances(real).items():
        np.testing.assert_allclose(found, radii[k], rtol=1e-8, atol=1e-12)
    inside = distances(real, fake) <= radii[PRECISION_K][:, None]
    near = distances(real, fake) < radii[DENSITY_K][:, None]
    found = manifold(real, fake)
    assert found.precision == inside.any(axis=0).mean() and found.coverage == near.any(axis=1).mean()
    assert found.density == near.sum() / (DENSITY_K * len(fake))
