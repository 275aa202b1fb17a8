import pytest

from ddpm_jax.evaluation.kid import kid, squared_mmd


def test_the_kernel_distance_equals_its_definition(draw):
    a, b = draw.normal(size=(6, 4)), draw.normal(size=(6, 4)) + 0.3

    def k(x, y):
        return (x @ y / 4 + 1.0) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6)]
    within = sum(k(x[i], x[j]) for x in (a, b) for i, j in pairs if i != j) / 30
    assert squared_mmd(a, b) == pytest.approx(within - 2 * sum(k(a[i], b[j]) for i, j in pairs) / 36, rel=1e-12)


def test_sets_from_one_distribution_have_a_kernel_distance_of_about_zero(draw):
    real, fake, far = (draw.normal(size=(600, 8)) + shift for shift in (0, 0, 0.5))
    same, deviation = kid(real, fake, subsets=20, size=200)
    assert abs(same) < 3 * deviation and kid(real, far, subsets=20, size=200).kid_mean > 10 * abs(same)
    assert kid(real, fake, subsets=3, size=10**6).kid_std == pytest.approx(0.0, abs=1e-12)  # All, each time.
