import numpy as np
import pytest

from ddpm_jax.evaluation.features import features_of, open_extractor
from ddpm_jax.evaluation.inception import Inception, prepared
from ddpm_jax.evaluation.statistics import compare, measure
from ddpm_jax.evaluation.weights import read_weights


def test_features_do_not_depend_on_their_batch_and_grey_is_three_colours(stem, draw):
    extractor = open_extractor("inception-64", stem)
    images = draw.integers(0, 256, (70, 12, 12, 1), dtype=np.uint8)
    features = np.concatenate([part for part, _ in features_of(extractor, images, "")])
    assert features.shape == (70, 64) and extractor.distance == "FID-64"
    one_image = Inception(64).apply({"params": read_weights(stem, 64)}, prepared(images[[69]].repeat(3, axis=-1)))
    np.testing.assert_allclose(features[69:], np.asarray(one_image), rtol=1e-4, atol=1e-6)


def test_grey_images_in_three_colours_are_one_number_a_pixel(draw):
    images = draw.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    one = measure(open_extractor("pixels", None), images, "", limit=20)
    other = measure(open_extractor("pixels", None, grey=True), np.repeat(images, 3, axis=-1), "", limit=20)
    assert compare(one, other)["fid"] == pytest.approx(0.0, abs=1e-9)
