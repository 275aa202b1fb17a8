import numpy as np
import pytest
from PIL import Image

from ddpm_jax.reporting.images import GAP, grey_levels_apart, grid, save_gif, save_png, strip


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


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_images_are_shown_over_a_checkerboard(draw, channels):
    images = draw.integers(0, 256, (1, 64, 64, channels), np.uint8)
    images[..., :32, -1], images[..., 32:, -1] = 0, 255
    shown = grid(images)[GAP:-GAP, GAP:-GAP]
    assert shown.shape == (64, 64, channels - 1)
    np.testing.assert_array_equal(shown[:, 32:], images[0, :, 32:, :-1])
    light, dark = shown[:8, :8], shown[:8, 8:16]
    assert {light.min(), light.max()} != {dark.min(), dark.max()} and light.std() == dark.std() == 0
    np.testing.assert_array_equal(shown[8:16, 8:16], light)


def test_half_transparent_images_show_half_of_the_checkerboard():
    images = np.full((1, 64, 64, 2), (100, 51), np.uint8)
    board = grid(images * np.uint8(0))
    np.testing.assert_allclose(grid(images)[GAP:-GAP, GAP:-GAP], 20 + 0.8 * board[GAP:-GAP, GAP:-GAP], atol=0.51)


def test_pictures_of_16_bits_have_8():
    levels = np.arange(64, dtype=np.uint16).reshape(1, 1, 64, 1).repeat(64, axis=1)
    np.testing.assert_array_equal(grid(levels * np.uint16(257 * 4)), grid((levels * 4).astype(np.uint8)))


def test_differences_are_in_grey_levels_of_8_bits_at_any_depth(draw):
    a, b = draw.integers(0, 256, (2, 3, 8, 8, 1), np.uint8)
    assert grey_levels_apart(a.astype(np.uint16) * 257, b.astype(np.uint16) * 257) == pytest.approx(
        grey_levels_apart(a, b)
    )


def test_a_strip_shows_each_image_from_noise_to_image():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 64, 64, 1), np.uint8)
    picture = strip(frames, columns=5)
    shown = picture[GAP, GAP :: 64 + GAP, 0][:5]
    assert shown.tolist() == [0, 10, 20, 29, 39]
    assert picture.shape[0] == 2 * (64 + GAP) + GAP


def test_saved_files_hold_the_pictures(tmp_path, draw):
    colour, grey = draw.integers(0, 255, (9, 9, 3), np.uint8), draw.integers(0, 255, (9, 9, 1), np.uint8)
    deep, alpha = draw.integers(0, 2**16, (9, 9, 1), np.uint16), draw.integers(0, 255, (9, 9, 4), np.uint8)
    for picture, mode in ((colour, "RGB"), (grey, "L"), (deep, "I;16"), (alpha, "RGBA"), (alpha[..., 2:], "LA")):
        save_png(picture, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode
            np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)
    save_gif([grey, 255 - grey, grey], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3 and image.info["loop"] == 0
