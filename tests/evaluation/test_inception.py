"""test_against_pytorch.py compares the network with pytorch-fid's where that is installed."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax.data.decode import decode_whole
from ddpm_jax.evaluation.inception import Inception, preprocess
from ddpm_jax.evaluation.weights import read_weights

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = SHARED / "inception_2015_12_05_to_mixed_6e.safetensors"


def test_images_are_resized_as_in_pytorch():
    """Half-pixel centres, clamped at the border, no antialiasing: a ramp stays a ramp between the outer centres."""
    ramp = np.broadcast_to(np.arange(0, 250, 10, dtype=np.uint8).reshape(1, 1, 25, 1), (1, 25, 25, 3))
    row = np.asarray(preprocess(ramp))[0, 150, :, 0]
    centres = np.clip((np.arange(299) + 0.5) * 25 / 299 - 0.5, 0, 24)
    np.testing.assert_allclose(row, 2 * centres * 10 / 255 - 1, atol=1e-5)


def test_transparent_pixels_show_white_as_those_of_files(draw):
    for channels in (2, 4):
        pixels = draw.integers(0, 256, (3, 8, 8, channels), np.uint8)
        over_white = np.stack([decode_whole(image) for image in pixels])
        np.testing.assert_allclose(preprocess(pixels), preprocess(over_white), atol=2.1 / 255)


def test_16_bits_are_those_of_8_with_more_between_them():
    grey = np.arange(0, 256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(preprocess(grey.astype(np.uint16) * 257), preprocess(grey), atol=1e-6)


@pytest.mark.skipif(not REAL.exists(), reason="needs the weights in ../shared/data")
def test_features_of_the_standard_weights_are_those_of_pytorch_fid():
    reference = np.load(SHARED / "fid768_reference.npz")
    params = read_weights(REAL, 768)
    features = jax.jit(lambda p, x: Inception(768).apply({"params": p}, preprocess(x)))(params, reference["images"])
    np.testing.assert_allclose(features, reference["features"], rtol=1e-4, atol=1e-5)
