import numpy as np

from ddpm_jax.diffusion.pixels import to_pixels


def test_pixels_undo_the_scaling_of_images_and_clip():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_pixels(levels.astype(np.float32) / 127.5 - 1.0), levels)
    np.testing.assert_array_equal(to_pixels(np.array([-9.0, 9.0, np.nan])), [0, 255, 0])
