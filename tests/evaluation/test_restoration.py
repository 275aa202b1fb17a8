"""PSNR and SSIM against their formulas, written out."""

import numpy as np
import pytest

from ddpm_jax.evaluation import restoration
from ddpm_jax.evaluation.restoration import means_of, psnr, ssim

SHAPES = [(16, 13, 3), (11, 12, 1), (8, 20, 2), (3, 4, 3), (2, 6, 1)]


def random_pairs(draw, shape, depth: int = 8, count: int = 3):
    """Images, and the same with noise of a twentieth of the range."""
    top = 2**depth - 1
    originals = draw.integers(0, top + 1, (count, *shape))
    noisy = np.clip(np.round(originals + draw.normal(0, top / 20, originals.shape)), 0, top)
    return noisy.astype(f"uint{depth}"), originals.astype(f"uint{depth}")


def ssim_by_loops(x, y, top: float) -> float:
    """Wang et al. 2004, Eq. 13 to 17, of one image."""
    x, y, side = x.astype(float), y.astype(float), min(11, *x.shape[:2])
    side -= side % 2 == 0
    offsets = [i - side // 2 for i in range(side)]
    w = np.array([[np.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in offsets] for i in offsets])
    w /= w.sum()
    values = []
    for channel in range(x.shape[2]):
        for top_row in range(x.shape[0] - side + 1):
            for left in range(x.shape[1] - side + 1):
                window = (slice(top_row, top_row + side), slice(left, left + side), channel)
                a, b = x[window], y[window]
                mean_a, mean_b = (w * a).sum(), (w * b).sum()
                var_a, var_b = (w * (a - mean_a) ** 2).sum(), (w * (b - mean_b) ** 2).sum()
                covariance = (w * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
                structure = (2 * covariance + c2) / (var_a + var_b + c2)
                values.append((2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * structure)
    return float(np.mean(values))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_equals_its_formula_and_is_symmetric(draw, shape, depth):
    images, originals = random_pairs(draw, shape, depth)
    expected = [ssim_by_loops(x, y, 2**depth - 1) for x, y in zip(images, originals, strict=True)]
    np.testing.assert_allclose(ssim(images, originals), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(originals, images), expected, rtol=1e-9)


@pytest.mark.parametrize("depth", [8, 16])
def test_equal_images_have_an_ssim_of_1_and_an_infinite_psnr(draw, depth):
    _, originals = random_pairs(draw, (16, 16, 3), depth)
    np.testing.assert_allclose(ssim(originals, originals.copy()), 1.0, rtol=1e-9)
    np.testing.assert_array_equal(psnr(originals, originals.copy()), np.inf)


def test_constants_have_closed_forms():
    x, y = (np.full((1, 12, 12, 3), level, np.uint8) for level in (40, 90))
    c1 = (0.01 * 255) ** 2
    np.testing.assert_allclose(ssim(x, y), (2 * 40 * 90 + c1) / (40**2 + 90**2 + c1))
    np.testing.assert_allclose(psnr(x, y), 20 * np.log10(255 / 50))
    deep = [each.astype(np.uint16) * 257 for each in (x, y)]
    np.testing.assert_allclose(psnr(*deep), psnr(x, y))
    np.testing.assert_allclose(ssim(*deep), ssim(x, y))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_sets_larger_than_memory_are_read_in_chunks(draw, tmp_path, monkeypatch, metric):
    images, originals = random_pairs(draw, (12, 12, 3), count=7)
    whole = metric(images, originals)
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setattr(restoration, "CHUNK", 2 * 12 * 12 * 3)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(metric(mapped, originals), whole)
    assert whole.shape == (7,) and metric(images[:0], originals[:0]).shape == (0,)


def test_sets_of_other_depths_are_refused(draw):
    images, originals = random_pairs(draw, (12, 12, 3))
    with pytest.raises(ValueError, match=r"images are uint8\(3, 12, 12, 3\); expected uint16\(3, 12, 12, 3\)"):
        psnr(images, originals.astype(np.uint16))


def test_a_mean_counts_exact_images_as_100_db():
    assert means_of({"psnr": np.array([20.0, np.inf]), "ssim": np.array([0.5, 1.0])}) == {"psnr": 60.0, "ssim": 0.75}
