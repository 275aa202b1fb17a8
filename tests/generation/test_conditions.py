import numpy as np
import pytest

from ddpm_jax.config import config_of
from ddpm_jax.diffusion.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.generation.conditions import conditions_of, given_conditions, shown_conditions, with_known_pixels


def config_with(condition, **data):
    size = {"image_size": [8, 12], "channels": 3, **data}
    return config_of({"data": size, "model": {"condition": condition, "attention_resolutions": [], "multipliers": [1]}})


SHRUNK, GREY, MASKED = (config_with(kind) for kind in ("low_resolution", "grey", "mask"))
MASK = np.zeros((1, 8, 12, 1), np.uint8)
MASK[:, 2:5, 3:] = 255


@pytest.fixture
def images(draw):
    return draw.integers(0, 256, (3, 8, 12, 3), np.uint8)


@pytest.mark.parametrize(
    ("config", "condition", "message"),
    [
        (config_with("none"), np.zeros((1, 8, 12, 3), np.uint8), "this one has model.condition='none'"),
        (SHRUNK, None, "needs a condition, 'low_resolution'; give condition=…, an array \\[N, 2, 3, 3\\]"),
        (SHRUNK, np.zeros((1, 8, 12, 3), np.uint8), "is uint8 \\[1, 8, 12, 3\\]; expected uint8 \\[N, 2, 3, 3\\]"),
        (SHRUNK, np.zeros((1, 2, 3, 3), np.float32), "is float32 \\[1, 2, 3, 3\\]; expected uint8"),
        (SHRUNK, np.zeros((0, 2, 3, 3), np.uint8), "N from 1"),
        (SHRUNK, np.zeros((5, 2, 3, 3), np.uint8), "holds 5 images for 4 samples; expected as many or fewer"),
        (GREY, np.zeros((1, 8, 12, 3), np.uint8), "expected uint8 \\[N, 8, 12, 1\\]"),
        (MASKED, np.zeros((1, 8, 12, 4), np.uint8), "mask of condition 0 paints nothing"),
        (MASKED, np.full((2, 8, 12, 4), 255, np.uint8), "mask of condition 0 paints everything"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(config, condition, message):
    with pytest.raises(UserError, match=message):
        given_conditions(config, condition, 4)


def test_conditions_are_used_in_turn(images):
    low = images[:, :2, :3]
    np.testing.assert_array_equal(given_conditions(SHRUNK, low, 5), low[[0, 1, 2, 0, 1]])
    assert given_conditions(config_with("none"), None, 5) is None


def test_conditions_of_originals_depend_on_the_seed_and_the_index_alone(images):
    whole = conditions_of(MASKED, images, seed=4)
    np.testing.assert_array_equal(whole[..., :3], images)
    np.testing.assert_array_equal(conditions_of(MASKED, images[1:], seed=4, first=1), whole[1:])
    assert (conditions_of(MASKED, images, seed=5)[..., 3] != whole[..., 3]).any()
    assert set(np.unique(whole[..., 3])) == {0, 255}


@pytest.mark.parametrize("depth", [8, 16])
def test_known_pixels_keep_their_bits_and_painted_ones_are_samples(draw, depth):
    config = config_with("mask", channels=1, depth=depth)
    pixels = draw.integers(0, 2**depth, (3, 8, 12, 1), config.data.pixel_type)
    masks = np.where(np.broadcast_to(MASK, pixels.shape) > 0, np.iinfo(pixels.dtype).max, 0).astype(pixels.dtype)
    samples = draw.normal(size=(3, 8, 12, 1)).astype(np.float32)
    pasted = with_known_pixels(config, samples, np.concatenate([pixels, masks], axis=-1))
    expected = np.where(masks > 0, to_pixels(samples, depth), pixels)
    np.testing.assert_array_equal(to_pixels(pasted, depth), expected)
    np.testing.assert_array_equal(with_known_pixels(SHRUNK, samples, pixels[:, :2, :3]), samples)


def test_shown_conditions_have_the_size_of_the_images_and_hide_what_is_masked(images):
    low, grey = images[:, :2, :3], images[..., :1]
    np.testing.assert_array_equal(shown_conditions(SHRUNK, low), low.repeat(4, axis=1).repeat(4, axis=2))
    np.testing.assert_array_equal(shown_conditions(GREY, grey), grey.repeat(3, axis=3))
    masked = np.concatenate([images, np.broadcast_to(MASK, (3, 8, 12, 1))], axis=-1)
    np.testing.assert_array_equal(shown_conditions(MASKED, masked), np.where(MASK > 0, 127, images))
