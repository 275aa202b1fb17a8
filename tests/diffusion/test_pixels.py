import numpy as np
import pytest

from ddpm_jax.diffusion.pixels import from_pixels, to_pixels


@pytest.mark.parametrize("depth", [8, 16])
def test_to_pixels_undoes_from_pixels_and_clips(depth):
    levels = np.arange(2**depth, dtype=f"uint{depth}").reshape(1, -1, 16, 1)
    images = from_pixels(levels)
    assert images.dtype == np.float32 and (images.min(), images.max()) == (-1.0, 1.0)
    again = to_pixels(images, depth)
    assert again.dtype == levels.dtype
    np.testing.assert_array_equal(again, levels)
    np.testing.assert_array_equal(to_pixels(np.array([-9.0, 9.0, np.nan]), depth), [0, 2**depth - 1, 0])
