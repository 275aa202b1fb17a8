import numpy as np

from ddpm_jax.data.sources.synthetic import draw_discs


def test_discs_are_reproducible_and_their_class_is_their_height():
    discs = draw_discs(64, (16, 16), 3, classes=2)
    assert discs.decoded.shape == (64, 16, 16, 3) and discs.annotations.class_names == ("band 0", "band 1")
    rows = discs.decoded.astype(float).mean(axis=(2, 3))
    heights = (rows * np.arange(16)).sum(axis=1) / rows.sum(axis=1)
    classes = discs.annotations.classes
    assert heights[classes == 0].mean() < heights[classes == 1].mean()
    np.testing.assert_array_equal(discs.decoded, draw_discs(64, (16, 16), 3, classes=2).decoded)


def test_an_odd_number_of_attributes_makes_discs_smaller():
    discs = draw_discs(64, (32, 32), 1, attributes=("a", "b"))
    areas = (discs.decoded > 100).sum(axis=(1, 2, 3))
    odd = discs.annotations.attributes.sum(axis=1) % 2 == 1
    assert areas[odd].mean() < 0.5 * areas[~odd].mean()
