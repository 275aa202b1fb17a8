import numpy as np
import pytest
import scipy.linalg

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.frechet import Moments, MomentSums, frechet_distance


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
