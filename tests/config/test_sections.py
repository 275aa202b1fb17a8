import pytest

from ddpm_jax.config import config_of


def test_the_image_shape_is_height_width_and_channels():
    assert config_of({"data": {"image_size": 16, "channels": 1}}).image_shape == (16, 16, 1)


@pytest.mark.parametrize(("model", "width"), [({}, 0), ({"classes": 3}, 3), ({"attributes": 2}, 2)])
def test_the_label_width_is_the_number_of_classes_or_attributes(model, width):
    assert config_of({"model": model}).label_width == width
