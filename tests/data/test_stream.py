"""Streamed images equal cached ones, and an unreadable image is an error."""

import numpy as np
import pytest

from ddpm_jax.data.open import open_dataset
from ddpm_jax.errors import UserError
from tests.data.pictures import config, write


def test_streamed_images_equal_cached_ones(photos):
    cached, streamed = (open_dataset(config(path=str(photos), stream=stream)) for stream in (False, True))
    assert streamed.images.shape == cached.images.shape and len(streamed.images) == 12
    for rows in (np.arange(12), np.array([[3, 3, 0], [11, 5, 7]]), np.array([], int)):
        np.testing.assert_array_equal(streamed.images[rows], cached.images[rows])
    np.testing.assert_array_equal(streamed.labels, cached.labels)


def test_an_unreadable_image_is_an_error_and_never_replaced(photos):
    write(photos / "cats" / "00broken.png", b"not an image")
    streamed = open_dataset(config(path=str(photos), stream=True))
    assert streamed.images[np.array([1, 2])].shape == (2, 8, 8, 3)
    with pytest.raises(UserError, match=r"cats/00broken.png cannot be read \(not a PNG, .*data.stream=False"):
        streamed.images[np.arange(13)]


@pytest.mark.parametrize("stream", [False, True])
def test_for_images_smaller_than_the_crop_the_remedy_is_a_smaller_crop(photos, stream):
    with pytest.raises(UserError) as caught:
        open_dataset(config(path=str(photos), crop=[40], stream=stream)).images[np.arange(2)]
    message = str(caught.value)
    assert "data.crop=(40,) needs images of at least 40x40, got 14x10" in message and "remove" not in message
    assert message.endswith("choose a smaller data.crop.")
