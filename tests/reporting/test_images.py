import numpy as np
import pytest
from PIL import Image

from ddpm_jax.reporting.images import GAP, grid, save_gif, save_png, strip


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 3, 2), (9, 3, 3)])
def test_a_grid_holds_each_image_in_its_place(draw, count, columns, rows):
    images = draw.integers(0, 255, (count, 64, 64, 3), np.uint8)
    picture = grid(images)
    assert picture.shape == (rows * (64 + GAP) + GAP, columns * (64 + GAP) + GAP, 3)
    for i in range(count):
        top, left = GAP + i // columns * (64 + GAP), GAP + i % columns * (64 + GAP)
        np.testing.assert_array_equal(picture[top : top + 64, left : left + 64], images[i])


def test_small_images_are_enlarged():
    assert grid(np.zeros((1, 8, 8, 1), np.uint8)).shape == (64 + 2 * GAP, 64 + 2 * GAP, 1)


def test_a_strip_shows_each_image_from_noise_to_image():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 64, 64, 1), np.uint8)
    picture = strip(frames, columns=5)
    shown = picture[GAP, GAP :: 64 + GAP, 0][:5]
    assert shown.tolist() == [0, 10, 20, 29, 39]
    assert picture.shape[0] == 2 * (64 + GAP) + GAP


def test_saved_files_hold_the_pictures(tmp_path, draw):
    colour, grey = draw.integers(0, 255, (9, 9, 3), np.uint8), draw.integers(0, 255, (9, 9, 1), np.uint8)
    for picture, mode in ((colour, "RGB"), (grey, "L")):
        save_png(picture, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode
            np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)
    save_gif([grey, 255 - grey, grey], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3 and image.info["loop"] == 0
