import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.manifold import BLOCK, DENSITY_K, PRECISION_K, manifold, neighbour_distances


def test_nested_fakes_have_high_precision_and_low_recall_and_distant_fakes_have_neither(draw):
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


def test_neighbours_and_metrics_equal_their_definitions_across_blocks(draw):
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


def test_sets_with_fewer_images_than_neighbours_are_refused(draw):
    with pytest.raises(UserError, match="5 images have no 5 neighbours each"):
        manifold(draw.normal(size=(5, 2)), draw.normal(size=(9, 2)))
