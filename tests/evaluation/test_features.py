import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import full_name, iter_features, open_extractor
from ddpm_jax.evaluation.inception import Inception, preprocess
from ddpm_jax.evaluation.statistics import compare, measure
from ddpm_jax.evaluation.weights import read_weights


def test_features_do_not_depend_on_the_batch_and_grey_is_repeated_in_three_channels(stem, draw):
    extractor = open_extractor("inception-64", stem)
    images = draw.integers(0, 256, (70, 12, 12, 1), dtype=np.uint8)
    features = np.concatenate([batch for batch, _ in iter_features(extractor, images, "")])
    assert features.shape == (70, 64) and extractor.distance == "FID-64"
    one_image = Inception(64).apply({"params": read_weights(stem, 64)}, preprocess(images[[69]].repeat(3, axis=-1)))
    np.testing.assert_allclose(features[69:], np.asarray(one_image), rtol=1e-4, atol=1e-6)


def test_grey_pixels_stored_in_three_channels_count_once(draw):
    images = draw.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    one = measure(open_extractor("pixels", None), images, "", limit=20)
    other = measure(open_extractor("pixels", None, grey=True), np.repeat(images, 3, axis=-1), "", limit=20)
    assert compare(one, other)["fid"] == pytest.approx(0.0, abs=1e-9)


def test_coloured_images_are_refused_as_grey(draw):
    with pytest.raises(UserError, match="--grey is for grey images"):
        open_extractor("pixels", None, grey=True).extract(draw.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8))


def test_an_unknown_extractor_is_refused_with_the_nearest_name():
    assert full_name("inception") == full_name("inception-2048") == "inception-2048"
    with pytest.raises(UserError, match="Features 'inceptoin' do not exist; did you mean inception"):
        full_name("inceptoin")


def products(text: str) -> list[str]:
    """The lines of a program that multiply and sum."""
    return [line for line in text.splitlines() if "stablehlo.dot_general" in line or "stablehlo.convolution" in line]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_features_are_computed_with_the_precision_of_float32(platform, stem):
    extract = open_extractor("inception-192", stem).extract
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    lines = products(extract.func.lower(*extract.args, pixels, platform=platform).as_text())
    assert sum("convolution" in line for line in lines) == 5 and all(line.count("HIGHEST") == 2 for line in lines)


def test_on_a_cpu_features_are_computed_by_winograd(stem):
    extract = open_extractor("inception-192", stem).extract
    text = extract.func.lower(*extract.args, np.zeros((2, 32, 32, 3), np.uint8)).as_text()
    assert sum("dot_general" in line and "tensor<36x" in line for line in products(text))
