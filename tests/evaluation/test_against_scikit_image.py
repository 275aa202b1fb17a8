"""PSNR and SSIM against scikit-image's; skipped without requirements-peers-fid.txt."""

import numpy as np
import pytest

from ddpm_jax.evaluation.restoration import psnr, ssim

metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image: pip install -r requirements-peers-fid.txt")

WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
"""The window of Wang et al. 2004."""


def test_psnr_and_ssim_equal_scikit_image(draw):
    originals = draw.integers(0, 256, (3, 24, 33, 3))
    noisy = np.clip(np.round(originals + draw.normal(0, 13, originals.shape)), 0, 255)
    images, originals = noisy.astype(np.uint8), originals.astype(np.uint8)
    pairs = list(zip(images, originals, strict=True))
    expected = [metrics.peak_signal_noise_ratio(y, x, data_range=255) for x, y in pairs]
    np.testing.assert_allclose(psnr(images, originals), expected, rtol=1e-9)
    expected = [metrics.structural_similarity(x, y, data_range=255, channel_axis=-1, **WINDOW) for x, y in pairs]
    np.testing.assert_allclose(ssim(images, originals), expected, rtol=1e-9)
