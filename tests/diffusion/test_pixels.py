import numpy as np

from ddpm_jax.diffusion.pixels import from_pixels, to_pixels


def test_to_pixels_undoes_from_pixels_and_clips():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = from_pixels(levels)
    assert images.dtype == np.float32 and (images.min(), images.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_pixels(images), levels)
    np.testing.assert_array_equal(to_pixels(np.array([-9.0, 9.0, np.nan])), [0, 255, 0])
