import numpy as np
import pytest
import scipy.linalg

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.frechet import Moments, MomentSums, frechet_distance


def gaussian(mean, covariance) -> Moments:
    return Moments(10**6, np.asarray(mean, float), np.asarray(covariance, float))


def moments_of(features, size: int = 7) -> Moments:
    sums = MomentSums()
    for start in range(0, len(features), size):
        sums.add(features[start : start + size])
    return sums.moments()


def test_moments_accumulated_over_batches_are_those_of_all_features(draw):
    features = (draw.normal(size=(100, 5)) * 1e-3 + 1e4).astype(np.float32)
    moments = moments_of(features)
    np.testing.assert_allclose(moments.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features.T.astype(np.float64)), rtol=1e-8, atol=1e-15)
    assert moments.images == 100


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_isotropic_gaussians_have_the_distance_of_the_closed_form(scale):
    a, b = gaussian(np.zeros(6), np.eye(6)), gaussian(np.full(6, 2.0), scale**2 * np.eye(6))
    assert frechet_distance(a, b) == pytest.approx(6 * 4.0 + 6 * (1.0 - scale) ** 2, rel=1e-12)


def test_the_distance_equals_the_formula_with_a_matrix_square_root(draw):
    a, b = (moments_of(draw.normal(size=(200, 12)) @ draw.normal(size=(12, 12))) for _ in range(2))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    shift = ((a.mean - b.mean) ** 2).sum()
    expected = shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_with_singular_covariances_a_set_has_distance_zero_to_itself_and_the_squared_shift_to_its_shift(draw):
    features = draw.normal(size=(10, 40))  # Fewer images than dimensions.
    a, shifted = moments_of(features), moments_of(features + 0.5)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(a, shifted) == pytest.approx(40 * 0.25, rel=1e-6)


def test_features_that_are_not_finite_or_differ_in_dimensions_are_refused():
    with pytest.raises(UserError, match="A feature is not finite"):
        moments_of(np.array([[1.0, np.nan]]))
    with pytest.raises(UserError, match="features of 3 and 2 dimensions cannot be compared"):
        frechet_distance(gaussian(np.zeros(3), np.eye(3)), gaussian(np.zeros(2), np.eye(2)))
