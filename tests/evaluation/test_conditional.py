"""Metrics of images that were generated for given conditions."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import config_of
from ddpm_jax.evaluation.conditional import baseline, consistency, restoration_metrics
from ddpm_jax.evaluation.restoration import psnr, ssim
from ddpm_jax.generation.conditions import conditions_of


def config(condition: str, **data):
    return config_of(
        {
            "data": {"image_size": (8, 16), **data},
            "model": {"condition": condition, "multipliers": (1,), "attention_resolutions": ()},
        }
    )


@pytest.fixture
def originals(draw):
    return draw.integers(0, 256, (5, 8, 16, 3), np.uint8)


def test_the_baseline_of_a_low_resolution_is_pillows_bicubic_enlargement(originals):
    conditions = conditions_of(config("low_resolution"), originals, 0)
    assert conditions.shape == (5, 2, 4, 3)
    expected = np.stack(
        [np.asarray(Image.fromarray(each).resize((16, 8), Image.Resampling.BICUBIC)) for each in conditions]
    )
    assert np.abs(baseline(config("low_resolution"), conditions).astype(int) - expected).max() <= 1


def test_the_baseline_of_grey_is_grey(originals):
    conditions = conditions_of(config("grey"), originals, 0)
    np.testing.assert_array_equal(baseline(config("grey"), conditions), conditions.repeat(3, axis=3))


def test_the_baseline_of_a_mask_has_the_known_pixels_and_their_mean_elsewhere(originals):
    conditions = conditions_of(config("mask"), originals, 0)
    painted, filled = conditions[..., -1] == 255, baseline(config("mask"), conditions)
    np.testing.assert_array_equal(filled[~painted], originals[~painted])
    for image, mask, result in zip(originals, painted, filled, strict=True):
        np.testing.assert_array_equal(
            result[mask], np.round(image[~mask].mean(axis=0))[None].repeat(mask.sum(), axis=0)
        )


@pytest.mark.parametrize(
    ("condition", "data"), [("low_resolution", {}), ("low_resolution", {"channels": 1, "depth": 16}), ("grey", {})]
)
def test_originals_are_consistent_with_their_conditions_and_other_images_less(originals, condition, data):
    one = config(condition, **data)
    images = originals[..., : one.data.channels].astype(one.data.pixel_type) * np.array(
        257 if one.data.depth == 16 else 1, one.data.pixel_type
    )
    conditions = conditions_of(one, images, 0)
    assert np.isinf(consistency(one, images, conditions)).all()
    assert (consistency(one, images[::-1].copy(), conditions)[[0, 1, 3, 4]] < 30).all()


def test_metrics_stand_beside_those_of_the_baseline(originals):
    one = config("grey")
    conditions = conditions_of(one, originals, 0)
    simple = baseline(one, conditions)
    metrics = restoration_metrics(one, originals, conditions, originals)
    assert list(metrics) == ["psnr", "ssim", "baseline_psnr", "baseline_ssim", "consistency"]
    assert np.isinf(metrics["psnr"]).all() and np.isinf(metrics["consistency"]).all()
    np.testing.assert_array_equal(metrics["ssim"], 1.0)
    np.testing.assert_array_equal(metrics["baseline_psnr"], psnr(simple, originals))
    np.testing.assert_array_equal(metrics["baseline_ssim"], ssim(simple, originals))
    masks = conditions_of(config("mask"), originals, 0)
    assert "consistency" not in restoration_metrics(config("mask"), originals, masks, originals)
