"""How close are restored images to their originals? PSNR, and SSIM (Wang et al. 2004), for each image.

    PSNR = 10 log10(L^2 / mean((x - y)^2))
    SSIM = mean of (2 mu_x mu_y + C1) (2 cov_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (var_x + var_y + C2))

L = 255, or 65535 for images of 16 bits; C1 = (K1 L)^2, C2 = (K2 L)^2; mu, var and cov are the means, variances and
covariance of pixels under a Gaussian window.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ddpm_jax.shapes import Pixels

K1, K2 = 0.01, 0.03
SIGMA, WINDOW = 1.5, 11
"""Standard deviation and side of SSIM's window, in pixels."""
CHUNK = 2**20
"""Pixels of a set that are in memory at once, times channels, unless one image has more."""

Values = Float[np.ndarray, "batch height width channels"]


def psnr(images: Pixels, originals: Pixels) -> Float[np.ndarray, "N"]:
    """Peak signal-to-noise ratio in dB, over all pixels and channels of an image; infinite for equal images."""
    return _for_each(_psnr, images, originals)


def ssim(images: Pixels, originals: Pixels) -> Float[np.ndarray, "N"]:
    """Structural similarity, 1 for equal images: the mean over channels and over windows that lie inside the image.

    The window is 11x11, or of the largest odd side that fits into a smaller image.
    """
    return _for_each(_ssim, images, originals)


def _for_each(
    metric: Callable[[Values, Values, float], Float[np.ndarray, "batch"]], images: Pixels, originals: Pixels
) -> Float[np.ndarray, "N"]:
    """The metric of each pair, a few at a time, so that both sets may be larger than memory.

    Raises ValueError if the sets differ in shape or type.
    """
    if images.shape != originals.shape or images.dtype != originals.dtype:
        raise ValueError(
            f"images are {images.dtype}{images.shape}; expected {originals.dtype}{originals.shape}, as the originals: "
            "give one image, of the same size and depth, for each original."
        )
    top, size = float(np.iinfo(images.dtype).max), max(1, CHUNK // int(np.prod(images.shape[1:])))
    values = np.empty(len(images))
    for start in range(0, len(images), size):
        chunk = slice(start, start + size)
        values[chunk] = metric(np.asarray(images[chunk], np.float64), np.asarray(originals[chunk], np.float64), top)
    return values


def _psnr(x: Values, y: Values, top: float) -> Float[np.ndarray, "batch"]:
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(top**2 / ((x - y) ** 2).mean(axis=(1, 2, 3)))


def _ssim(x: Values, y: Values, top: float) -> Float[np.ndarray, "batch"]:
    mu_x, mu_y = _smooth(x), _smooth(y)
    variances = _smooth(x * x + y * y) - mu_x**2 - mu_y**2
    covariance = _smooth(x * y) - mu_x * mu_y
    c1, c2 = (K1 * top) ** 2, (K2 * top) ** 2
    similar = (2.0 * mu_x * mu_y + c1) * (2.0 * covariance + c2)
    return (similar / ((mu_x**2 + mu_y**2 + c1) * (variances + c2))).mean(axis=(1, 2, 3))


def _smooth(values: Values) -> Float[np.ndarray, "batch _ _ channels"]:
    """The mean under each window inside the image."""
    radius = (min(WINDOW, *values.shape[1:3]) - 1) // 2
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA) ** 2)
    window /= window.sum()
    for axis in (1, 2):
        values = np.lib.stride_tricks.sliding_window_view(values, len(window), axis) @ window
    return values
