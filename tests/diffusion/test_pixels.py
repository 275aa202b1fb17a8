import jax
import numpy as np
import pytest

from ddpm_jax.diffusion.pixels import from_pixels, on_pixel_grid, to_pixels


@pytest.mark.parametrize("depth", [8, 16])
def test_to_pixels_undoes_from_pixels_and_clips(depth):
    levels = np.arange(2**depth, dtype=f"uint{depth}").reshape(1, -1, 16, 1)
    images = from_pixels(levels)
    assert images.dtype == np.float32 and (images.min(), images.max()) == (-1.0, 1.0)
    again = to_pixels(images, depth)
    assert again.dtype == levels.dtype
    np.testing.assert_array_equal(again, levels)
    np.testing.assert_array_equal(to_pixels(np.array([-9.0, 9.0, np.nan]), depth), [0, 2**depth - 1, 0])


@pytest.mark.parametrize("depth", [8, 16])
def test_the_pixel_grid_holds_what_a_file_gives_back(depth, draw):
    """Also half-way between two levels and next to it, beyond the range, and when compiled."""
    middles = ((np.arange(2**depth) + 0.5) * 2 / (2**depth - 1) - 1).astype(np.float32)
    special = np.array([-np.inf, -9.0, -0.0, 1.0, 9.0, np.inf, np.nan], np.float32)
    near = [np.nextafter(middles, np.float32(side)) for side in (-2.0, 2.0)]
    values = np.concatenate([middles, *near, special, draw.normal(size=1000).astype(np.float32)])
    images = values.reshape(1, -1, 1, 1)
    expected = from_pixels(to_pixels(images, depth))
    for on_grid in (on_pixel_grid, jax.jit(on_pixel_grid, static_argnums=1)):
        np.testing.assert_array_equal(on_grid(images, depth), expected)
    np.testing.assert_array_equal(on_pixel_grid(expected, depth), expected)
