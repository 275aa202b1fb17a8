import numpy as np
import pytest

from ddpm_jax.generation.pixel_file import PixelFile


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_images_are_read_in_order_and_an_incomplete_one_is_dropped(tmp_path, draw, kind):
    images = draw.integers(0, np.iinfo(kind).max, (7, 3, 4, 2), kind)
    store = PixelFile(tmp_path / "pixels", (3, 4, 2), kind)
    store.append(images[:4])
    store.append(images[4:])
    np.testing.assert_array_equal(store.images(), images)
    with (tmp_path / "pixels").open("ab") as file:
        file.write(b"half an image")
    again = PixelFile(tmp_path / "pixels", (3, 4, 2), kind)
    assert again.count == 7 and (tmp_path / "pixels").stat().st_size == images.nbytes
    again.truncate(5)
    again.append(images[5:])
    np.testing.assert_array_equal(PixelFile(tmp_path / "pixels", (3, 4, 2), kind).images(), images)
